"""`inoc-ray run`, step by step: plan, train, sample, judge, compare, publish."""

from __future__ import annotations

import contextlib
import errno
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inoc_ray import stopping
from inoc_ray.cluster.checks import host_memory
from inoc_ray.cluster.connect import connected, is_attached
from inoc_ray.cluster.fit import Capacity
from inoc_ray.cluster.keeper import wait_for_keepers
from inoc_ray.console import say
from inoc_ray.errors import InputError, StorageError, TrialError, hide_password
from inoc_ray.evaluate.arrivals import Arrivals
from inoc_ray.evaluate.beside import Beside, Lingering
from inoc_ray.evaluate.grading import grade_missing, grade_stored
from inoc_ray.evaluate.grading_beside import JudgesBeside
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.models.resolve import fetch_models
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.cells import judges_of
from inoc_ray.plan.failure_keys import cell_key, trial_key
from inoc_ray.plan.plan import Plan
from inoc_ray.run.cluster_preflight import check_cluster
from inoc_ray.run.integrity import claims_of, report_damage, seal_samples, verify_used
from inoc_ray.run.metrics import exported
from inoc_ray.run.open_resources import on_this_machine, shape_notes
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.run.planned_and_stored import failures_of, unfinished
from inoc_ray.run.precision import precision_notes
from inoc_ray.run.preflight import preflight
from inoc_ray.run.progress import recorded
from inoc_ray.run.publish import (
    compare_study,
    live_runs,
    sync_study,
    write_study_report,
)
from inoc_ray.run.stopped import says_what_is_kept
from inoc_ray.run.study_record import keep_study
from inoc_ray.run.written_results import report_is_written
from inoc_ray.serve.app import Endpoint, check_running_serve
from inoc_ray.serve.owner import reclaim
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.sizing.replicas import EngineNeed, Room, judges_with_room, needs_of_engines, needs_of_judge
from inoc_ray.sizing.schedule import schedule_of, shared_engine
from inoc_ray.store.failures import MLFLOW, REPORT, Failure, Thing, failure_of, keep_failures
from inoc_ray.store.lease import Lease, LeaseTaken
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study, models_of

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.train.sweep import Watch


@contextlib.contextmanager
def _timed(outcome: StudyOutcome, step: str) -> Iterator[None]:
    """Time a step; a run that was told to stop does not begin with it."""
    stopping.check()
    started = time.monotonic()
    outcome.phase = step
    try:
        yield
    finally:
        outcome.seconds[step] = outcome.seconds.get(step, 0.0) + time.monotonic() - started


@contextlib.contextmanager
def _alone(study: Study, store: Store, claims: Collection[str]) -> Iterator[Lease]:
    """Hold the study's lease, since two runs that share trials would train and sample the same things."""
    try:
        with store.lease(f"study-{study.name}", claims) as lease:
            yield lease
    except LeaseTaken as error:
        raise InputError(f"{error} Wait for it to end, or check `inoc-ray status`.") from error


_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
Show = Callable[["Comparison"], None]


