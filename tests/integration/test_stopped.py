"""A command that is stopped ends in time, with its code, says what it kept, marks nothing as failed and leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from environment import environment
from observed import Observed, nothing_left, processes_of
from stub_api import Stub
from tiny_adapter import save_adapter

from inoc_ray.builders.journal import journal_path
from inoc_ray.evaluate.sampling import sample_missing
from inoc_ray.models.resolve import resolve_model
from inoc_ray.plan.build import build_plan
from inoc_ray.run.planned_and_stored import state_of
from inoc_ray.serve.app import Endpoint
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.store.commit import write_trial
from inoc_ray.store.failures import read_failures
from inoc_ray.store.scratch import scratch_folder
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
QUICKSTART = yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text())
PROMISED_S = 10.0
CTRL_C, SIGTERM = (signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")


class World:
    """A study of one fine-tune, and what commands on it leave in its storage."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.path = folder / "study.yaml"
        value = {
            **QUICKSTART,
            "name": "stopped",
            "arms": ["baseline"],
            "seeds": [0],
            "recipes": {"lora": {**QUICKSTART["recipes"]["lora"], "steps": 600}},
            "evaluation": {
                "contexts": ["neutral"],
                "samples": 1100,
                "overrides": {"out_of_distribution": {"samples": 2300}},
            },
            "storage": str(folder / "runs"),
            **changes,
        }
        self.path.write_text(yaml.safe_dump(value))
        self.study = Study.model_validate(value)
        self.store = Store(folder / "runs")

    def commit_adapter(self) -> None:
        """Commit the study's fine-tune without training it."""
        (trial,) = build_plan(self.study, self.store).trials
        base = resolve_model("miniature", "miniature").path
        with self.store.stage_trial(trial.trial_id) as staged:
            made = self.folder / "made"
            made.mkdir()
            save_adapter(base, made, seed=0)
            (made / "adapter").rename(staged / "adapter")
            record = {"training": {"seconds_total": 1.0, "seconds_training": 1.0, "final_loss": 0.1}}
            write_trial(staged, record, [])

    def start(self, *arguments: object) -> Observed:
        command, *rest = arguments
        return Observed(self.folder, [command, self.path, *rest], environment())

    def no_failure(self) -> None:
        """Nothing is marked as failed, nothing is half committed, and nobody holds the study."""
        plan = build_plan(self.study, self.store)
        assert read_failures(self.store, "stopped") == []
        assert [trial.label for trial in plan.trials if state_of(plan, self.store, trial) == "failed"] == []
        assert plan.refreshed(self.store).damaged == ()
        assert self.store.holder("study-stopped") is None


