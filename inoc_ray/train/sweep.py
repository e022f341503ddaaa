"""Ray Tune over groups of trials: each Tune trial is the driver of one Ray Train run that trains a group.

Tune is used for queueing, concurrency and progress. Which trials are done is read from the store, before and
after, so an interrupted sweep needs no restoring: the next one trains what is missing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from inoc_ray.cluster.checks import Needs
from inoc_ray.cluster.cleaners import end_cleaners
from inoc_ray.cluster.connect import is_attached
from inoc_ray.cluster.fit import Capacity, concurrent_groups
from inoc_ray.cluster.keeper import kept
from inoc_ray.cluster.scratch import reclaim_on_nodes, scratch
from inoc_ray.config.identity import content_id, identity_fields
from inoc_ray.console import Progress, say
from inoc_ray.data.chat import rows_hash, rows_text
from inoc_ray.errors import TrialError
from inoc_ray.plan.needs import needs_of
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.probes import probes_of
from inoc_ray.plan.steps import steps_of, variants_of
from inoc_ray.plan.trials import Trial
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store
from inoc_ray.train.group import outcome_of, train_group
from inoc_ray.train.job import Outcome, TrialJob
from inoc_ray.train.spec import LoopSpec
from inoc_ray.train.stop import snapshot_before_stop
from inoc_ray.train.worker import NOTE, RECORD

DRIVER_RESTARTS = 3
"""How often the driver of a group is started again that was lost with its node."""
Train = Callable[..., list[Outcome]]
"""What trains a group: `train_group`."""
SIGN_SECONDS = 15.0
"""Least time between two signs of life of a sweep, for groups that wait for others of it."""
Watch = Callable[[str, Mapping[str, Any]], None]


GIVE_WAY = "give_way"
"""Key of a report of a group's driver: it has waited for room for long, and what else the command runs is to end."""


def nothing() -> None:
    """Do nothing when a group needs room."""


def ignore(trial_id: str, record: Mapping[str, Any]) -> None:
    """Do nothing with the record of a step."""