def run_study(
    study: Study,
    store: Store,
    *,
    train: bool = True,
    evaluate: bool = True,
    only: Sequence[str] = (),
    show: Show = lambda comparison: None,
) -> StudyOutcome:
    """Train, sample and judge what is missing, compare, write the report and update MLflow.

    train: False evaluates finished trials only. evaluate: False samples and judges nothing. only: names of evaluations or
    contexts, to sample only those. show: called with the comparison as soon as there is one, before the report and MLflow,
    which can fail. Raise InputError before anything is written if the study cannot run. What fails does not stop the rest: it is
    listed in the outcome, and kept beside the results until it is done.

    The plan is built once; each step reads the store again.
    """
    outcome = StudyOutcome(study.name)
    fetch_models(models_of(study))
    whole = build_plan(study, store)
    plan = on_this_machine(whole.only(only), trains=train)
    preflight(plan, store, whole)
    # After the checks, whose message is to be the only one.
    for note in (*plan.notes, *(precision_notes(plan) if train else ())):
        say(f"note: {note}")
    claims = claims_of(plan, store, train=train)
    with (
        says_what_is_kept(whole, store, outcome),
        _storage_errors(store),
        _alone(study, store, claims) as lease,
        recorded(whole, store, outcome),
        live_runs(whole, store) as live,
    ):
        plan = plan.refreshed(store)
        report_damage(plan)
        seal_samples(plan, store)
        if verify_used(plan, store, train=train):
            # What is to be trained again may be all of its kind: its shape was not chosen above.
            plan = on_this_machine(plan.refreshed(store), trains=train)
        stored_before, unfinished_before = sum(plan.stored.values()), unfinished(plan, store)
        ready = evaluate and (
            any(train or plan.has_weights(c.subject) for c in plan.to_sample) or capabilities_missing(plan, store)
        )
        to_judge = _left_to_judge(plan, store) if evaluate else []
        by_own = any(study.judges[name].path is not None for name in to_judge)
        training = train and bool(plan.to_train)
        with contextlib.ExitStack() as stack:
            engine = Lingering()
            room: Room | None = None
            with contextlib.ExitStack() as sending:
                if training or ready or by_own:
                    with _timed(outcome, "starting Ray"):
                        say("starting Ray ...")
                        capacity = stack.enter_context(connected())
                        # What a killed command left behind would hold what this one needs.
                        wait_for_keepers()
                        reclaim()
                    if ready or by_own:
                        check_running_serve()
                    plan = check_cluster(plan, store, capacity, trains=training)
                    for note in shape_notes(plan) if training else ():
                        say(f"note: {note}")
                    keep_study(whole, store)
                    judges = JudgesBeside(plan, store, engine)
                    stack.enter_context(engine)
                    watch = stack.enter_context(exported(plan, outcome, live.record))
                    sending.enter_context(live.sending())
                    room = Room(capacity=capacity, host_bytes=None if is_attached() else host_memory())
                    with _judging_beside(plan, judges, outcome, evaluate=evaluate):
                        evaluation = _Evaluation(engine, judges, room) if evaluate else None
                        if training:
                            _train(plan, store, capacity, outcome, watch, evaluation)
                            plan = plan.refreshed(store)
                        if evaluation is not None and (ready or training):
                            lease.check()
                            _sample(plan, store, outcome, evaluation)
                            plan = plan.refreshed(store)
                if evaluate and ungraded_parts(plan, store):
                    lease.check()
                    _judge(plan, store, outcome, engine, room)
            engine.begin_to_end()
            outcome.sampled = sum(plan.stored.values()) - stored_before
            whole = whole.refreshed(store)
            _record_losses(whole.only(only), store, outcome, unfinished_before)
            if any(whole.stored.values()) or failures_of(whole, store):
                keep_study(whole, store)
                _results(whole, store, outcome, show)
    return outcome


def _left_to_judge(plan: Plan, store: Store) -> list[str]:
    """Return the judges with something to grade for which answers are missing; what their stored answers decide is graded."""
    left = ungraded_parts(plan, store)
    return list(ungraded_parts(plan, store) if grade_stored(store, left) else left)


def _record_failures(
    plan: Plan, store: Store, outcome: StudyOutcome, *, tried: Iterable[Thing], failed: Sequence[Failure]
) -> None:
    """Record what failed of what was tried, in the outcome and beside the study's results; nothing when the run is stopped.

    What ends then ends because of that, whatever a library makes of it.
    """
    stopping.check()
    outcome.failed += failed
    outcome.tried |= set(tried)
    keep_failures(store, plan.study.name, tried, failed)


def lost_during_run(before: Set[Thing], after: Set[Thing], tried: Set[Thing], failed: Iterable[Failure]) -> set[Thing]:
    """Return what is unfinished after a run, although it was done before, or was tried and did not fail.

    before, after: what was unfinished then.
    """
    known = {thing for failure in failed for thing in failure.of} | {REPORT, MLFLOW}
    return {thing for thing in after if thing not in before or thing in tried} - known


def _record_losses(plan: Plan, store: Store, outcome: StudyOutcome, before: Set[Thing]) -> None:
    """Record as failed what the storage folder lost while the study ran: somebody cleaned up, or a mount went away."""
    lost = lost_during_run(before, unfinished(plan, store), outcome.tried, outcome.failed)
    if lost:
        kinds = Counter(kind for kind, *_ in lost)
        what = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(kinds.items()))
        error = f"results disappeared from the storage folder during the run ({what}); run the study again"
        _record_failures(
            plan, store, outcome, tried=[], failed=[Failure("storage", error, store.address, tuple(sorted(lost)))]
        )