def until(command: Observed, what: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait while the command runs."""
    end = time.monotonic() + seconds
    while not what():
        assert command.process.poll() is None, command.text
        assert time.monotonic() < end, command.text
        time.sleep(0.02)


def stopped(world: World, command: Observed, how: tuple[int, int, str], *, says: str) -> None:
    """Stop the command, and hold it to every promise."""
    signum, code, name = how
    try:
        took = command.stop(signum)
        print(f"{name}: {took:.1f} s until the command ended, {says!r}")
        assert command.process.returncode == code, command.text
        assert took < PROMISED_S, f"{took:.1f} s\n{command.text}"
        assert f"inoc-ray: stopped by {name}" in command.text
        assert says in command.text, command.text
        for trace in ("Traceback", "*** SIGTERM", "PC: @", "Exception ignored"):
            assert trace not in command.text, command.text
        began = time.monotonic()
        nothing_left(command, 15.0)
        print(f"nothing left after {time.monotonic() - began:.1f} s more")
        world.no_failure()
    finally:
        command.end()


def test_a_study_stopped_in_each_phase_of_training(tmp_path: Path):
    world = World(tmp_path)
    command = world.start("run")
    command.wait_for("training 0/600 steps")
    stopped(world, command, CTRL_C, says="while training; kept: 0 of 1 trials, 0 of 6800 samples")
    command = world.start("run")
    command.wait_for("/600 steps · miniature")
    stopped(world, command, SIGTERM, says="1 of 1 trials in training took a snapshot just now")


def test_a_study_stopped_in_each_phase_of_evaluation(tmp_path: Path):
    world = World(tmp_path)
    world.commit_adapter()
    command = world.start("run")
    command.wait_for("starting Ray")
    stopped(world, command, SIGTERM, says="while starting Ray; kept: 1 of 1 trials")
    command = world.start("evaluate")
    command.wait_for("serve: starting Ray Serve")
    stopped(world, command, SIGTERM, says="while evaluating; kept: 1 of 1 trials, 0 of 6800 samples")
    command = world.start("run")
    command.wait_for(" samples/s")
    stopped(world, command, CTRL_C, says="and every answer that came")
    assert len(world.store.under_way("stopped").read_bytes().splitlines()) > 0


def test_a_study_stopped_while_a_judge_is_asked_and_while_mlflow_is_updated(tmp_path: Path):
    with Stub(tmp_path, latency=0.05) as stub:
        judge = {"endpoint": stub.url, "served_model": "judge", "method": "logprob", "concurrency": 4}
        world = World(
            tmp_path,
            judges={"stub": judge},
            evaluation={"contexts": ["neutral"], "samples": 50, "judged_by": ["stub"]},
        )
        world.commit_adapter()

        @contextlib.contextmanager
        def answering(spec: ServeSpec) -> Iterator[Endpoint]:
            yield Endpoint(base_url=stub.url, model_id=spec.model_id, api_key=None, name=spec.name)

        assert sample_missing(build_plan(world.study, world.store), world.store, answering) == []
        command = world.start("evaluate")
        command.wait_for("judgments/s")
        stopped(
            world, command, SIGTERM, says="while judging; kept: 1 of 1 trials, 200 of 200 samples, and every answer"
        )
        command = world.start("evaluate")
        until(command, lambda: (world.folder / "runs" / "mlflow" / "mlflow.db").exists())
        # What was under way when the command was stopped, and each command's question of how the judge writes numbers.
        assert sum(count - 1 for count in stub.asked("judge").values()) <= 4 + 3
        stopped(world, command, CTRL_C, says="while updating MLflow; kept: 1 of 1 trials")
        command = world.start("sync")
        assert command.finish() == 0, command.text


def test_a_build_of_rows_that_is_stopped_keeps_its_answers(tmp_path: Path):
    with Stub(tmp_path, latency=0.2) as stub:
        out = tmp_path / "rows.jsonl"
        arguments = ["data", "build", "subliminal", "--out", out, "--endpoint", stub.url, "--served-model", "teacher"]
        command = Observed(tmp_path, arguments, environment())
        journal = journal_path(out)
        until(command, lambda: journal.exists() and journal.read_bytes().count(b"\n") > 40)
        assert command.stop(signal.SIGINT) < PROMISED_S
        kept = journal.read_bytes().count(b"\n") - 1
        assert command.process.returncode == 130
        assert f"stopped by Ctrl-C; {kept} answers are kept in {journal}. Run the same command again" in command.text


MEASURES = """
import sys
from pathlib import Path
from inoc_ray import stopping
from inoc_ray.evaluate.harness_run import measure
from inoc_ray.evaluate.harness_task import find_task
from inoc_ray.models.resolve import resolve_model
from inoc_ray.serve.app import Endpoint
from inoc_ray.store.place import at
from inoc_ray.study.evaluation import Capability

endpoint = Endpoint(base_url=sys.argv[2], model_id="m", api_key=None, name="m")
task = find_task(Capability(task="miniature/numbers", limit=20))
folder = Path(sys.argv[1])
try:
    with stopping.stoppable(print):
        model = resolve_model("miniature", "miniature").path
        measure(endpoint, "m", tokenizer=model, task=task, samples=folder / "samples.gz", log=at(folder / "log"))
except KeyboardInterrupt:
    sys.exit(stopping.exit_code())
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_harness_ends_with_the_command_that_measures_a_capability(tmp_path: Path, signum: int):
    with Stub(tmp_path, latency=60) as stub:
        command = Observed(tmp_path, ["-c", MEASURES, tmp_path, stub.url], environment(), program=sys.executable)
        try:
            until(command, lambda: any("evaluate.harness" in " ".join(p.cmdline()) for p in processes_of(command.mark)))
            time.sleep(1.0)
            assert command.stop(signum) < PROMISED_S
            assert command.process.returncode == (143 if signum == signal.SIGTERM else -signal.SIGKILL)
            if signum == signal.SIGKILL:
                # The folder is deleted by the next command.
                with scratch_folder(command.scratch):
                    pass
            nothing_left(command, 5.0)
        finally:
            command.end()
