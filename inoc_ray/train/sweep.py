"""Ray Tune over groups of trials: each Tune trial is the driver of one Ray Train run that trains a group.

Tune is used for queueing, concurrency and progress. Which trials are done is read from the store, before and
after, so an interrupted sweep needs no restoring: the next one trains what is missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inoc_ray.cluster.connect import Capacity, concurrent_groups
from inoc_ray.config.identity import content_id, identity_fields
from inoc_ray.console import Progress, say
from inoc_ray.data.chat import rows_hash, rows_text
from inoc_ray.errors import TrialError
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.steps import steps_of, variants_of
from inoc_ray.plan.trials import Trial
from inoc_ray.store.store import Store
from inoc_ray.train.group import outcome_of, train_group
from inoc_ray.train.job import Outcome, TrialJob
from inoc_ray.train.spec import LoopSpec
from inoc_ray.train.stop import snapshot_before_stop
from inoc_ray.train.worker import NOTE


def groups_of(trials: Sequence[Trial], size: int) -> list[list[Trial]]:
    """Split trials into groups of at most `size` that share model and recipe, as evenly as possible.

    Even groups end together: 5 trials at size 4 make 3 + 2, not 4 + 1.
    """
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(content_id([trial.model.hash, identity_fields(trial.recipe)]), []).append(trial)
    groups = []
    for members in alike.values():
        count = -(-len(members) // size)
        short, longer = divmod(len(members), count)
        start = 0
        for index in range(count):
            stop = start + short + (index < longer)
            groups.append(members[start:stop])
            start = stop
    return groups


def job_of(plan: Plan, store: Store, trial: Trial) -> TrialJob:
    """Make the job that a worker group trains; its rows are written to the store, where every worker can read them."""
    prior = trial.model.prior_stage
    spec = LoopSpec(
        model=str(trial.model.path),
        seed=trial.seed,
        recipe=trial.recipe,
        resources=plan.study.resources,
        enable_thinking=trial.model.enable_thinking,
        start=str(store.adapter(prior.trial_id)) if prior else None,
    )
    return TrialJob(
        trial_id=trial.trial_id,
        label=trial.label,
        spec=spec,
        rows=str(_keep_rows(plan, store, trial)),
        variants=variants_of(plan, trial),
        record={
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


def _keep_rows(plan: Plan, store: Store, trial: Trial) -> Path:
    rows = [row for epoch in range(variants_of(plan, trial)) for row in plan.training_rows(trial, epoch)]
    return store.keep_rows(rows_hash(rows), rows_text(rows).encode()).fetch()


def waves_of(plan: Plan) -> list[list[Trial]]:
    """Return what is to be trained as waves: trials that wait for nothing, then those that start from one of the first.

    There is no third: a prior stage starts from the base.
    """
    first = [t for t in plan.to_train if plan.can_start(t)]
    then = [t for t in plan.to_train if not plan.can_start(t)]
    return [wave for wave in (first, then) if wave]


def train_missing(plan: Plan, store: Store, capacity: Capacity) -> list[Outcome]:
    """Train every trial of the plan that is not done; return one outcome per trial, failed ones among them.

    A trial whose prior stage failed is not tried and counts as failed; the others go on.
    Raises InputError when a group does not fit the cluster, TrialError when Ray Tune itself fails.
    """
    outcomes: dict[str, Outcome] = {}
    errors: list[str] = []
    for number, wave in enumerate(waves_of(plan), start=1):
        ready = [t for t in wave if t.model.prior_stage is None or store.trial_done(t.model.prior_stage.trial_id)]
        trained, failures = _train_wave(ready, plan, store, capacity=capacity, number=number) if ready else ([], [])
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
    trials: Sequence[Trial], plan: Plan, store: Store, *, capacity: Capacity, number: int
) -> tuple[list[Outcome], list[str]]:
    """Train trials that do not depend on each other; return outcomes and the errors of groups that ended early."""
    resources = plan.study.resources
    groups = [[job_of(plan, store, t) for t in g] for g in groups_of(trials, resources.trials_per_group)]
    at_once = concurrent_groups(resources, capacity, len(groups))
    # Read when ray.tune is imported: its own loggers would write a copy of every report into the storage folder.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # Tune's own console output; progress is shown by us.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # Tune would take a Ctrl-C for itself, end the workers, and return as if the sweep were over.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    def one_group(config: dict[str, Any], jobs: list[list[TrialJob]], storage: str) -> None:
        mine = jobs[config["group"]]
        name = f"group-{content_id([job.trial_id for job in mine])}"
        train_group(mine, resources, storage, run_name=name, callbacks=[TuneReportCallback()])

    steps = {job.trial_id: steps_of(plan, trial) for group in groups for job, trial in _with_trials(group, trials)}
    with Progress("training", sum(steps.values()), "steps") as progress:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(one_group, jobs=groups, storage=store.address), capacity.driver_request()
            ),
            param_space={"group": tune.grid_search(list(range(len(groups))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=tune.RunConfig(
                name=f"sweep-{plan.study.name}-{number}",
                storage_path=str(store.tune()),
                verbose=0,
                callbacks=[under_way := _follow(progress, steps)],
            ),
        )
        try:
            results = tuner.fit()
        except (KeyboardInterrupt, SystemExit):
            # Ctrl-C, or SIGTERM, of which Ray makes a SystemExit. The workers end with this process.
            snapshot_before_stop(store, under_way.trials())
            raise
        progress.update(sum(steps.values()) if not results.num_errors else progress.done)
    errors = [str(error) for error in results.errors]
    first_error = errors[0] if errors else None
    outcomes = [outcome_of(job, store, done_before=False, group_error=first_error) for group in groups for job in group]
    return outcomes, errors


def _with_trials(group: list[TrialJob], trials: Sequence[Trial]) -> list[tuple[TrialJob, Trial]]:
    by_id = {t.trial_id: t for t in trials}
    return [(job, by_id[job.trial_id]) for job in group]


def _follow(progress: Progress, steps: dict[str, int]) -> Any:
    """Make a Tune callback, on the driver, that adds up the steps that the groups report."""
    from ray.tune import Callback

    reached: dict[str, int] = {}
    current: dict[str, str] = {}

    class Follow(Callback):
        def trials(self) -> list[str]:
            """Return the trials that the groups reported last: those in training."""
            return list(current.values())

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            # Tune puts its own id under "trial_id", so the workers report ours as "job".
            job = result.get("job")
            if job not in steps:
                return
            if note := result.get(NOTE):
                say(note)
            before = current.get(trial.trial_id)
            if before not in (None, job):
                reached[before] = steps[before]
            current[trial.trial_id] = job
            reached[job] = result["step"]
            progress.update(sum(reached.values()), result["label"])

    return Follow()
