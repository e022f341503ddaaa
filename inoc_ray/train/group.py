"""A group of fine-tunes on workers of the cluster, seen from the driver: started, and started again when it is lost.

A warm worker group trains one trial after another (train/worker.py); each start is one Ray Train run. A group that starts
again, after a lost worker or node or by a later submission, skips committed trials, and may have fewer workers or more than
before. Outcomes are read from the store and not from the workers, so they are right whatever happened to the workers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from inoc_ray.cluster import nodes
from inoc_ray.cluster.checks import Needs
from inoc_ray.cluster.fit import PRIVATE_RESOURCE, Node
from inoc_ray.cluster.scratch import scratch
from inoc_ray.console import say
from inoc_ray.errors import InputError
from inoc_ray.store.place import Place
from inoc_ray.store.snapshots import latest_step
from inoc_ray.store.store import Store
from inoc_ray.study.resources import GroupResources
from inoc_ray.train.failure import Loss, loss_of
from inoc_ray.train.job import Outcome, TrialJob
from inoc_ray.train.layout import check_batch
from inoc_ray.train.room import NoRoom, Patience, give_up, wait_for_room, watch_for_room
from inoc_ray.train.worker import train_worker


def train_group(
    jobs: Sequence[TrialJob],
    resources: GroupResources,
    storage: str,
    *,
    run_name: str,
    callbacks: Sequence[Any] = (),
    tell: Callable[[str], None] = say,
    sign: Place | None = None,
    sweep: str | None = None,
    needs: Needs | None = None,
    give_way: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Train the jobs on one worker group and return one outcome per job, in their order.

    Block until all jobs are done. `storage` is the store's address, which every node can reach. `run_name` names the Ray Train
    run; it must be the same for the same jobs, so it contains no timestamp. `callbacks` are Ray Train `UserCallback`s,
    for progress. `tell` gets a line for each loss of the group and for each wait. `sign` is a file that is written while other
    groups of the same command train: the group waits for those. `sweep` names the sweep that the group is of: when
    its command is being stopped, what is lost is no failure. `needs`: what each worker asks of its node, which may have joined
    after the others were asked. `give_way` is called when the group has waited for room for half of its time. Call it in a
    driver, or in the function of a Ray Tune trial. Start nothing when every job is committed.
    """
    store = Store(storage)
    done_before = {job.trial_id for job in jobs if store.trial_done(job.trial_id)}
    group_error = None
    waiting = [job for job in jobs if job.trial_id not in done_before]
    if waiting:
        for job in waiting:
            store.trial_log(job.trial_id).unlink(missing_ok=True)
        patience = Patience(resources.wait_minutes, sign, give_way)
        group = _Group(
            waiting, resources, store, run_name=run_name, callbacks=callbacks, tell=tell, sweep=sweep, needs=needs
        )
        group_error = group.run(patience)
    if sweep is not None and store.stop_mark(sweep).exists():
        # Nobody waits for the outcomes, and there must be no log of a failure.
        return []
    return [outcome_of(job, store, done_before=job.trial_id in done_before, group_error=group_error) for job in jobs]


def widths(jobs: Sequence[TrialJob], resources: GroupResources) -> list[int]:
    """Return the numbers of workers that may train the jobs, from `workers` down to `min_workers`.

    Each divides every job's batch into whole micro batches, and is a multiple of hpZ's groups. `workers` itself is always
    among them: what is wrong with it is for the trial to say.
    """

    def divides(workers: int) -> bool:
        if workers % resources.hpz_partition_size:
            return False
        with contextlib.suppress(InputError):
            for job in jobs:
                check_batch(job.spec.recipe.batch_size, job.spec.resources, workers)
            return True
        return False

    fewest = resources.min_workers or resources.workers
    return [resources.workers, *filter(divides, range(resources.workers - 1, fewest - 1, -1))]


