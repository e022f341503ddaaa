"""Kills a command that trains (training_program.py), its worker or its node at random moments, and says what that cost."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_base
from ray_nodes import Nodes
from training_program import study_of

from inoc_ray.data.tokenize import EncodedRow, encode_rows, load_tokenizer
from inoc_ray.plan.build import build_plan
from inoc_ray.store import snapshots
from inoc_ray.store.store import Store
from inoc_ray.train.job import TrialJob
from inoc_ray.train.loop import train
from inoc_ray.train.process import set_threads
from inoc_ray.train.snapshot import Snapshots
from inoc_ray.train.spec import LoopResult, StepRecord
from inoc_ray.train.sweep import job_of
from inoc_ray.train.worker import read_rows

ROOT = Path(__file__).parents[2]
PATIENCE_S = 150.0
PROGRESS = re.compile(r"training \d|[0-9a-f]{12,}$|trained None$")
"""What a command says that nobody kills."""


def enough_steps(base: str, kills: int, minutes: float) -> int:
    """Return how many steps a fine-tune needs to be killed so often, when this machine is at its fastest.

    minutes: between two snapshots. An attempt gets one or two of them further, and its worker may outlive it by one;
    a machine that is busy now may be faster later.
    """
    set_threads(1)
    records, _ = tiny_base.run(base, None, steps=40, zero_stage=2, precision="bf16", lora={"dropout": 0.1})
    return round(4 * kills * 60 * minutes / min(record.tokens / record.tokens_per_second for record in records))


@dataclass
class Kill:
    """What one kill cost."""

    what: str
    kept: int
    """The step of the latest snapshot."""
    seconds_lost: float
    """Since that snapshot was written."""
    seconds_to_recover: float = 0.0
    """Until the first report of a step after it."""
    next_step: int = 0
    """The step of that report: a worker reports its first one."""


@dataclass
class Killed:
    """A study of one trial that is killed again and again, and started again, until it is done."""

    base: str
    folder: Path
    options: dict[str, Any]
    seed: int = 0
    nodes: Nodes | None = None
    """The cluster of RAY_ADDRESS, if it is not one of the command's own."""
    intervals: float = 1.0
    """A kill comes at most so many intervals of snapshots after the first snapshot of an attempt."""
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.store = Store(self.folder)
        self.reports, self.console = self.folder / "reports.jsonl", self.folder / "console"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.plan = build_plan(study_of(self.base, self.folder, self.options), self.store)
        self.trial_id = self.plan.trials[0].trial_id
        self.command: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """What the commands have said so far."""
        return self.console.read_text() if self.console.exists() else ""

    def said(self) -> list[str]:
        """Return the lines that the commands have said beside their progress."""
        return [line for line in self.output.splitlines() if line and not PROGRESS.match(line)]

    def unbroken_curve(self) -> list[float]:
        """The losses of the same trial in this process, without Ray, kills and snapshots."""
        job, rows = self._job()
        losses: list[float] = []
        train(job.spec, rows, lambda record: losses.append(record.loss), out=None)
        return losses

    def start(self) -> None:
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        program = Path(__file__).parent / "training_program.py"
        # A file: nobody reads a pipe meanwhile, and one that is full would hold the command up.
        with self.console.open("a") as console:
            self.command = subprocess.Popen(
                [*map(str, [sys.executable, program, self.base, self.folder, self.reports]), json.dumps(self.options)],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, what: str, *, go_on: bool = True) -> None:
        """Kill the worker, its node, the command or the whole cluster a random moment after a snapshot that was not there before.

        go_on: whether a command that ended by it is started again.
        """
        before = self._latest()
        self._wait(lambda: self._latest() not in (None, before), "a snapshot")
        time.sleep(self.random.uniform(0, self.intervals * 60 * self.options["minutes"]))
        ends = what not in ("worker", "raylet")
        if what == "worker":
            os.kill(self._worker(), signal.SIGKILL)
        elif what == "raylet":
            assert self.nodes is not None
            self.nodes.kill(self.nodes.of(self._worker()))
        elif what == "cluster":
            assert self.nodes is not None
            assert self.command is not None
            self.nodes.kill_all(self.command.pid)
        else:
            assert self.command is not None
            self.command.send_signal({"driver": signal.SIGKILL, "stop": signal.SIGTERM, "ctrl-c": signal.SIGINT}[what])
        at = time.time()
        if ends:
            self._end()
        latest = self._latest()
        assert latest is not None
        about = snapshots.read(self.store.snapshots(self.trial_id) / latest).about
        kill = Kill(what, about["step"], at - about["written_at"])
        self.kills.append(kill)
        if what == "raylet":
            assert self.nodes is not None
            self.nodes.add(1)
        if ends and not go_on:
            return
        if ends:
            if what == "cluster":
                assert self.nodes is not None
                self.nodes.start_again()
            else:
                # A worker ends a moment after its driver.
                time.sleep(1.0)
            self.go_on()
        else:
            self._until_it_trains(at, is_told=True)

    def go_on(self) -> None:
        """Start the command again, and wait for a step."""
        at = time.time()
        self.start()
        self._until_it_trains(at, is_told=False)

    def _until_it_trains(self, at: float, *, is_told: bool) -> None:
        """Wait for a step after the last kill; at: the time from which on; is_told: as in `_recovered`."""
        self._wait(lambda: self._recovered(at, is_told=is_told) is not None, "a step after the kill")
        report = self._recovered(at, is_told=is_told)
        assert report is not None
        kill = self.kills[-1]
        kill.seconds_to_recover, kill.next_step = report["at"] - at, report["step"]

    def finish(self) -> list[float]:
        """Let the command come to its end; the losses that it committed."""
        self._end()
        curve = self.store.read_curves(self.trial_id)
        assert [record["step"] for record in curve] == list(range(1, self.options["steps"] + 1)), self.output
        return [record["loss"] for record in curve]

    def close(self) -> None:
        """End the command if a test that failed left it."""
        if self.command is not None and self.command.poll() is None:
            self.command.kill()
            self.command.wait()

    def go_on_here(self) -> tuple[list[StepRecord], LoopResult]:
        """Train the rest in this process; the records of all steps, of those before too."""
        job, rows = self._job()
        records: list[StepRecord] = []
        place = Snapshots(self.store.snapshots(self.trial_id), of=self.trial_id, minutes=None)
        return records, train(job.spec, rows, records.append, out=None, snapshots=place, on_resume=records.extend)

    def _job(self) -> tuple[TrialJob, list[EncodedRow]]:
        set_threads(1)
        job = job_of(self.plan, self.store, self.plan.trials[0])
        return job, encode_rows(
            load_tokenizer(job.spec.model), read_rows(job, self.store), max_length=2048, label="rows"
        )

    def _worker(self) -> int:
        """The process id of the worker."""
        (mark,) = self.folder.glob(f"ray/*/attempts/{self.trial_id}")
        return int(mark.read_text())

    def _end(self) -> None:
        assert self.command is not None
        self.command.wait(PATIENCE_S)

    def _latest(self) -> str | None:
        return next((place.name for place in snapshots.committed(self.store.snapshots(self.trial_id))), None)

    def _reports(self) -> list[dict[str, Any]]:
        if not self.reports.exists():
            return []
        return [json.loads(line) for line in self.reports.read_text().splitlines() if line.endswith("}")]

    def _recovered(self, at: float, *, is_told: bool) -> dict[str, Any] | None:
        """The first report of a step after a kill at that time, if there is one.

        is_told: whether the command lives on and tells of the kill; what was on its way to it is of before.
        """
        later = [report for report in self._reports() if report["at"] > at]
        if is_told:
            told = next((n for n, report in enumerate(later) if report["step"] is None and report["note"]), len(later))
            later = later[told:]
        return next((report for report in later if report["step"] is not None), None)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.command is not None
            assert self.command.poll() is None, f"the command ended: {self.output}"
            assert time.monotonic() < end, f"there was not {what} in {PATIENCE_S:.0f} s: {self.output}"
            time.sleep(0.02)