def groups_of(plan: Plan, trials: Sequence[Trial], capacity: Capacity | None = None) -> list[list[Trial]]:
    """Split trials into groups that share model, recipe and resources, as evenly as possible.

    A group has at most `trials_per_group` members. Without that, there are about as many groups in all as train at once, so that
    none starts after the first ones (capacity: of the cluster; None where it is not known, and then each trial is a group).
    Even groups end together: 5 trials at size 4 make 3 + 2, not 4 + 1.
    """
    alike: dict[str, list[Trial]] = {}
    keys: dict[tuple[str, str | None], str] = {}
    for trial in trials:
        pair = (trial.model.name, trial.recipe_name)
        if pair not in keys:
            runs_on = plan.resources_of(trial).model_dump(mode="json")
            keys[pair] = content_id([trial.model.hash, identity_fields(trial.recipe), runs_on])
        alike.setdefault(keys[pair], []).append(trial)
    groups = []
    for members in alike.values():
        taken = plan.resources_of(members[0])
        if taken.trials_per_group is not None:
            count = -(-len(members) // taken.trials_per_group)
        else:
            at_once = len(trials) if capacity is None else concurrent_groups(taken, capacity, len(trials))
            count = min(len(members), max(1, round(at_once * len(members) / len(trials))))
        short, longer = divmod(len(members), count)
        start = 0
        for index in range(count):
            stop = start + short + (index < longer)
            groups.append(members[start:stop])
            start = stop
    return groups


def job_of(plan: Plan, store: Store, trial: Trial) -> TrialJob:
    """Make the job that a worker group trains: rows are written to the store, and nothing in it is a path of this machine.

    (But for the model's folder, which every node finds for itself: `models.resolve.on_this_node`.)
    """
    prior = trial.model.prior_stage
    probes = probes_of(plan, trial)
    spec = LoopSpec(
        model=str(trial.model.path),
        seed=trial.seed,
        recipe=trial.recipe,
        resources=plan.resources_of(trial),
        enable_thinking=trial.model.enable_thinking,
        start=str(store.weights_place(prior.trial_id)) if prior else None,
    )
    return TrialJob(
        trial_id=trial.trial_id,
        label=trial.label,
        spec=spec,
        rows=_keep_rows(plan, store, trial),
        starts_from=prior.trial_id if prior else None,
        variants=variants_of(plan, trial),
        probes={probe.name: [row.to_dict() for row in probe.rows] for probe in probes},
        points=None if plan.study.dynamics is None else plan.study.dynamics.points,
        study=plan.study.name,
        record={
            **({"probes": {probe.name: probe.to_record() for probe in probes}} if probes else {}),
            "setting": trial.setting,
            "arm": trial.arm.name,
            "kind": trial.arm.kind,
            "prompt": trial.arm.prompt,
            "inoculation": None if trial.arm.prompt is None else trial.arm.inoculation.model_dump(mode="json"),
            "model": trial.model.name,
            "model_hash": trial.model.hash,
            "taught_by": prior.trial_id if prior else None,
            "dataset_hash": trial.dataset_hash,
            "seed": trial.seed,
            "recipe": trial.recipe.model_dump(mode="json"),
        },
    )


def _keep_rows(plan: Plan, store: Store, trial: Trial) -> str:
    """Write the rows of a trial to the store; return their hash."""
    rows = [row for epoch in range(variants_of(plan, trial)) for row in plan.training_rows(trial, epoch)]
    content = rows_hash(rows)
    store.keep_rows(content, rows_text(rows).encode())
    return content


def waves_of(plan: Plan) -> list[list[Trial]]:
    """Return what is to be trained as waves: trials that wait for nothing, then those that start from one of the first.

    There is no third stage: a prior stage starts from the base. The groups of a wave have one shape (workers and what each
    takes), so that as many run at once as fit; narrow shapes come first.
    """
    waves: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in plan.to_train:
        taken = plan.resources_of(trial)
        width = (taken.workers * taken.gpus_per_worker, taken.workers * taken.cpus_per_worker)
        shape = (taken.workers, taken.gpus_per_worker, taken.cpus_per_worker, taken.max_concurrent_groups or 0)
        waves.setdefault((not plan.can_start(trial), *width, *shape), []).append(trial)
    return [waves[key] for key in sorted(waves)]


def train_missing(
    plan: Plan,
    store: Store,
    capacity: Capacity,
    watch: Watch = ignore,
    train: Train = train_group,
    give_way: Callable[[], None] = nothing,
) -> list[Outcome]:
    """Train every trial of the plan that is not done; return one outcome per trial, failed ones among them.

    watch: called in this process, every few seconds of a trial's training, with its id and the record of its latest step.
    train: what trains a group, called in the function of a Ray Tune trial with `train_group`'s arguments. give_way: called in this
    process when a group has waited for room for long.
    A trial whose prior stage failed is not tried and counts as failed; the others go on.
    Raises InputError when a group does not fit the cluster, TrialError when Ray Tune itself fails.
    """
    outcomes: dict[str, Outcome] = {}
    errors: list[str] = []
    for number, wave in enumerate(waves_of(plan), start=1):
        ready = [t for t in wave if t.model.prior_stage is None or store.trial_done(t.model.prior_stage.trial_id)]
        trained, failures = (
            _train_wave(
                ready, plan, store, capacity=capacity, number=number, watch=watch, train=train, give_way=give_way
            )
            if ready
            else ([], [])
        )
        without = [_prior_stage_failed(t, store, outcomes) for t in wave if t not in ready]
        outcomes |= {o.trial_id: o for o in [*trained, *without]}
        errors += failures
    if errors and all(o.status == "failed" for o in outcomes.values()):
        raise TrialError(f"training: no trial could be trained. {errors[0].strip().splitlines()[-1]}")
    return list(outcomes.values())


def _prior_stage_failed(trial: Trial, store: Store, outcomes: Mapping[str, Outcome]) -> Outcome:
    """Log that a trial was not trained because the one that it starts from failed, and return that outcome."""
    prior = trial.model.prior_stage
    assert prior is not None
    why = outcomes[prior.trial_id].error if prior.trial_id in outcomes else None
    error = (
        f"not trained: it goes on from trial {prior.trial_id} ({prior.label}), which failed: {why or 'it is not there'}; "
        f"see {store.trial_log(prior.trial_id)}"
    )
    store.trial_log(trial.trial_id).write_text(f"{error}\n")
    return Outcome(trial_id=trial.trial_id, label=trial.label, status="failed", error=error)


def _train_wave(
    trials: Sequence[Trial],
    plan: Plan,
    store: Store,
    *,
    capacity: Capacity,
    number: int,
    watch: Watch,
    train: Train,
    give_way: Callable[[], None],
) -> tuple[list[Outcome], list[str]]:
    """Train trials of one wave; return outcomes and the errors of groups that ended early."""
    members = groups_of(plan, trials, capacity)
    groups = [[job_of(plan, store, t) for t in g] for g in members]
    resources = [plan.resources_of(g[0]) for g in members]
    at_once = concurrent_groups(resources[0], capacity, len(groups))
    needs = needs_of(plan, store) if is_attached() else None
    # Read when ray.tune is imported: its own loggers would write a copy of every report into the storage folder.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # Tune's own console output; progress is shown by us.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # Tune's own state of all trials, from which nothing is restored: written once, and not every few seconds.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"
    # Tune would take a Ctrl-C for itself, end the workers, and return as if the sweep were over.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Its errors, with tracebacks, too: what becomes of a lost driver is said by `_follow`, and of a failed one by its outcomes.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    from ray import tune

    def one_group(config: dict[str, Any], jobs: list[str], storage: str, needs: Needs | None) -> None:
        mine = [TrialJob.from_dict(job) for job in json.loads(jobs[config["group"]])]
        name = f"group-{content_id([job.trial_id for job in mine])}"
        from inoc_ray.train.lean_trainer import ReportToTune

        report = ReportToTune()

        def tell(line: str) -> None:
            # The way of the workers' reports: the console is that of another process, perhaps on another node.
            report.after_report(run_context=None, metrics=[{NOTE: line}], checkpoint=None)

        train(
            mine,
            resources[config["group"]],
            storage,
            run_name=name,
            callbacks=[report],
            tell=tell,
            sign=Store(storage).sign_of_life(sweep),
            sweep=sweep,
            needs=needs,
            give_way=lambda: report.after_report(run_context=None, metrics=[{GIVE_WAY: True}], checkpoint=None),
        )

    sweep = f"sweep-{plan.study.name}-{number}"
    store.stop_mark(sweep).unlink(missing_ok=True)
    steps = {trial.trial_id: steps_of(plan, trial) for trial in trials}
    with (
        Progress("training", sum(steps.values()), "steps") as progress,
        scratch() as state,
        kept(end_cleaners, reclaim_on_nodes, partial(discard_staged, store.address, set(steps))),
    ):
        tuner = tune.Tuner(
            tune.with_resources(
                # As texts, which every group's driver gets as a whole and of which it reads its own alone.
                tune.with_parameters(one_group, jobs=[*map(_as_text, groups)], storage=store.address, needs=needs),
                capacity.driver_request(),
            ),
            param_space={"group": tune.grid_search(list(range(len(groups))))},
            # The process of a group's driver, with all that it imported, is there for the next group as well.
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
            run_config=tune.RunConfig(
                name=sweep,
                storage_path=state,
                verbose=0,
                callbacks=[under_way := _follow(progress, steps, store.sign_of_life(sweep), watch, give_way)],
                failure_config=tune.FailureConfig(max_failures=DRIVER_RESTARTS),
            ),
        )
        try:
            results = tuner.fit()
        except (KeyboardInterrupt, SystemExit):
            # Without a command of ours, Ray makes a SystemExit of SIGTERM. The workers end with this process, one after
            # another, and what the last ones see of that is no failure.
            store.stop_mark(sweep).write_text("")
            snapshot_before_stop(store, under_way.trials())
            raise
        errors = [str(error) for error in results.errors]
        first_error = errors[0] if errors else None
        outcomes = [outcome_of(job, store, done_before=False, group_error=first_error) for g in groups for job in g]
        progress.update(sum(steps[outcome.trial_id] for outcome in outcomes if outcome.status != "failed"))
    return outcomes, errors


def discard_staged(storage: str, trial_ids: Collection[str]) -> None:
    """Delete what the workers of a dead command staged of its trials. A chore of the command's keeper."""
    Store(storage).discard_staged(trial_ids)


def _as_text(group: Sequence[TrialJob]) -> str:
    return json.dumps([job.to_dict() for job in group])


class Steps:
    """How many steps of a sweep are done, by what its groups report.

    A trial counts up to the step that it reported last, and all of it when its group has gone on to another, unless the group
    was lost at it: then it is trained on later, from an earlier step.
    """

    def __init__(self, steps: Mapping[str, int]) -> None:
        self._steps = dict(steps)
        self._reached: dict[str, int] = {}
        self._current: dict[str, str] = {}
        self.done = 0
        """The sum over all trials; kept, since there are as many reports as trials and more."""

    def under_way(self) -> list[str]:
        """Return the trials that the groups reported last: those in training."""
        return list(self._current.values())

    def report(self, group: str, trial: str, step: int) -> None:
        """Count a step of a trial that a group trains."""
        before = self._current.get(group)
        if before not in (None, trial):
            self._reach(before, self._steps[before])
        self._current[group] = trial
        self._reach(trial, step)

    def _reach(self, trial: str, step: int) -> None:
        self.done += step - self._reached.get(trial, 0)
        self._reached[trial] = step

    def lost(self, group: str) -> None:
        """Note that a group does not go on with its trial now."""
        self._current.pop(group, None)


def _follow(progress: Progress, steps: dict[str, int], sign: Place, watch: Watch, give_way: Callable[[], None]) -> Any:
    """Make a Tune callback, on the driver, that adds up the steps that the groups report and says their lines."""
    from ray.tune import Callback

    count = Steps(steps)
    signed = -math.inf

    class Follow(Callback):
        def __reduce__(self) -> tuple[Any, ...]:
            # Tune writes its callbacks to disk, for a sweep to be restored, which is never done here; this one has threads.
            return Callback, ()

        def trials(self) -> list[str]:
            """Return the trials that the groups reported last: those in training."""
            return count.under_way()

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            nonlocal signed
            if note := result.get(NOTE):
                say(note)
            if result.get(GIVE_WAY):
                give_way()
            # Tune puts its own id under "trial_id", so the workers report ours as "job".
            job = result.get("job")
            if job not in steps:
                # A line from the group's driver: the group was lost, or waits, and trains nothing now.
                count.lost(trial.trial_id)
                return
            count.report(trial.trial_id, job, result["step"])
            progress.update(count.done, result["label"])
            watch(job, result[RECORD])
            if time.monotonic() - signed >= SIGN_SECONDS:
                signed = time.monotonic()
                sign.write_text(f"{count.done}\n")

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            # Tune starts it again, elsewhere.
            count.lost(trial.trial_id)
            say("training: the driver of a group was lost with its node; it starts again")

    return Follow()