@contextlib.contextmanager
def _storage_errors(store: Store) -> Iterator[None]:
    """Raise TrialError for a full disk, a failing mount or a bucket that stays away: the input is not wrong."""
    try:
        yield
    except StorageError as error:
        raise TrialError(f"{error} What was committed is kept; run the command again.") from error
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS and not str(error.filename or "").startswith(store.address):
            raise
        raise TrialError(
            f"{error.filename or store.address}: {error.strerror}. What was committed is kept; make room or fix the storage "
            "folder, then run the command again."
        ) from error


@dataclass
class _Evaluation:
    """What the steps of a run share that sample."""

    engine: Lingering
    judges: JudgesBeside
    room: Room
    failed: set[Thing] = field(default_factory=set)
    """What failed beside the training, and is not tried again after it."""

    def serving(self, spec: ServeSpec) -> AbstractContextManager[Endpoint]:
        """Serve an engine that samples, in the place of judges if need be."""
        return self.engine.serving(spec, short_of_room=self.judges.give_way)

    def judges_need(self, plan: Plan) -> list[EngineNeed]:
        """Return what the judges take that grade now."""
        return [need for judge in self.judges.on_engines for need in needs_of_judge(plan, judge)]

    def begin_judges(self, plan: Plan, *stages: Sequence[EngineNeed]) -> None:
        """Let judges on engines of their own begin that have room beside those that have begun, in each of these stages."""
        room = self.room.beside(self.judges_need(plan))
        fitting = [judges_with_room(plan, engines, room, self.judges.names) for engines in stages]
        for judge in fitting[0]:
            if all(judge in judges for judges in fitting):
                self.judges.begin(judge)


@contextlib.contextmanager
def _judging_beside(plan: Plan, judges: JudgesBeside, outcome: StudyOutcome, *, evaluate: bool) -> Iterator[None]:
    """Let judges grade beside the block: those behind APIs all the while, others from when they have room."""
    for judge in judges_of(plan.to_sample) if evaluate else ():
        if judge.folder is None:
            judges.begin(judge)
    try:
        yield
        if judges.names:
            with _timed(outcome, "judging"):
                outcome.judge_calls += judges.finish()
    except BaseException:
        judges.leave()
        raise


def _train(
    plan: Plan, store: Store, capacity: Capacity, outcome: StudyOutcome, watch: Watch, evaluation: _Evaluation | None
) -> None:
    """Train what is missing, and sample beside that what can be; evaluation: None if nothing is to be sampled."""
    from inoc_ray.evaluate.sampling import sample_beside

    store.discard_staged({trial.trial_id for trial in plan.to_train})
    schedule = schedule_of(plan, capacity, host_bytes=None if is_attached() else host_memory())
    if evaluation is None or not schedule.overlap:
        outcome.schedule = "phased"
        if evaluation is not None and plan.to_train:
            say(f"evaluating after the training ({schedule.why})")
        _train_all(plan, store, capacity, outcome, watch)
        return
    outcome.schedule = "overlap"
    say(f"evaluating beside the training ({schedule.why})")
    cells = shared_engine(plan)
    awaited = [cell.subject.trained_by for cell in cells if not plan.has_weights(cell.subject)]
    arrivals = Arrivals(store, filter(None, awaited))

    def seen(trial_id: str, record: Mapping[str, Any]) -> None:
        arrivals.begun(trial_id)
        watch(trial_id, record)

    engine, judges = evaluation.engine, evaluation.judges

    def sample() -> list[dict[str, Any]]:
        found = sample_beside(plan, store, arrivals, cells, evaluation.serving, judges.add)
        if arrivals.gives_way:
            say("the engine beside the training gives its place to it; what is missing is sampled afterwards")
            engine.end()
        return found

    def give_way() -> None:
        arrivals.give_way()
        judges.give_way()

    sampling = Beside(sample, "evaluation")
    for judge in schedule.judges:
        judges.begin(judge)
    try:
        _train_all(plan, store, schedule.capacity, outcome, seen, give_way)
    except BaseException:
        arrivals.over()
        sampling.leave()
        raise
    arrivals.over()
    if not arrivals.gives_way:
        # The groups have left their place.
        mine = {cell.key for cell in cells}
        others = [cell for cell in plan.to_sample if cell.key not in mine]
        now, later = needs_of_engines(plan, cells, None), needs_of_engines(plan, others, evaluation.room)
        evaluation.begin_judges(plan, now, later)
    with _timed(outcome, "evaluating"):
        failed = [failure_of(found) for found in sampling.result()]
    # The others are complete, or tried again after the training.
    evaluation.failed |= {thing for one in failed for thing in one.of}
    _record_failures(plan, store, outcome, tried=evaluation.failed, failed=failed)


