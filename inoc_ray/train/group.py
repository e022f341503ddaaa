"""A group of fine-tunes as one Ray Train run, seen from the driver.

A warm worker group trains one trial after another (train/worker.py). A group that starts again, by Ray after a lost
worker or by a later submission, skips committed trials. Outcomes are read from the store and not from the workers, so
they are right whatever happened to the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inoc_ray.store.store import Store
from inoc_ray.study.resources import GroupResources
from inoc_ray.train.job import Outcome, TrialJob
from inoc_ray.train.worker import train_worker

START_ATTEMPTS = 30
"""How often a worker group that does not start within Ray's 60 s is tried again; Ray's own default is for ever."""


def train_group(
    jobs: Sequence[TrialJob],
    resources: GroupResources,
    storage: str,
    *,
    run_name: str,
    callbacks: Sequence[Any] = (),
) -> list[Outcome]:
    """Train the jobs on one worker group and return one outcome per job, in their order.

    Block until all jobs are done. `storage` is the store's folder, mounted on every node. `run_name` names the Ray Train
    run; it must be the same for the same jobs, so it contains no timestamp. `callbacks` are Ray Train `UserCallback`s,
    for progress. Call it in a driver, or in the function of a Ray Tune trial. Start nothing when every job is committed.
    """
    store = Store(storage)
    done_before = {job.trial_id for job in jobs if store.trial_done(job.trial_id)}
    group_error = None
    waiting = [job for job in jobs if job.trial_id not in done_before]
    if waiting:
        for job in waiting:
            store.trial_log(job.trial_id).unlink(missing_ok=True)
        group_error = _run_group(waiting, resources, store, run_name=run_name, callbacks=list(callbacks))
    return [outcome_of(job, store, done_before=job.trial_id in done_before, group_error=group_error) for job in jobs]


def _run_group(
    jobs: Sequence[TrialJob], resources: GroupResources, store: Store, *, run_name: str, callbacks: list[Any]
) -> str | None:
    """Run the Ray Train run; return the text of the error that ended it, if one did."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "jobs": [job.to_dict() for job in jobs],
            "storage": store.address,
            "run_name": run_name,
            "cpus": resources.cpus_per_worker,
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=run_name,
            storage_path=str(store.ray()),
            failure_config=FailureConfig(max_failures=resources.max_failures, controller_failure_limit=START_ATTEMPTS),
            callbacks=callbacks or None,
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return str(error)
    return None


def outcome_of(job: TrialJob, store: Store, *, done_before: bool, group_error: str | None) -> Outcome:
    """Return the outcome of a job as the store has it after its group ended.

    A job with neither a commit nor a log gets `group_error` as its log.
    """
    if store.trial_done(job.trial_id):
        training = store.read_trial(job.trial_id)["training"]
        return Outcome(
            trial_id=job.trial_id,
            label=job.label,
            status="skipped" if done_before else "trained",
            seconds_training=0.0 if done_before else training["seconds_training"],
            seconds_total=0.0 if done_before else training["seconds_total"],
            final_loss=training["final_loss"],
        )
    path = store.trial_log(job.trial_id)
    if not path.exists():
        path.write_text(group_error or "The worker group ended before it trained this trial.\n")
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    error = lines[-1] if lines else "no message"
    return Outcome(trial_id=job.trial_id, label=job.label, status="failed", error=error)
