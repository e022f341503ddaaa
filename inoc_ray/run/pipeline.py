"""A study from plan to report: what `inoc-ray run` does, step by step."""

from __future__ import annotations

import contextlib
import errno
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster.connect import Capacity, check_serving, connected
from inoc_ray.console import duration, say
from inoc_ray.endpoint.auth import without_password
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.grading import due, judge_missing
from inoc_ray.models.resolve import fetch_models
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.things import cell_thing, trial_thing
from inoc_ray.run.collect import example_samples, keep_study, report_meta, study_record, trial_records
from inoc_ray.run.intact import claims_of, say_damage, seal_samples, verify_used
from inoc_ray.run.planned import failures_of, planned_of, undone
from inoc_ray.run.preflight import check_capacity, check_gpus_there, preflight
from inoc_ray.store.failures import MLFLOW, REPORT, Failure, Thing, failure_of, keep_failures
from inoc_ray.store.lease import Lease, LeaseTaken
from inoc_ray.store.place import Place, at
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study, models_of

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison


@dataclass
class StudyOutcome:
    """What a run did and where its results are."""

    study: str
    trained: int = 0
    asked: int = 0
    judge_calls: int = 0
    """Requests that judging models were sent."""
    failed: list[Failure] = field(default_factory=list)
    """What failed in this run."""
    tried: set[Thing] = field(default_factory=set)
    """What this run set out to make."""
    seconds: dict[str, float] = field(default_factory=dict)
    comparison: Comparison | None = None
    report: Place | None = None
    tracking_uri: str = ""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "study": self.study,
            "trained": self.trained,
            "samples_asked": self.asked,
            "judge_calls": self.judge_calls,
            "failed": [failure.to_json() for failure in self.failed],
            "seconds": {step: round(seconds, 2) for step, seconds in self.seconds.items()},
            "report": str(self.report) if self.report else None,
            "tracking_uri": self.tracking_uri,
            "comparison": self.comparison.to_json() if self.comparison else None,
        }

    def to_text(self) -> str:
        """Return what was done and where everything is; the comparison has its own text."""
        lines = [] if self.comparison else ["nothing is evaluated yet.\n"]
        times = ", ".join(f"{step} {duration(seconds)}" for step, seconds in self.seconds.items())
        calls = f", sent judges {self.judge_calls} requests" if self.judge_calls else ""
        lines.append(f"Trained {self.trained} trials, asked for {self.asked} samples{calls} ({times}).")
        if self.report:
            lines.append(f"Report: {self.report}")
        if self.tracking_uri:
            lines.append(f"MLflow store: {self.tracking_uri}")
            lines.append(f"  look at it with: mlflow ui --backend-store-uri {self.tracking_uri}")
        return "\n".join(lines)

    def failure_text(self) -> str:
        """One line per failure, for the error message."""
        return "\n".join([f"{len(self.failed)} failed:", *(f"  {failure.in_words()}" for failure in self.failed)])


