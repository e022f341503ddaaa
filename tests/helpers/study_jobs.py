"""Jobs of one small study on a head, what they leave on it, and what they made."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml
from job_head import Head
from ray.job_submission import JobStatus, JobSubmissionClient

from inoc_ray.plan.build import build_plan
from inoc_ray.run.planned_and_stored import state_of
from inoc_ray.store.failures import read_failures
from inoc_ray.store.scratch import PREFIX
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

ROOT = Path(__file__).parents[2]
QUICKSTART = yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text())
STEPS = 100
PROMISED_S = 15.0
COORDINATOR = "_AutoscalingCoordinatorActor"
"""Ray's own, one for each cluster, which Ray Train starts with the first run and nobody ends."""
OF_RAY = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", f"ray::{COORDINATOR}")


class Jobs:
    """Jobs of one study, which Ray stops as it does by default: SIGKILL 3 s after SIGTERM.

    schedule: when the study's models are evaluated, beside the training or afterwards.
    """

    def __init__(self, head: Head, folder: Path, *, schedule: str = "auto") -> None:
        self.client = JobSubmissionClient(head.address)
        self.address, self.token = head.address, str(head.token)
        self.temporary = head.temporary
        self.before = set(head.temporary.iterdir())
        value = {
            **QUICKSTART,
            "name": "jobs",
            "arms": ["baseline"],
            "seeds": [0],
            "recipes": {"lora": {**QUICKSTART["recipes"]["lora"], "steps": STEPS}},
            "evaluation": {"contexts": ["neutral"], "samples": 100},
            "resources": {**QUICKSTART["resources"], "schedule": schedule},
            "storage": str(folder / "runs"),
        }
        folder.mkdir()
        self.path = folder / "study.yaml"
        self.path.write_text(yaml.safe_dump(value))
        self.study, self.store = Study.model_validate(value), Store(folder / "runs")
        self.job = ""

    def submit(self) -> None:
        end = time.monotonic() + 60.0
        while True:
            try:
                self.job = self.client.submit_job(
                    entrypoint=f"{sys.executable} {ROOT / 'jobs' / 'sweep.py'} {self.path}"
                )
                return
            except RuntimeError as error:
                # Its job server answers before a head can start jobs.
                if "No available agent" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.5)

    def log(self) -> str:
        return str(self.client.get_job_logs(self.job))

    def wait_for(self, text: str, seconds: float = 150.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.log():
            assert time.monotonic() < end, self.log()
            assert not self.client.get_job_status(self.job).is_terminal(), self.log()
            time.sleep(0.1)

    def kill_among_answers(self, seconds: float = 150.0) -> None:
        """Kill the command as soon as some answers of the fine-tune are kept, while others are missing."""
        end = time.monotonic() + seconds
        journal = self.store.under_way("jobs")
        (trial,) = build_plan(self.study, self.store).trials
        while (driver := self.driver()) is None:
            assert time.monotonic() < end, self.log()
            assert not self.client.get_job_status(self.job).is_terminal(), self.log()
            time.sleep(0.1)
        # All answers are there in a second or two, so nothing slow stands between the sight of them and the signal.
        while not journal.is_file() or journal.read_text().count(trial.trial_id) < 10:
            assert time.monotonic() < end, self.log()
            assert driver.status() != psutil.STATUS_ZOMBIE, self.log()
            time.sleep(0.005)
        driver.kill()

    def ended(self, seconds: float = 400.0) -> JobStatus:
        end = time.monotonic() + seconds
        while not (status := self.client.get_job_status(self.job)).is_terminal():
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)
        return status

    def driver(self) -> psutil.Process | None:
        """The process of the command, once it is there."""
        return next((p for p in psutil.process_iter(["cmdline"]) if self._is_mine(p.info["cmdline"] or [])), None)

    def _is_mine(self, command: list[str]) -> bool:
        return command[:1] == [sys.executable] and str(self.path) in command

    def left(self) -> list[str]:
        """What is left on the cluster but for Ray's own: actors, placement groups, processes, temporary files."""
        from ray.util.state import list_actors, list_placement_groups

        actors = list_actors(address=self.address, filters=[("state", "!=", "DEAD")])
        groups = list_placement_groups(address=self.address, filters=[("state", "!=", "REMOVED")])
        found = [
            f"actor {actor.class_name} {actor.name} {actor.state}"
            for actor in actors
            if actor.class_name != COORDINATOR
        ]
        found += [f"placement group {group.name} {group.state}" for group in groups]
        # Ray's own session lies beside the others' temporary files.
        scratch = self.temporary.parent.glob(f"session_*/{PREFIX}*")
        staged = [path for path in Path(self.store.address).rglob(".*.tmp") if path.is_dir()]
        found += [f"staged {path.name} with {len(list(path.rglob('*')))} files" for path in staged]
        found += [f"temporary {path.name}" for path in (*self.temporary.iterdir(), *scratch) if path not in self.before]
        for process in psutil.process_iter():
            try:
                # Another test may have a cluster on this machine, but not this head's token.
                if process.environ().get("RAY_AUTH_TOKEN_PATH") != self.token:
                    continue
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            ours = line.startswith(("ray::", "VLLM")) or "inoc_ray." in line or self._is_mine(line.split())
            if ours and not line.startswith(OF_RAY):
                found.append(f"process {process.pid} {line[:120]}")
        return found

    def nothing_left(self, since: float) -> None:
        while left := self.left():
            assert time.monotonic() - since < PROMISED_S, f"left after {PROMISED_S:.0f} s: {left}\n{self.log()}"
            time.sleep(0.3)
        plan = build_plan(self.study, self.store)
        assert read_failures(self.store, "jobs") == []
        assert [trial.label for trial in plan.trials if state_of(plan, self.store, trial) == "failed"] == []
        assert plan.refreshed(self.store).damaged == ()

    def results(self) -> dict[str, Any]:
        """What the study made: the hashes of its weights, and every sample."""
        plan = build_plan(self.study, self.store)
        assert (plan.to_train, plan.to_sample) == ([], [])
        samples = {
            f"{cell.subject.label} {cell.evaluation.name} {cell.context}": pd.concat(
                [pd.read_parquet(part.path.fetch()) for part in self.store.parts(*cell.key)], ignore_index=True
            ).to_json()
            for cell in plan.cells
        }
        return {"weights": [self.store.committed_weights(t.trial_id) for t in plan.trials], "samples": samples}
