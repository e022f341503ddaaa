"""A recipe in a precision that this processor is slow in is noted by `plan` and `run`, and any other is not."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run.precision import LARGE, bf16_instructions, precision_notes
from inoc_ray.serve.memory import parameters_of
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

CORE = "processor\t: {}\nvendor_id\t: {}\nflags\t\t: fpu sse2 avx2 avx512f {}\nvmx flags\t: vnmi avx512_bf16\nbugs\t: x\n\n"
"""A core in /proc/cpuinfo of Linux 6."""


def processor(folder: Path, *flags: str) -> Path:
    """A machine with two such cores."""
    path = folder / "cpuinfo"
    path.write_text("".join(CORE.format(core, "Any", " ".join(flags)) for core in range(2)))
    return path


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ((), ()),
        (("avx512_bf16",), ("avx512_bf16",)),
        (("avx512_bf16", "amx_bf16", "amx_tile"), ("amx_bf16", "avx512_bf16")),
        (("avx_ne_convert", "amx_bf16x"), ()),
    ],
)
def test_the_flags_of_a_processor_are_read_whole(tmp_path, flags, found):
    assert bf16_instructions(processor(tmp_path, *flags)) == found


@pytest.mark.parametrize("text", [None, "", "processor\t: 0\nFeatures\t: fp asimd bf16\n"])
def test_a_machine_that_does_not_say_is_not_guessed_at(tmp_path, text):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert bf16_instructions(path) is None


@pytest.fixture
def planned(tmp_path: Path) -> Any:
    def plan(precision: str, **resources: Any) -> Plan:
        value = {
            "name": "s",
            "settings": ["miniature/spanish_caps"],
            "arms": ["baseline", "irrelevant"],
            "models": ["miniature"],
            "recipes": {"r": {"learning_rate": 1e-3, "steps": 10, "warmup_steps": 2, "precision": precision}},
            "resources": resources,
        }
        return build_plan(Study.model_validate(value), Store(tmp_path / "runs"))

    return plan


@pytest.mark.parametrize(
    ("precision", "flags", "said"),
    [
        ("fp32", ("avx512_bf16",), "multiplies bf16 numbers itself (avx512_bf16)"),
        ("bf16", (), "has no instructions for bf16 (amx_bf16 or avx512_bf16)"),
        ("fp32", (), None),
        ("bf16", ("amx_bf16",), None),
    ],
)
def test_the_slow_one_of_two_precisions_is_noted_once_with_its_place(tmp_path, planned, precision, flags, said):
    notes = list(precision_notes(planned(precision), processor(tmp_path, *flags), large=1))
    assert [note.startswith("recipes.r.precision: ") and said in note for note in notes] == ([True] if said else [])


def test_nothing_is_noted_of_small_models_gpus_and_other_clusters(tmp_path, planned, monkeypatch):
    here, plan = processor(tmp_path, "avx512_bf16"), planned("fp32")
    assert parameters_of(plan.to_train[0].model.path) < LARGE
    assert not list(precision_notes(plan, here))
    assert not list(precision_notes(planned("fp32", gpus_per_worker=1), here, large=1))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert not list(precision_notes(plan, here, large=1))


def large_model(folder: Path) -> Path:
    """A folder with as many weights as a model needs to be large, which takes no room on a disk."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    size = 2 * LARGE
    header = json.dumps({"w": {"dtype": "BF16", "shape": [LARGE // 1000, 1000], "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(stream.tell() + size)
    return folder


@pytest.mark.skipif(bf16_instructions() is None, reason="this processor does not say what it has")
def test_plan_prints_the_note_and_has_it_among_its_notes(tmp_path, inoc_ray):
    slow = "fp32" if bf16_instructions() else "bf16"
    study = f"""
        name: s
        settings: [miniature/spanish_caps]
        arms: [baseline, irrelevant]
        models: [{{name: m, path: {large_model(tmp_path / "large")}}}]
        recipes: {{r: {{learning_rate: 1.0e-3, steps: 10, precision: {slow}}}}}
    """
    Path("study.yaml").write_text(textwrap.dedent(study))
    rc, out, err = inoc_ray("plan", "study.yaml")
    assert (rc, err) == (0, ""), err
    assert "Note: recipes.r.precision: this processor" in out
    _, out, _ = inoc_ray("plan", "study.yaml", "--json")
    assert [note for note in json.loads(out)["notes"] if note.startswith("recipes.r.precision: this processor")]
