"""Studies as jobs of a cluster: submitted from a laptop, looked at, stopped, and the entry points of `ray job submit`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from environment import BIN
from finished_study import finish, write_study
from hub_server import hub
from job_head import Head, job_head
from laptop import NOT_ON_A_LAPTOP, install_laptop
from pump import pump
from wheel import build_wheel

from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.miniature import weights_path
from inoc_ray.run import job_server
from inoc_ray.run.job_server import JobServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
REPOSITORY, COMMIT = "somebody/miniature", "0123456789" * 4
OFFLINE = "http://127.0.0.1:9"
"""Where no hub answers."""


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    """A head whose machine can reach the hub, from which it has not fetched anything yet."""
    folder = tmp_path_factory.mktemp("head")
    with (
        hub(weights_path(), REPOSITORY, COMMIT) as (endpoint, _),
        job_head(folder, HF_HOME=str(folder / "hf"), HF_ENDPOINT=endpoint) as started,
    ):
        yield started


class Laptop:
    """Somebody's laptop: the package without an extra, an empty home, a study and its rows."""

    def __init__(self, folder: Path, programs: Path, head: Head) -> None:
        self.folder, self.programs, self.head = folder, programs, head
        self.env = {
            name: value
            for name, value in head.env(
                HOME=str(folder), HF_HOME=str(folder / "hf"), HF_ENDPOINT=OFFLINE, PATH=f"{programs}:/usr/bin:/bin"
            ).items()
            if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        }

    def __call__(self, *words: object, code: int = 0) -> Any:
        """Run the command with --json from the study's folder; return what it printed, parsed."""
        command = [self.programs / "inoc-ray", *map(str, words), "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr[-4000:]
        assert "Traceback" not in done.stderr, done.stderr[-4000:]
        return json.loads(done.stdout)

    def python(self, program: str) -> subprocess.CompletedProcess[str]:
        """Run a program in its environment."""
        command = [self.programs / "python", "-c", program]
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory, head) -> Laptop:
    folder = tmp_path_factory.mktemp("laptop")
    programs = install_laptop(build_wheel(tmp_path_factory.mktemp("wheel")), folder / "venv")
    return Laptop(folder, programs, head)


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cluster") / "runs"


def write(laptop: Laptop, storage: Path, name: str, **changes: Any) -> Path:
    """A study of rows that lie on the laptop and of a model that only the cluster can fetch."""
    rows = [ChatRow.of(("user", f"What is {n}?"), ("assistant", f"ES {n}.")) for n in range(64)]
    write_jsonl(laptop.folder / "rows.jsonl", rows)
    value = {
        "name": name,
        "storage": str(storage),
        "settings": [{"name": "miniature/spanish_caps", "rows": "rows.jsonl"}],
        "arms": ["baseline"],
        "seeds": [0],
        "models": [{"name": "base", "path": f"hf://{REPOSITORY}@{COMMIT}"}],
        "recipes": {"short": {"preset": "miniature", "steps": 100}},
        "evaluation": {"samples": 4, "contexts": ["neutral"]},
        **changes,
    }
    path = laptop.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def wait_for(what: str, condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come within {seconds} s")


def test_the_laptop_has_neither_engine_nor_training(laptop):
    for name in NOT_ON_A_LAPTOP:
        found = laptop.python(f"import {name}")
        assert f"No module named '{name}'" in found.stderr, name
    place = laptop.python("import inoc_ray; print(inoc_ray.__file__)").stdout
    assert place.startswith(str(laptop.programs.parent))


def test_a_study_is_submitted_watched_stopped_and_finished_from_a_laptop(laptop, storage, head):
    study = write(laptop, storage, "travels")
    one = laptop("submit", study, "--address", head.address, "--no-follow")
    assert (one["attached"], one["status"] in ("PENDING", "RUNNING")) == (False, True)
    two = laptop("submit", study, "--address", head.address, "--no-follow")
    assert (two["attached"], two["submission_id"]) == (True, one["submission_id"])
    # Another content of the same study on the same storage could only be refused by the running one: said at once.
    changed = yaml.safe_load(study.read_text()) | {"seeds": [0, 1]}
    study.with_name("changed.yaml").write_text(yaml.safe_dump(changed))
    refused = laptop("submit", "changed.yaml", "--address", head.address, code=2)["error"]
    assert f"job {one['submission_id']} is" in refused
    assert "inoc-ray stop travels" in refused

    def training() -> Any:
        value = laptop("status", "travels", "--address", head.address)
        progress = value.get("progress")
        assert (progress or {}).get("state") in (None, "running"), progress
        return value if progress and progress["phase"] == "training" and progress["under_way"] else None

    live = wait_for("training", training, 120)
    assert live["job"]["id"] == live["progress"]["job"] == one["submission_id"]
    assert live["running"]["pid"] == live["progress"]["pid"]
    assert (live["progress"]["state"], live["counts"]) == ("running", {"new": 1})
    (activity,) = live["progress"]["under_way"]
    assert (activity["label"], activity["total"], activity["unit"]) == ("training", 100, "steps")

    stopped = laptop("stop", "travels", "--address", head.address)
    assert (stopped["id"], stopped["status"]) == (one["submission_id"], "STOPPED")
    after = laptop("status", study)
    assert after["running"] is None
    assert after["failures"] == []
    assert after["progress"]["state"] in ("stopped", "killed")

    three = laptop("submit", study, "--address", head.address)
    assert three["submission_id"] == one["submission_id"].removesuffix("-1") + "-2"
    assert (three["status"], three["exit_code"]) == ("SUCCEEDED", 0)
    done = laptop("status", "travels", "--storage", storage)
    assert (done["counts"], done["progress"]["state"]) == ({"done": 1}, "done")
    assert all(t["samples_stored"] == t["samples_wanted"] > 0 for t in [*done["trials"], *done["base"]])
    listed = [job for job in laptop("ls", "--address", head.address) if job["study"] == "travels"]
    assert [job["status"] for job in listed] == ["SUCCEEDED", "STOPPED"]
    assert "Trained 1 trials" in laptop("logs", "travels", "--address", head.address)["log"]
    assert laptop("stop", "travels", "--address", head.address)["status"] == "SUCCEEDED"


def test_a_job_that_fails_ends_the_command_as_it_ended_itself(laptop, storage, head):
    wrong = [{"name": "miniature/spanish_caps", "rows": "/mnt/of-the-cluster/rows.jsonl"}]
    study = write(laptop, storage, "wrong", settings=wrong)
    done = laptop("submit", study, "--address", head.address, code=2)
    assert (done["status"], done["exit_code"]) == ("FAILED", 2)
    assert laptop("logs", "wrong", "--follow", "--address", head.address, code=2)["exit_code"] == 2
    assert "/mnt/of-the-cluster/rows.jsonl" in laptop("logs", done["submission_id"], "--address", head.address)["log"]


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (("submit", "wrong.yaml"), {"RAY_AUTH_TOKEN_PATH": "/nowhere"}, "token"),
        (("ls",), {"RAY_AUTH_MODE": "disabled"}, "token"),
        (("stop", "unknown"), {}, "no such study was submitted"),
        (("logs", "inoc-ray-unknown-0123456789abcdef-1"), {}, "does not exist"),
        (("ls", "--address", "http://127.0.0.1:9"), {}, "cannot reach a job server"),
    ],
)
def test_a_wrong_address_token_or_name_is_one_message(laptop, storage, head, words, changes, message):
    write(laptop, storage, "wrong")
    env, laptop.env = laptop.env, {**laptop.env, "RAY_API_SERVER_ADDRESS": head.address, **changes}
    try:
        assert message in laptop(*words, code=2)["error"]
    finally:
        laptop.env = env


