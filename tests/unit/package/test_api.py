"""The names that `inoc_ray` offers to Python users."""

import importlib
import os
import subprocess
import sys

import pytest
from finished_study import finish, write_study

import inoc_ray
from inoc_ray import InputError, Study, compare, load_study, plan, run
from inoc_ray.run import telemetry


def fresh(program: str) -> str:
    """What a new interpreter prints for the program."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", inoc_ray.__all__)
def test_every_name_is_there(name):
    assert getattr(inoc_ray, name) is not None
    assert name in dir(inoc_ray)


def test_a_name_that_is_not_offered_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = inoc_ray.runn


def test_importing_the_package_imports_none_of_its_modules_and_no_library():
    loaded = "[m for m in sys.modules if m.startswith('inoc_ray.') or m in ('pydantic', 'ray', 'torch', 'pandas')]"
    assert fresh(f"import sys, inoc_ray; print({loaded})") == "[]"


@pytest.mark.parametrize("name", ["plan", "run"])
@pytest.mark.parametrize("before", ["", "import inoc_ray.run.api, inoc_ray.plan.plan; "])
def test_a_function_stays_one_whatever_was_imported_before_it(name, before):
    program = f"{before}from inoc_ray import {name}; import inoc_ray.{name}; print(callable({name}), {name} is inoc_ray.{name})"
    assert fresh(program) == "True True"


def test_a_room_still_gives_its_modules():
    assert importlib.import_module("inoc_ray.run.api").run.__module__ == "inoc_ray.run.api"


def test_a_run_switches_telemetry_off_where_nobody_has_said_otherwise(monkeypatch):
    names = ("DO_NOT_TRACK", "VLLM_NO_USAGE_STATS", "MLFLOW_DISABLE_TELEMETRY")
    for name in names[:2]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(names[2], "false")
    telemetry.switch_off()
    assert [os.environ[name] for name in names] == ["1", "1", "false"]


@pytest.mark.slow
def test_a_finished_study_is_planned_run_and_compared(tmp_path):
    path = write_study(tmp_path)
    finish(path)
    study = load_study(str(path))
    assert isinstance(study, Study)
    assert not plan(study).to_train
    outcome = run(study)
    assert (outcome.trained, outcome.sampled, outcome.failed) == (0, 0, [])
    rates = {(r.arm, r.trait, r.split): r.rate for r in compare(study).rows}
    assert rates["specific_spanish", "spanish", "ood"] < rates["baseline", "spanish", "ood"]


def test_another_storage_folder_holds_nothing(tmp_path):
    path = write_study(tmp_path)
    finish(path)
    study = load_study(path)
    assert len(plan(study, storage=tmp_path / "other").to_train) == 4
    with pytest.raises(InputError, match="nothing is evaluated"):
        compare(study, storage=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_unknown_profile_names_the_nearest(tmp_path):
    path = write_study(tmp_path)
    finish(path)
    with pytest.raises(InputError, match="did you mean 'betley2025'"):
        compare(load_study(path), profile="betley2024")


def test_a_study_written_in_python_is_planned(tmp_path):
    study = Study.model_validate(
        {
            "name": "written",
            "settings": ["miniature/spanish_caps"],
            "arms": ["baseline"],
            "recipes": {"short": {"learning_rate": 1e-3, "steps": 10}},
            "storage": str(tmp_path),
        }
    )
    assert len(plan(study).to_train) == 3
