"""Kills a command that trains (training_program.py), its worker or its node at random moments, and says what that cost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass
class Kill:
    """What one kill cost."""

    what: str
    seconds_lost: float
    """Since the state of the latest snapshot."""
    seconds_to_recover: float = 0.0
    """Until the first report of a step after it."""


@dataclass
class Killed:
    """A study of one trial that is killed again and again, and started again, until it is done."""

    base: str
    folder: Path
    options: dict[str, Any]
    seed: int = 0
    nodes: Nodes | None = None
    """The cluster of RAY_ADDRESS, if it is not one of the command's own."""
    kills: list[Kill] = field(default_factory=list)
    output: str = ""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.store = Store(self.folder)
        self.reports = self.folder / "reports.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.plan = build_plan(study_of(self.base, self.folder, self.options), self.store)
        self.trial_id = self.plan.trials[0].trial_id
        self.command: subprocess.Popen[str] | None = None

    def unbroken_curve(self) -> list[float]:
        """The losses of the same trial in this process, without Ray, kills and snapshots."""
        job, rows = self._job()
        losses: list[float] = []
        train(job.spec, rows, lambda record: losses.append(record.loss), out=None)
        return losses

    def start(self) -> None:
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        program = Path(__file__).parent / "training_program.py"
        self.command = subprocess.Popen(
            [sys.executable, str(program), self.base, str(self.folder), str(self.reports), json.dumps(self.options)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kill(self, what: str, *, go_on: bool = True) -> None:
        """Kill the worker, its node or the command a random moment after a snapshot that was not there before.

        go_on: whether a command that ended by it is started again.
        """
        before = self._latest()
        self._wait(lambda: self._latest() not in (None, before), "a snapshot")
        time.sleep(self.random.uniform(0, 60 * self.options["minutes"]))
        ends = what not in ("worker", "raylet")
        if what == "worker":
            os.kill(self._worker(), signal.SIGKILL)
        elif what == "raylet":
            assert self.nodes is not None
            self.nodes.kill(self.nodes.of(self._worker()))
        else:
            assert self.command is not None
            self.command.send_signal({"driver": signal.SIGKILL, "stop": signal.SIGTERM, "ctrl-c": signal.SIGINT}[what])
        at = time.time()
        if ends:
            self.output += self._end()
        latest = self._latest()
        assert latest is not None
        written = snapshots.read(self.store.snapshots(self.trial_id) / latest).about["written_at"]
        self.kills.append(Kill(what, at - written))
        if what == "raylet":
            assert self.nodes is not None
            self.nodes.add(1)
        if ends and not go_on:
            return
        if ends:
            # A worker ends a moment after its driver; a report of its last steps is none of the next command's.
            time.sleep(1.0)
            at = time.time()
            self.start()
        self._wait(lambda: any(report["at"] > at for report in self._reports()), "a report")
        self.kills[-1].seconds_to_recover = next(report["at"] for report in self._reports() if report["at"] > at) - at

    def finish(self) -> list[float]:
        """Let the command come to its end; the losses that it committed."""
        self.output += self._end()
        curve = self.store.read_curves(self.trial_id)
        assert [record["step"] for record in curve] == list(range(1, self.options["steps"] + 1))
        return [record["loss"] for record in curve]

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

    def _end(self) -> str:
        assert self.command is not None
        output, _ = self.command.communicate(timeout=PATIENCE_S)
        return output

    def _latest(self) -> str | None:
        return next((place.name for place in snapshots.committed(self.store.snapshots(self.trial_id))), None)

    def _reports(self) -> list[dict[str, Any]]:
        if not self.reports.exists():
            return []
        return [json.loads(line) for line in self.reports.read_text().splitlines() if line.endswith("}")]

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.command is not None
            assert self.command.poll() is None, f"the command ended: {self.command.communicate()[0]}"
            assert time.monotonic() < end, f"there was not {what} in {PATIENCE_S:.0f} s"
            time.sleep(0.02)
