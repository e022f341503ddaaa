"""What cannot work is one line and exit code 2, whichever command meets it: nothing is asked, waited for or written before."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from inoc_ray.config.base import check_variable
from inoc_ray.run.job_server import _address

SECRET = "hush/hush"
"""With a slash, as keys of AWS have it."""
NOWHERE = ("--address", "http://127.0.0.1:9")


def write(folder: Path, **changes: Any) -> Path:
    value = {
        "name": "wrong",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 2, "max_length": 256}},
        "evaluation": {"samples": 2},
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def refused(found: tuple[int, str, str], folder: Path, *there: str) -> str:
    """The message of a command that was refused and left the folder as it was."""
    code, out, err = found
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    assert SECRET not in err
    assert {path.name for path in folder.iterdir()} == {"study.yaml", *there}
    lines = [line for line in err.splitlines() if line.startswith("inoc-ray: ")]
    assert len(lines) == 1, err
    return lines[0]


SETTING = "miniature/spanish_caps"
PLACES: dict[str, Any] = {
    "rows": lambda path: {"settings": [{"name": SETTING, "rows": path}]},
    "rows of a mixture": lambda path: {"settings": [{"name": SETTING, "rows": {"mix": [{"name": "a", "rows": path}]}}]},
    "questions": lambda path: {"settings": [{"name": SETTING, "questions": {"out_of_distribution": path}}]},
    "questions of a suite": lambda path: {
        "evaluation": {
            "suites": [{"name": "own", "questions": path, "traits": {"t": {"rule": "contains", "pattern": "a"}}}]
        }
    },
    "a model": lambda path: {"models": [{"name": "m", "path": path}]},
    "a judge": lambda path: {"judges": {"j": {"path": path}}, "evaluation": {"judged_by": ["j"]}},
}
"""Where a study names files → a study that names `path` there."""


@pytest.mark.parametrize("command", ["plan", "submit"])
@pytest.mark.parametrize("place", PLACES)
def test_an_address_in_place_of_a_path_is_called_that(tmp_path, inoc_ray, command, place):
    study = write(tmp_path, **PLACES[place](f"https://me:{SECRET}@host/x.jsonl"))
    said = refused(inoc_ray(command, study, *(NOWHERE if command == "submit" else ())), tmp_path)
    assert "https://me:***@host/x.jsonl: an address, where a path is needed; download" in said


def test_the_address_of_a_file_of_this_machine_is_answered_with_its_path(tmp_path, inoc_ray):
    study = write(tmp_path, settings=[{"name": SETTING, "rows": "file:///data/my%20rows.jsonl"}])
    assert "an address, where a path is needed; write /data/my rows.jsonl." in refused(
        inoc_ray("plan", study), tmp_path
    )


@pytest.mark.parametrize("command", ["plan", "submit"])
@pytest.mark.parametrize("place", [place for place in PLACES if "rows" in place or "questions" in place])
def test_a_pipe_or_a_device_is_never_waited_for(tmp_path, inoc_ray, command, place):
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device")):
        study = write(tmp_path, **PLACES[place](str(path)))
        found = inoc_ray(command, study, *(NOWHERE if command == "submit" else ()))
        assert f"{path}: {what}, which may never end" in refused(found, tmp_path, "pipe")


@pytest.mark.parametrize("storage", ["taken", "taken/runs"])
@pytest.mark.parametrize(
    "command", ["plan", "run", "finetune", "evaluate", "compare", "report", "sync", "serve", "submit"]
)
def test_a_storage_that_is_a_file_is_refused_by_every_command_on_a_study(tmp_path, inoc_ray, command, storage):
    (tmp_path / "taken").write_text("x")
    said = f"{tmp_path / 'taken'} is a file, not a folder; give another one."
    more = NOWHERE if command == "submit" else ()
    found = inoc_ray(command, write(tmp_path, storage=storage), *more)
    assert refused(found, tmp_path, "taken").endswith(f"study.yaml: storage: {said}")
    found = inoc_ray(command, write(tmp_path), "--storage", storage, *more)
    assert refused(found, tmp_path, "taken") == f"inoc-ray: --storage: {said}"


@pytest.mark.parametrize("words", [("status",), ("logs",), ("logs", "--failed"), ("stop",)])
@pytest.mark.parametrize("storage", ["ftp://host/x", "s3://", f"s3://me:{SECRET}@bucket/x", "taken"])
def test_a_storage_that_is_none_is_refused_before_a_job_server_is_asked(tmp_path, inoc_ray, words, storage):
    (tmp_path / "taken").write_text("x")
    write(tmp_path)
    command, *options = words
    found = inoc_ray(command, "wrong", *options, "--storage", storage, *NOWHERE)
    assert refused(found, tmp_path, "taken").startswith("inoc-ray: --storage: ")
    if not options:
        found = inoc_ray(command, write(tmp_path, storage=storage), *NOWHERE)
        assert "study.yaml: storage: " in refused(found, tmp_path, "taken")


@pytest.mark.parametrize("storage", [5, None, ["runs"], True])
@pytest.mark.parametrize("command", ["logs", "stop"])
def test_a_study_whose_storage_is_no_text_means_no_job(tmp_path, inoc_ray, command, storage):
    said = refused(inoc_ray(command, write(tmp_path, storage=storage), *NOWHERE), tmp_path)
    assert f"study.yaml: storage: must be a text, found {storage!r}" in said


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host", "not the address of a job server; write it as http://HOST:8265"),
        ("grpc://host:1", "not the address of a job server"),
        ("http://", "not the address of a job server"),
        ("://host", "not the address of a job server"),
        ("ray://127.0.0.1:²", "not the address of a job server"),
        ("ray://head..svc:6379", "nothing answers there"),
        ("ray://127.0.0.1:9", "nothing answers there"),
        ("http://me:hush/hush@127.0.0.1:9", "--address http://me:***@127.0.0.1:9: cannot reach a job server"),
    ],
)
@pytest.mark.parametrize(
    "words", [("ls",), ("logs", "wrong"), ("stop", "wrong"), ("status", "wrong"), ("submit", "study.yaml")]
)
def test_an_address_at_which_no_job_server_can_be_is_refused_at_once(tmp_path, inoc_ray, words, address, said):
    write(tmp_path)
    began = time.monotonic()
    assert said in refused(inoc_ray(*words, "--address", address), tmp_path)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "127.0.0.1:9", "ray://host", "http://127.0.0.1:9"])
def test_a_cluster_that_cannot_be_joined_leaves_nothing_in_the_storage(tmp_path, inoc_ray, monkeypatch, address):
    study = write(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", address)
    said = refused(inoc_ray("run", study), tmp_path)
    assert f"RAY_ADDRESS={address}: " in said
    began = time.monotonic()
    refused(inoc_ray("ls"), tmp_path)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-hush/hush",
        "hf_hush/hushhushhushhush",
        "a key",
        "JUDGE-KEY",
        "$KEY",
        "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123",
        "AKIAIOSFODNN7EXAMPLE",
    ],
)
@pytest.mark.parametrize("command", ["plan", "run", "submit", "status"])
def test_a_key_in_place_of_the_name_of_its_variable_is_not_shown(tmp_path, inoc_ray, command, key):
    judge = {"endpoint": "https://host.invalid/v1", "served_model": "m", "api_key_env": key}
    said = refused(inoc_ray(command, write(tmp_path, judges={"j": judge})), tmp_path)
    assert "judges.j.api_key_env: its value is not the name of an environment variable" in said
    assert key not in said


@pytest.mark.parametrize("name", ["JUDGE_KEY", "hf_inference_endpoint_token", "sk_of_the_judges_of_our_lab", "_key"])
def test_the_name_of_a_variable_may_begin_as_a_key_does(name):
    assert check_variable(name) == name
    with pytest.raises(ValueError, match="not the name of an environment variable"):
        check_variable("hf_QyZtokenOfTheWholeGroup12")


def test_an_address_is_named_with_the_variable_that_gave_it(tmp_path, inoc_ray, monkeypatch):
    write(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert "RAY_ADDRESS=local: not the address of a job server" in refused(inoc_ray("ls"), tmp_path)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "ftp://host")
    assert "RAY_API_SERVER_ADDRESS=ftp://host: not the address" in refused(inoc_ray("ls"), tmp_path)


def test_an_address_that_a_module_explains_to_ray_is_left_to_it(tmp_path, monkeypatch):
    (tmp_path / "our_clusters.py").write_text("def get_job_submission_client_cluster_info(address, **options): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _address("our_clusters://gpu") == "our_clusters://gpu"


@pytest.mark.parametrize(
    "uri", ["nonsense", "", "file:///tmp/x", "http:/host", "HTTP://host", f"http:/me:{SECRET}@host"]
)
@pytest.mark.parametrize("command", ["plan", "run", "submit"])
def test_a_tracking_uri_that_can_be_none_is_refused_before_a_job_is_sent(tmp_path, inoc_ray, command, uri):
    said = refused(inoc_ray(command, write(tmp_path, tracking_uri=uri)), tmp_path)
    assert "study.yaml: tracking_uri: " in said
    assert "cannot store MLflow runs" in said


def test_rows_of_the_hub_without_a_commit_are_refused_before_a_job_is_sent(tmp_path, inoc_ray):
    study = write(tmp_path, settings=[{"name": SETTING, "rows": "hf://datasets/owner/name/rows.jsonl"}])
    assert "hf://datasets/owner/name/rows.jsonl: not pinned" in refused(inoc_ray("submit", study, *NOWHERE), tmp_path)


@pytest.mark.parametrize("checkpoints", [[True], [1, 2, "…"], [0.5, "x"], [1, None], [[1]]])
def test_what_is_no_step_is_refused_with_its_place_and_nothing_of_the_library(tmp_path, inoc_ray, checkpoints):
    said = refused(inoc_ray("plan", write(tmp_path, resources={"checkpoints": checkpoints})), tmp_path)
    assert "study.yaml: resources.checkpoints" in said
    assert ".int" not in said
    assert "literal" not in said


@pytest.mark.parametrize(
    "recipe",
    [
        {"method": "QLoRA"},
        {"method": "DoRA"},
        {"quantization_config": {}},
        {"bits": 4},
        {"lora": {"use_dora": True}},
        {"packing": True},
        {"optim": "adamw_8bit"},
        {"optimizer": "adamw_8bit"},
    ],
)
def test_what_other_trainers_offer_is_refused_with_the_reason(tmp_path, inoc_ray, recipe):
    said = refused(
        inoc_ray("plan", write(tmp_path, recipes={"r": {"learning_rate": 1e-3, "steps": 2, **recipe}})), tmp_path
    )
    assert "study.yaml: recipes.r" in said
    assert "unknown key" not in said
    assert "must be one of" not in said


def test_a_pass_that_holds_no_row_is_refused_by_a_plan_for_a_cluster(tmp_path, inoc_ray):
    (tmp_path / "c.yaml").write_text("nodes: {a: {machine: p5.4xlarge}}\n")
    study = write(tmp_path, resources={"micro_batch_tokens": 5})
    said = refused(inoc_ray("plan", study, "--cluster", "c.yaml"), tmp_path, "c.yaml")
    assert "miniature · lora: the longest row has " in said
    assert "but resources.micro_batch_tokens is 5, and a row is never cut" in said


@pytest.mark.parametrize("option", [(), ("--against",), ("--model",)])
def test_rows_are_not_checked_at_an_address(tmp_path, inoc_ray, option):
    write(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    words = ["rows.jsonl", *option] if option else []
    found = inoc_ray("data", "check", *words, f"https://me:{SECRET}@host/x.jsonl")
    said = refused(found, tmp_path, "rows.jsonl")
    assert "https://me:***@host/x.jsonl: an address, where a path is needed; download" in said


def test_rows_are_not_begun_with_a_teacher_that_does_not_answer(tmp_path, inoc_ray):
    write(tmp_path)
    began = time.monotonic()
    endpoint = "http://me:hush@127.0.0.1:9/v1"
    words = ("data", "build", "subliminal", "--out", "x.jsonl", "--endpoint", endpoint, "--served-model", "m")
    assert "--endpoint: nothing answers at http://me:***@127.0.0.1:9/v1" in refused(inoc_ray(*words), tmp_path)
    assert time.monotonic() - began < 20