class _Group:
    """The worker group of some jobs, over all of its starts."""

    def __init__(
        self,
        jobs: Sequence[TrialJob],
        resources: GroupResources,
        store: Store,
        *,
        run_name: str,
        callbacks: Sequence[Any],
        tell: Callable[[str], None],
        sweep: str | None = None,
        needs: Needs | None = None,
    ) -> None:
        self.sweep = sweep
        self.jobs, self.resources, self.store, self.run_name = jobs, resources, store, run_name
        self.callbacks, self.attempts = list(callbacks), store.attempts(run_name)
        self.grow, self.room = store.grow_mark(run_name), store.room_of(run_name)
        self.worker = Node(resources.cpus_per_worker, resources.gpus_per_worker)
        self.needs = None if needs is None else of_a_worker(needs, jobs, self.worker)
        self.widths, self.starts = widths(jobs, resources), 0
        self.tell = lambda text: tell(f"training: {self._under_way().label}: {text}")

    def run(self, patience: Patience) -> str | None:
        """Start the group until no job is left; return why it ended before, if it did.

        A group may be lost `max_failures` times in a row without getting any further.
        """
        failures, width = 0, self.resources.workers
        while jobs := self._left():
            before = self._reached()
            give_up(self.room)
            try:
                workers = wait_for_room(self.widths, self.worker, patience=patience, tell=self.tell)
            except NoRoom as error:
                return self._end(str(error))
            if workers != width:
                back = "" if workers == self.resources.workers else ", until there is room for more"
                self.tell(f"goes on with {workers} of {self.resources.workers} workers{back}")
                width = workers
            loss = self._start(jobs, workers)
            if loss is not None and loss.is_late:
                if patience.over():
                    return self._end(f"{loss.cause}, for {patience.minutes:g} minutes")
                continue
            patience.renew()
            if loss is None:
                if self._left() == jobs and not self.grow.is_file():
                    return self._end("the workers ended before they trained anything")
                continue
            further = self._reached() != before
            failures = 1 if further else failures + 1
            if not further and failures > self.resources.max_failures:
                return self._end(f"{loss.cause}, {_times(failures)} without getting further")
            self.tell(f"{loss.cause}; {self._next()}")
        return None

    def _start(self, jobs: Sequence[TrialJob], workers: int) -> Loss | None:
        """Run one Ray Train run to its end; return how the group was lost, if it was."""
        from ray.train import TrainingFailedError

        self.grow.unlink(missing_ok=True)
        self.starts += 1
        for job in jobs:
            # What the ranks of a lost group wrote about their collectives is no failure of the trial.
            self.store.trial_log(job.trial_id).unlink(missing_ok=True)
        up = nodes.addresses()
        more = self.resources.workers - workers
        try:
            with (
                scratch() as state,
                watch_for_room(more, self.worker, started=self.room.is_file, on_room=lambda: self.grow.write_text("")),
            ):
                self._trainer(jobs, workers, state).fit()
        except TrainingFailedError as error:
            return loss_of(error, up)
        return None

    def _trainer(self, jobs: Sequence[TrialJob], workers: int, state: str) -> Any:
        """Make the Ray Train run; `state` is the folder for Ray's own state of it."""
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from inoc_ray.train.lean_trainer import LeanTrainer

        per_worker: dict[str, float] = {"CPU": self.worker.cpus}
        if self.worker.gpus:
            per_worker["GPU"] = self.worker.gpus
        return LeanTrainer(
            train_worker,
            private=PRIVATE_RESOURCE in ray.cluster_resources(),
            train_loop_config={
                "jobs": [job.to_dict() for job in jobs],
                "storage": self.store.address,
                "run_name": self.run_name,
                "cpus": self.worker.cpus,
                "needs": self.needs,
                "sweep": self.sweep,
                # After a loss the line on that loss has said it.
                "tell_resumed": self.starts == 1,
            },
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=self.worker.gpus > 0, resources_per_worker=per_worker
            ),
            run_config=RunConfig(
                name=self.run_name,
                storage_path=state,
                # This module starts it again: with what there is room for, with one line on the console, and not for ever.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
                callbacks=self.callbacks or None,
            ),
        )

    def _left(self) -> list[TrialJob]:
        """Return the jobs that are neither committed nor failed by themselves; one that was under way is not failed."""
        return [job for job in self.jobs if not self.store.trial_done(job.trial_id) and not self._failed(job)]

    def _failed(self, job: TrialJob) -> bool:
        return self.store.trial_log(job.trial_id).is_file() and not (self.attempts / job.trial_id).is_file()

    def _reached(self) -> tuple[set[str], dict[str, int]]:
        """Return the jobs that are left and the steps of their snapshots; another value means that the group got further."""
        left = {job.trial_id for job in self._left()}
        return left, {trial_id: latest_step(self.store.snapshots(trial_id)) for trial_id in left}

    def _under_way(self) -> TrialJob:
        """Return the trial that is under way, or else the first that is left."""
        left = self._left() or list(self.jobs)
        return next((job for job in left if (self.attempts / job.trial_id).is_file()), left[0])

    def _next(self) -> str:
        """Return how the group goes on after a loss."""
        if not self._left():
            return "nothing is lost, all of its fine-tunes are trained"
        step = latest_step(self.store.snapshots(self._under_way().trial_id))
        return (
            f"it goes on after step {step}, from its last snapshot" if step else "it starts again from its first step"
        )

    def _end(self, why: str) -> str:
        """Write to the logs of the jobs that are left now why they were not trained; return it."""
        if self.sweep is not None and self.store.stop_mark(self.sweep).exists():
            return why
        for job in self._left():
            log = self.store.trial_log(job.trial_id)
            before = log.read_text() if log.is_file() else ""
            log.write_text(f"{before}{why}\n")
        return why


def of_a_worker(needs: Needs, jobs: Sequence[TrialJob], worker: Node) -> Needs:
    """Return what a worker of these jobs asks of its node."""
    used = {job.spec.model for job in jobs}
    models = {folder: found for folder, found in needs.models.items() if folder in used}
    return replace(needs, models=models, gpus=math.ceil(worker.gpus))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


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
    if not path.is_file():
        path.write_text(group_error or "The worker group ended before it trained this trial.\n")
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    error = lines[-1] if lines else "no message"
    return Outcome(trial_id=job.trial_id, label=job.label, status="failed", error=error)