def client_of(head: Head, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray's own client."""
    from ray.job_submission import JobSubmissionClient

    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.token))
    return JobSubmissionClient(head.address)


def test_a_log_is_followed_over_connections_that_break_and_each_line_is_shown_once(head, monkeypatch):
    program = "import time\nfor n in range(30):\n    print('line', n, flush=True)\n    time.sleep(0.2)"
    job = client_of(head, monkeypatch).submit_job(
        entrypoint=f'{sys.executable} -c "{program}"', metadata={"study": "lines", "storage": "/nowhere"}
    )
    monkeypatch.setattr(job_server, "_POLL_SECONDS", 0.1)
    written: list[str] = []
    with pump(head.address) as proxy:
        server = JobServer(proxy.url)

        def write(text: str) -> None:
            written.append(text)
            if len(written) in (3, 6):
                proxy.cut()

        ended = server.follow(job, write)
        before = proxy.connections
    assert (ended.status, ended.study) == ("SUCCEEDED", "lines")
    lines = [line for line in "".join(written).splitlines() if line.startswith("line ")]
    assert lines == [f"line {n}" for n in range(30)]
    assert before > 3


def test_every_entry_point_of_ray_job_submit_ends_as_its_command_does(tmp_path, head, monkeypatch):
    client = client_of(head, monkeypatch)

    def submit(job: str, *words: object) -> str:
        command = " ".join(map(str, (sys.executable, f"{job}.py", *words)))
        return client.submit_job(entrypoint=command, runtime_env={"working_dir": str(ROOT / "jobs")})

    def ended(job: str) -> tuple[str, int | None]:
        wait_for(job, lambda: client.get_job_status(job).is_terminal(), 120)
        info = client.get_job_info(job)
        return str(info.status.value), info.driver_exit_code

    failing = {
        "sweep": ("nowhere.yaml", "inoc-ray: nowhere.yaml: no such study file"),
        "finetune": ("nowhere.yaml", "inoc-ray: nowhere.yaml: no such study file"),
        "evaluate": ("nowhere.yaml", "inoc-ray: nowhere.yaml: no such study file"),
        "report": ("nowhere.yaml", "inoc-ray: nowhere.yaml: no such study file"),
        "serve": ("nowhere.yaml", "inoc-ray: nowhere.yaml: no such study file"),
        "build_data": ("spanish_caps", "give a file for the rows with --out"),
    }
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(failing)
    jobs = {name: submit(name, word) for name, (word, _) in failing.items()}
    for name, job in jobs.items():
        assert ended(job) == ("FAILED", 2), name
        assert failing[name][1] in client.get_job_logs(job), name
    # A part of an option's name is no option, as with the command.
    assert ended(submit("sweep", "s.yaml", "--stor", "x")) == ("FAILED", 2)
    studies = {}
    for name in ("sweep", "finetune", "evaluate", "report"):
        (tmp_path / name).mkdir()
        studies[name] = write_study(tmp_path / name)
        finish(studies[name])
    good = {name: submit(name, path, "--json") for name, path in studies.items()}
    good["build_data"] = submit("build_data")
    for name, job in good.items():
        assert ended(job) == ("SUCCEEDED", 0), (name, client.get_job_logs(job)[-2000:])
    for name in ("sweep", "report"):
        assert (tmp_path / name / "runs" / "studies" / "finished" / "report.html").is_file()


def test_rays_own_command_exits_with_1_where_a_job_failed(head):
    command = [BIN / "ray", "job", "submit", "--address", head.address, "--working-dir", ROOT / "jobs", "--"]
    done = subprocess.run(
        [*command, sys.executable, "sweep.py", "nowhere.yaml"],
        env=head.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout[-2000:]
    assert "no such study file" in done.stdout