@contextlib.contextmanager
def _timed(outcome: StudyOutcome, step: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        outcome.seconds[step] = time.monotonic() - started


@contextlib.contextmanager
def _alone(study: Study, store: Store, claims: Collection[str]) -> Iterator[Lease]:
    """Holds the study's lease: two runs of one study, or of two that share trials, would ask and train the same things."""
    try:
        with store.lease(f"study-{study.name}", claims) as lease:
            yield lease
    except LeaseTaken as error:
        raise InputError(f"{error} Wait for it, or look with `inoc-ray status`.") from error


_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
Show = Callable[["Comparison"], None]


def run_study(
    study: Study, store: Store, *, train: bool = True, only: Sequence[str] = (), show: Show = lambda comparison: None
) -> StudyOutcome:
    """Train, evaluate and judge what is missing, compare, write the report and bring MLflow in line.

    With `train=False` only trials that are done are evaluated; with `only` just the evaluations or contexts of those names
    are asked for. `show` is given the comparison as soon as there is one, before the report and MLflow, which can fail. Raise
    InputError before anything is written when the study cannot run. What fails does not stop the rest; it is named in the
    outcome, and kept beside the results until it is done.

    The plan is built once; each step reads the store anew.
    """
    outcome = StudyOutcome(study.name)
    fetch_models(models_of(study))
    whole = build_plan(study, store)
    plan = whole.only(only)
    preflight(plan, store)
    # After what may refuse the study, whose one message stands alone.
    for note in plan.notes:
        say(f"note: {note}")
    with _storage_errors(store), _alone(study, store, claims_of(plan, store, train=train)) as lease:
        plan = plan.refreshed(store)
        say_damage(plan)
        seal_samples(plan, store)
        if verify_used(plan, store, train=train):
            plan = plan.refreshed(store)
        asked_before, undone_before = sum(plan.stored.values()), undone(plan, store)
        ready = any(train or plan.is_there(c.subject) for c in plan.to_ask) or capabilities_missing(plan, store)
        waiting = due(plan, store)
        own_judges = any(judge.path is not None for judge in study.judges.values())
        by_own = any(study.judges[name].path is not None for name in waiting)
        training = train and bool(plan.to_train)
        with contextlib.ExitStack() as stack:
            if training or ready or by_own:
                with _timed(outcome, "starting Ray"):
                    say("starting Ray ...")
                    capacity = stack.enter_context(connected())
                check_capacity(plan, capacity)
                check_gpus_there(plan)
                if own_judges:
                    check_serving(study.resources, capacity)
                keep_study(plan, store)
                if training:
                    _train(plan, store, capacity, outcome)
                    plan = plan.refreshed(store)
                if ready or training:
                    lease.check()
                    _ask(plan, store, outcome)
                    plan = plan.refreshed(store)
            if due(plan, store):
                lease.check()
                _judge(plan, store, outcome)
        outcome.asked = sum(plan.stored.values()) - asked_before
        whole = whole.refreshed(store)
        _check_nothing_went(whole.only(only), store, outcome, undone_before)
        if any(whole.stored.values()) or failures_of(whole, store):
            keep_study(whole, store)
            _results(whole, store, outcome, show)
    return outcome


def _failed(plan: Plan, store: Store, outcome: StudyOutcome, tried: Iterable[Thing], failed: Sequence[Failure]) -> None:
    """Notes what failed of what was tried, in the outcome and beside the study's results."""
    outcome.failed += failed
    outcome.tried |= set(tried)
    keep_failures(store, plan.study.name, tried, failed)


def gone(before: Set[Thing], after: Set[Thing], tried: Set[Thing], failed: Iterable[Failure]) -> set[Thing]:
    """Return what is undone after a run though it was done before, or was tried and did not fail.

    before, after: what was undone.
    """
    known = {thing for failure in failed for thing in failure.of} | {REPORT, MLFLOW}
    return {thing for thing in after if thing not in before or thing in tried} - known


def _check_nothing_went(plan: Plan, store: Store, outcome: StudyOutcome, before: Set[Thing]) -> None:
    """Notes as failed what the storage folder has lost while the study ran: somebody cleaned up, or a mount went away."""
    lost = gone(before, undone(plan, store), outcome.tried, outcome.failed)
    if lost:
        kinds = Counter(kind for kind, *_ in lost)
        what = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(kinds.items()))
        error = f"what was there or was made in this run is not there any more ({what}); run the study again"
        _failed(plan, store, outcome, [], [Failure("storage", error, store.address, tuple(sorted(lost)))])