def _train_all(
    plan: Plan,
    store: Store,
    capacity: Capacity,
    outcome: StudyOutcome,
    watch: Watch,
    give_way: Callable[[], None] = lambda: None,
) -> None:
    from inoc_ray.train.sweep import train_missing

    tried = {trial_key(trial) for trial in plan.to_train}
    failed: list[Failure] = []
    with _timed(outcome, "training"):
        try:
            for result in train_missing(plan, store, capacity, watch, give_way=give_way):
                if result.status == "failed":
                    log = str(store.trial_log(result.trial_id))
                    of = (("trial", result.trial_id),)
                    failed.append(Failure(result.label, " ".join((result.error or "no message").split()), log, of))
                else:
                    outcome.trained += result.status == "trained"
        except TrialError as error:
            failed = [failure_of({"label": "training", "error": error, "log": store.logs(), "of": sorted(tried)})]
            _record_failures(plan, store, outcome, tried=tried, failed=failed)
            raise
    _record_failures(plan, store, outcome, tried=tried, failed=failed)


def capabilities_missing(plan: Plan, store: Store) -> bool:
    """Return whether a capability of a finished model has not been measured."""
    from inoc_ray.evaluate.capabilities import missing_capabilities

    return bool(missing_capabilities(plan, store, plan.study.evaluation.capabilities))


def _judge(plan: Plan, store: Store, outcome: StudyOutcome, engine: Lingering, room: Room | None) -> None:
    names = list(ungraded_parts(plan, store))
    tried = [("judge", name) for name in names]
    if any(plan.study.judges[name].path is not None for name in names):
        engine.end()
    with _timed(outcome, "judging"):
        judged = grade_missing(plan, store, room)
    outcome.judge_calls += judged.calls
    _record_failures(plan, store, outcome, tried=tried, failed=[failure_of(found) for found in judged.failed])


def _sample(plan: Plan, store: Store, outcome: StudyOutcome, evaluation: _Evaluation) -> None:
    """Sample what is missing, but for what failed beside the training."""
    from inoc_ray.evaluate.capabilities import missing_capabilities
    from inoc_ray.evaluate.sampling import sample_missing

    tried = [cell_key(cell) for cell in plan.to_sample if plan.has_weights(cell.subject)]
    tried += [task.thing for task in missing_capabilities(plan, store, plan.study.evaluation.capabilities)]
    tried = [thing for thing in tried if thing not in evaluation.failed]
    if not tried:
        return
    evaluation.begin_judges(plan, needs_of_engines(plan, plan.to_sample, evaluation.room))
    with _timed(outcome, "evaluating"):
        failed = sample_missing(
            plan,
            store,
            evaluation.serving,
            without=evaluation.failed,
            room=evaluation.room,
            beside=evaluation.judges_need(plan),
            on_commit=evaluation.judges.add,
        )
    _record_failures(plan, store, outcome, tried=tried, failed=[failure_of(found) for found in failed])


def _results(plan: Plan, store: Store, outcome: StudyOutcome, show: Show) -> None:
    """Compare and show; then write the report and update MLflow, each of which may fail alone."""
    with _timed(outcome, "comparing"):
        comparison = outcome.comparison = compare_study(plan, store, outcome)
    show(comparison)
    if not outcome.has_made_something and report_is_written(plan, store, comparison):
        outcome.report = store.report(plan.study.name)
    else:
        with _may_fail(plan, store, outcome, step="report", thing=REPORT):
            outcome.report = write_study_report(plan, store, comparison)
    with _may_fail(plan, store, outcome, step="MLflow", thing=MLFLOW):
        outcome.tracking_uri = sync_study(plan, store, comparison)


@contextlib.contextmanager
def _may_fail(plan: Plan, store: Store, outcome: StudyOutcome, *, step: str, thing: Thing) -> Iterator[None]:
    """Run a step whose failure, of whatever kind, must not lose what was measured: record it, with a log."""
    with _timed(outcome, step):
        try:
            yield
        except Exception as error:  # noqa: BLE001 - recorded with its log, exit code 1
            stopping.check()
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log = store.study_log(plan.study.name, step.lower())
            story = "".join(traceback.format_exception(error))
            log.write_text(hide_password(story))
            failed = failure_of({"label": step, "error": hide_password(reason), "log": log, "of": [thing]})
            _record_failures(plan, store, outcome, tried=[], failed=[failed])
