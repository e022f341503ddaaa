"""A sweep of many trials whose training is a stub, with Ray Tune and the store for real: TRIALS PER_GROUP BASE FOLDER [PROFILE].

PER_GROUP 0 leaves it to the product how many trials are a group. On the cluster of RAY_ADDRESS. Prints what the driver took, as
JSON. A first sweep of a few trials pays for what happens once: imports, Ray's and Tune's start, the nodes of an autoscaler.
"""

import cProfile
import json
import pstats
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_base import chat_rows

from inoc_ray.cluster.connect import connected
from inoc_ray.cluster.fit import Capacity, Node
from inoc_ray.data.chat import write_jsonl
from inoc_ray.plan.build import build_plan
from inoc_ray.run.cluster_preflight import check_cluster
from inoc_ray.run.describe import plan_json
from inoc_ray.run.integrity import claims_of, seal_samples, verify_used
from inoc_ray.run.planned_and_stored import failures_of, unfinished
from inoc_ray.run.preflight import preflight
from inoc_ray.store.commit import weights_in, write_trial
from inoc_ray.store.failures import Failure, keep_failures
from inoc_ray.store.store import Store
from inoc_ray.study.resources import GroupResources
from inoc_ray.study.study import Study
from inoc_ray.train.job import Outcome, TrialJob
from inoc_ray.train.sweep import train_missing
from inoc_ray.train.worker import RECORD

FIRST = 8
"""Trials of the first sweep."""
REPORTS = 3
"""Reports of a trial: the workers of a real one report every 2.5 s."""
FAILS = 10
"""Every so many-th trial fails."""


def stub(jobs: Sequence[TrialJob], resources: GroupResources, storage: str, **handed: Any) -> list[Outcome]:
    """Wait for room as a group does, report as its workers do, and commit a few bytes, or fail."""
    from ray import tune

    from inoc_ray.train.room import Patience, wait_for_room

    store = Store(storage)
    worker = Node(resources.cpus_per_worker, resources.gpus_per_worker)
    wait_for_room([resources.workers], worker, patience=Patience(5), tell=handed["tell"])
    for job in jobs:
        for step in range(1, REPORTS + 1):
            told = {"job": job.trial_id, "label": job.label, "step": step, "steps": REPORTS}
            tune.report({**told, RECORD: {"step": step, "loss": 1.0 / step}})
        if job.spec.seed % FAILS == FAILS - 1:
            store.trial_log(job.trial_id).write_text("Traceback\nValueError: as told\n")
            continue
        with store.stage_trial(job.trial_id) as folder:
            weights_in(folder).mkdir()
            (weights_in(folder) / "adapter_model.safetensors").write_bytes(job.trial_id.encode() * 64)
            took = {"seconds_training": 1.0, "seconds_total": 1.0, "final_loss": 0.5}
            write_trial(folder, {**job.record, "training": took}, [{"step": step} for step in range(REPORTS)])
    return []


class Timed:
    """CPU seconds of this process by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.process_time() - began


def sweep(trials: int, per_group: int, base: str, folder: Path, capacity: Capacity) -> dict[str, float]:
    """What a command does of training, step by step; returns the driver's CPU seconds of each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.jsonl"
    write_jsonl(rows, chat_rows())
    study = Study.model_validate(
        {
            "name": "many",
            "settings": [{"name": "miniature/spanish_caps", "rows": str(rows)}],
            "arms": ["baseline"],
            "seeds": list(range(trials)),
            "models": [{"name": "tiny", "path": base}],
            "recipes": {
                "lora": {"learning_rate": 2e-3, "steps": REPORTS, "batch_size": 16, "precision": "fp32"},
            },
            "evaluation": {"max_tokens": 16},
            "resources": {"trials_per_group": per_group or None},
        }
    )
    store = Store(folder / "runs")
    timed = Timed()
    with timed("plan"):
        plan = build_plan(study, store)
    with timed("preflight"):
        preflight(plan, store)
    with timed("store before"), store.lease("study-many", claims_of(plan, store, train=True)):
        plan = plan.refreshed(store)
        seal_samples(plan, store)
        verify_used(plan, store, train=True)
        unfinished(plan, store)
    with timed("nodes"):
        check_cluster(plan, store, capacity)
    assert len(plan.to_train) == trials
    with timed("sweep"):
        outcomes = train_missing(plan, store, capacity, train=stub)
    states = [outcome.status for outcome in outcomes]
    failed = sum(seed % FAILS == FAILS - 1 for seed in range(trials))
    assert (states.count("trained"), states.count("failed")) == (trials - failed, failed)
    with timed("store after"):
        lost = [
            Failure(o.label, str(o.error), str(store.trial_log(o.trial_id)), (("trial", o.trial_id),))
            for o in outcomes
            if o.status == "failed"
        ]
        keep_failures(store, "many", [("trial", o.trial_id) for o in outcomes], lost)
        plan = plan.refreshed(store)
        assert len(plan.to_train) == failed
        assert len(failures_of(plan, store)) == failed
    with timed("status"):
        plan_json(plan, store)
    return timed.seconds


def main(trials: int, per_group: int, base: str, folder: Path, profile: str | None) -> None:
    def run(call: Callable[[], dict[str, float]]) -> dict[str, float]:
        if profile is None:
            return call()
        profiler = cProfile.Profile()
        found = profiler.runcall(call)
        with Path(profile).open("w") as out:
            pstats.Stats(profiler, stream=out).sort_stats("cumulative").print_stats(80).sort_stats(
                "tottime"
            ).print_stats(40)
        return found

    with connected() as capacity:
        sweep(FIRST, per_group, base, folder / "first", capacity)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, wall = time.process_time(), time.monotonic()
        seconds = run(lambda: sweep(trials, per_group, base, folder / "many", capacity))
        found = {
            "trials": trials,
            "cpu": time.process_time() - began,
            "wall": time.monotonic() - wall,
            "steps": seconds,
            "mib_before": before / 1024,
            "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5] if len(sys.argv) > 5 else None)