@contextlib.contextmanager
def _storage_errors(store: Store) -> Iterator[None]:
    """A disk that is full or a mount that fails in the middle of a run, as TrialError: the input is not wrong."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS and not str(error.filename or "").startswith(store.address):
            raise
        raise TrialError(
            f"{error.filename or store.address}: {error.strerror}. What was committed is kept; run the command again when there is "
            "room and the storage folder can be written."
        ) from error


def _train(plan: Plan, store: Store, capacity: Capacity, outcome: StudyOutcome) -> None:
    from inoc_ray.train.sweep import train_missing

    tried = {trial_thing(trial) for trial in plan.to_train}
    failed: list[Failure] = []
    with _timed(outcome, "training"):
        try:
            for result in train_missing(plan, store, capacity):
                if result.status == "failed":
                    log = str(store.trial_log(result.trial_id))
                    of = (("trial", result.trial_id),)
                    failed.append(Failure(result.label, " ".join((result.error or "no message").split()), log, of))
                else:
                    outcome.trained += result.status == "trained"
        except TrialError as error:
            failed = [failure_of({"label": "training", "error": error, "log": store.logs(), "of": sorted(tried)})]
            raise
        finally:
            _failed(plan, store, outcome, tried, failed)


def capabilities_missing(plan: Plan, store: Store) -> bool:
    """Whether a task has not been measured of a model that is there."""
    from inoc_ray.evaluate.capabilities import missing

    return bool(missing(plan, store, plan.study.evaluation.capabilities))


def _judge(plan: Plan, store: Store, outcome: StudyOutcome) -> None:
    tried = [("judge", name) for name in due(plan, store)]
    with _timed(outcome, "judging"):
        judged = judge_missing(plan, store)
    outcome.judge_calls = judged.calls
    _failed(plan, store, outcome, tried, [failure_of(found) for found in judged.failed])


def _ask(plan: Plan, store: Store, outcome: StudyOutcome) -> None:
    from inoc_ray.evaluate.capabilities import missing
    from inoc_ray.evaluate.sampling import ask_missing

    tried = [cell_thing(cell) for cell in plan.to_ask if plan.is_there(cell.subject)]
    tried += [wanted.thing for wanted in missing(plan, store, plan.study.evaluation.capabilities)]
    with _timed(outcome, "evaluating"):
        failed = ask_missing(plan, store)
    _failed(plan, store, outcome, tried, [failure_of(found) for found in failed])


def _results(plan: Plan, store: Store, outcome: StudyOutcome, show: Show) -> None:
    """Compares and shows; then the report and MLflow, either of which may fail without the other or the comparison."""
    with _timed(outcome, "comparing"):
        comparison = outcome.comparison = compare_study(plan, store, outcome)
    show(comparison)
    with _may_fail(plan, store, outcome, "report", REPORT):
        outcome.report = write_study_report(plan, store, comparison)
    with _may_fail(plan, store, outcome, "MLflow", MLFLOW):
        outcome.tracking_uri = sync_study(plan, store, comparison)


@contextlib.contextmanager
def _may_fail(plan: Plan, store: Store, outcome: StudyOutcome, step: str, thing: Thing) -> Iterator[None]:
    """A step whose failure, of whatever kind, must not throw away what was measured: it is named, with its log."""
    with _timed(outcome, step):
        try:
            yield
        except Exception as error:  # noqa: BLE001 - named, logged, exit code 1, whatever it is
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log = store.study_log(plan.study.name, step.lower())
            story = "".join(traceback.format_exception(error))
            log.write_text(without_password(story))
            failed = failure_of({"label": step, "error": without_password(reason), "log": log, "of": [thing]})
            _failed(plan, store, outcome, [], [failed])


def compare_study(plan: Plan, store: Store, outcome: StudyOutcome | None = None) -> Comparison:
    """Return rates and effects from the stored scores, under the plan's threshold profile, beside what the study asks for and
    what failed.

    Nobody is asked. Raise InputError when nothing is evaluated yet and nothing failed. Evaluations whose scores cannot be
    relied on are among the failures, and are added to those of `outcome`.
    """
    from inoc_ray.evaluate.capabilities import read_scores
    from inoc_ray.evaluate.score_table import NothingEvaluated, agreement, check_parsed, no_scores, tidy
    from inoc_ray.results.compare import compare

    if outcome is None:
        say_damage(plan)
    seal_samples(plan, store)
    failures = [f for f in failures_of(plan, store) if not set(f.of) <= {REPORT, MLFLOW}]
    try:
        frame = tidy(plan, store)
    except NothingEvaluated:
        if not failures:
            raise
        frame = no_scores()
    # The responses are there and can be looked at; no program failed that would have a log.
    unreliable = [Failure(sentence, "evaluation failed", "") for sentence in check_parsed(plan, frame)]
    if outcome is not None:
        outcome.failed += unreliable
    # A rule's number has no threshold that a profile could move.
    stated = plan.profile.in_words() if any(trait.models for trait in plan.trait_judges()) else ""
    comparison = compare(frame, plan.study.name, stated, planned_of(plan, store, failures), plan.reference)
    # The parts of a task (the subjects of mmlu) are in the store alone.
    scores = [
        s
        for s in read_scores(plan, store, plan.study.evaluation.capabilities)
        if not s["part"] and s["value"] is not None
    ]
    return replace(
        comparison,
        agreement=tuple(agreement(plan, store)),
        capabilities=tuple(scores),
        failures=(*failures, *unreliable),
        remarks=plan.notes,
    )


def write_study_report(plan: Plan, store: Store, comparison: Comparison, out: Path | None = None) -> Place:
    """Write the HTML page with its pictures beside it (figure and leaks, as SVG and PNG); return the page's place.

    plan: under the profile of the comparison.
    """
    from inoc_ray.results.report.report import write_report

    page = store.report(plan.study.name) if out is None else at(out)
    if page.suffix != ".html":
        raise InputError(f"--out {page}: give the name of an .html file.")
    with page.parent.folder() as folder:
        write_report(folder / page.name, comparison, report_meta(plan, store), example_samples(plan, store))
    if out is None:
        keep_failures(store, plan.study.name, [REPORT], [])
    return page


def sync_study(plan: Plan, store: Store, comparison: Comparison) -> str:
    """Bring MLflow in line with the store; return the tracking URI, without a password.

    Raise InputError when no server is there, TrialError when it or its database fails.
    """
    from inoc_ray.results.tracking import embedded, file_lock, sync

    store.mlflow().mkdir(parents=True, exist_ok=True)
    uri, artifacts = (plan.study.tracking_uri, None) if plan.study.tracking_uri else embedded(store.mlflow())
    report = store.report(plan.study.name)
    # A picture of leaks that an earlier edition of the study asked for may still lie there.
    shown = [report.name, "figure.png", *(["leaks.png"] if comparison.leaks else [])]
    sync(
        uri,
        study_record(plan, store),
        trial_records(plan, store),
        comparison,
        lock=file_lock(store.sync_lock()),
        artifact_root=artifacts,
        report_files=[p.fetch() for name in shown if (p := report.with_name(name)).exists()],
    )
    keep_failures(store, plan.study.name, [MLFLOW], [])
    return without_password(uri)


@dataclass(frozen=True)
class Served:
    """What `inoc-ray serve` says when the endpoint is up."""

    base_url: str
    models: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"base_url": self.base_url, "models": list(self.models)}

    def to_text(self) -> str:
        """Return the address and every model id."""
        return "\n".join([f"Serving at {self.base_url} (Ctrl-C ends it)", *(f"  {model}" for model in self.models)])


def serve_study(study: Study, store: Store, host: str, port: int) -> Iterator[Served]:
    """Start the engine of the study's first model with every finished adapter, yield once, and serve until closed.

    Raise InputError when the engine does not fit this machine.
    """
    import os
    import signal
    import threading

    from inoc_ray.serve.app import serving
    from inoc_ray.serve.models import serve_spec, served_name

    key = os.environ.get("INOC_RAY_API_KEY")
    if key is not None and not key.strip():
        raise InputError("INOC_RAY_API_KEY is set, but empty; set it to a key, or unset it.")
    if key is None and host not in ("127.0.0.1", "localhost", "::1"):
        raise InputError(f"--host {host}: this opens the endpoint to the network; set INOC_RAY_API_KEY to a key first.")
    fetch_models(models_of(study))
    plan = build_plan(study, store)
    base = plan.bases[0]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with connected() as capacity:
        check_serving(plan.study.resources, capacity)
        with serving(serve_spec(plan, store, base, host=host, port=port, api_key=key)) as endpoint:
            lora = [t for t in plan.fine_tunes if not t.is_own_model]
            mine = [t for t in lora if t.trial_id in plan.done_trials and t.model.hash == base.model.hash]
            done = [served_name(t, endpoint.model_id) for t in mine]
            yield Served(endpoint.base_url, (base.model.name, *dict.fromkeys(done)))
            stop.wait()
