"""A study from plan to report: what `inoc-ray run` does, step by step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster import Capacity, check_serving, connected
from inoc_ray.errors import InputError
from inoc_ray.plan import Plan, build_plan
from inoc_ray.preflight import check_capacity, preflight
from inoc_ray.progress import duration, say
from inoc_ray.records import example_samples, keep_study, report_meta, study_record, trial_records
from inoc_ray.store import LeaseTaken, Store
from inoc_ray.study import Study

if TYPE_CHECKING:
    from inoc_ray.results.compare import Comparison


@dataclass
class StudyOutcome:
    """What a run did and where its results are."""

    study: str
    trained: int = 0
    asked: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    """Trials and evaluations that failed: label, error, log."""
    seconds: dict[str, float] = field(default_factory=dict)
    comparison: Comparison | None = None
    report: Path | None = None
    tracking_uri: str = ""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "study": self.study,
            "trained": self.trained,
            "samples_asked": self.asked,
            "failed": self.failed,
            "seconds": {step: round(seconds, 2) for step, seconds in self.seconds.items()},
            "report": str(self.report) if self.report else None,
            "tracking_uri": self.tracking_uri,
            "comparison": self.comparison.to_json() if self.comparison else None,
        }

    def to_text(self) -> str:
        """The effect table and where everything is."""
        lines = [self.comparison.to_text()] if self.comparison else ["nothing is evaluated yet.\n"]
        times = ", ".join(f"{step} {duration(seconds)}" for step, seconds in self.seconds.items())
        lines.append(f"Trained {self.trained} trials, asked for {self.asked} samples ({times}).")
        if self.report:
            lines.append(f"Report: {self.report}")
        if self.tracking_uri:
            lines.append(f"MLflow store: {self.tracking_uri}")
            lines.append(f"  look at it with: mlflow ui --backend-store-uri {self.tracking_uri}")
        return "\n".join(lines)

    def failure_text(self) -> str:
        """One line per failure, for the error message."""
        lines = [f"  {f['label']}: {f['error']} (log: {f['log']})" for f in self.failed]
        return "\n".join([f"{len(self.failed)} failed, the others are done:", *lines])


@contextlib.contextmanager
def _timed(outcome: StudyOutcome, step: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        outcome.seconds[step] = time.monotonic() - started


@contextlib.contextmanager
def _alone(study: Study, store: Store) -> Iterator[None]:
    """Holds the study's lease: two runs of one study would ask and train the same things."""
    try:
        with store.lease(f"study-{study.name}"):
            yield
    except LeaseTaken as error:
        raise InputError(f"{error} Wait for it, or look with `inoc-ray status`.") from error


def run_study(study: Study, store: Store, *, train: bool = True) -> StudyOutcome:
    """Trains and evaluates what is missing, compares, writes the report and brings MLflow in line.

    With `train=False` only trials that are done are evaluated. Raises InputError before anything is written when the
    study cannot run. Failed trials do not stop the others; they are named in the outcome.
    """
    outcome = StudyOutcome(study.name)
    plan = build_plan(study, store)
    preflight(plan, store)
    with _alone(study, store):
        plan = build_plan(study, store)
        asked_before = sum(plan.stored.values())
        ready = [c for c in plan.to_ask if train or plan.is_there(c.subject)]
        if (train and plan.to_train) or ready:
            with _timed(outcome, "starting Ray"):
                stack = contextlib.ExitStack()
                say("starting Ray ...")
                capacity = stack.enter_context(connected())
            with stack:
                check_capacity(plan, capacity)
                keep_study(plan, store)
                if train:
                    plan = _train(plan, store, capacity, outcome)
                _ask(plan, store, capacity, outcome)
            plan = build_plan(study, store)
            outcome.asked = sum(plan.stored.values()) - asked_before
        if any(plan.stored.values()):
            keep_study(plan, store)
            _results(plan, store, outcome)
    return outcome


def _train(plan: Plan, store: Store, capacity: Capacity, outcome: StudyOutcome) -> Plan:
    from inoc_ray.sweep import train_missing

    with _timed(outcome, "training"):
        for result in train_missing(plan, store, capacity):
            if result.status == "failed":
                outcome.failed.append(
                    {"label": result.label, "error": result.error or "", "log": str(store.trial_log(result.trial_id))}
                )
            else:
                outcome.trained += result.status == "trained"
    return build_plan(plan.study, store)


def _ask(plan: Plan, store: Store, capacity: Capacity, outcome: StudyOutcome) -> None:
    from inoc_ray.evaluate.suite import ask_missing

    with _timed(outcome, "evaluating"):
        outcome.failed += ask_missing(plan, store)


def _results(plan: Plan, store: Store, outcome: StudyOutcome) -> None:
    with _timed(outcome, "comparing"):
        outcome.comparison = compare_study(plan, store, outcome)
    with _timed(outcome, "report"):
        outcome.report = write_study_report(plan, store, outcome.comparison)
    with _timed(outcome, "MLflow"):
        outcome.tracking_uri = sync_study(plan, store, outcome.comparison)


def compare_study(plan: Plan, store: Store, outcome: StudyOutcome | None = None) -> Comparison:
    """Rates and effects from the stored scores. Raises InputError when there are none."""
    from inoc_ray.evaluate.scores import check_parsed, tidy
    from inoc_ray.results.compare import compare

    frame = tidy(plan, store)
    if outcome is not None:
        outcome.failed += [
            {"label": sentence, "error": "evaluation failed", "log": str(store.study(plan.study.name))}
            for sentence in check_parsed(plan, frame)
        ]
    return compare(frame, plan.study.name)


def write_study_report(plan: Plan, store: Store, comparison: Comparison, out: Path | None = None) -> Path:
    """The HTML page with figure.svg and figure.png beside it; returns the page's path."""
    from inoc_ray.results.report import write_report

    page = (out or store.study(plan.study.name) / "report.html").absolute()
    if page.suffix != ".html":
        raise InputError(f"--out {page}: give the name of an .html file.")
    write_report(page, comparison, report_meta(plan, store), example_samples(plan, store))
    return page


def sync_study(plan: Plan, store: Store, comparison: Comparison) -> str:
    """Brings MLflow in line with the store; returns the tracking URI. Raises InputError when a server does not answer."""
    from inoc_ray.results.tracking import embedded, file_lock, sync

    store.mlflow().mkdir(parents=True, exist_ok=True)
    uri, artifacts = (plan.study.tracking_uri, None) if plan.study.tracking_uri else embedded(store.mlflow())
    folder = store.study(plan.study.name)
    sync(
        uri,
        study_record(plan, store),
        trial_records(plan, store),
        comparison,
        lock=file_lock(store.mlflow() / "sync.lock"),
        artifact_root=artifacts,
        report_files=[p for name in ("report.html", "figure.png") if (p := folder / name).exists()],
    )
    return uri


@dataclass(frozen=True)
class Served:
    """What `inoc-ray serve` says when the endpoint is up."""

    base_url: str
    models: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"base_url": self.base_url, "models": list(self.models)}

    def to_text(self) -> str:
        """The address and every model id."""
        return "\n".join([f"Serving at {self.base_url} (Ctrl-C ends it)", *(f"  {model}" for model in self.models)])


def serve_study(study: Study, store: Store, host: str, port: int) -> Iterator[Served]:
    """Starts the engine of the study's first model with every finished adapter, yields once, and serves until closed.

    Raises InputError when the engine does not fit this machine.
    """
    import os
    import signal
    import threading

    from inoc_ray.evaluate.suite import serve_spec, served_name
    from inoc_ray.serve.app import serving

    key = os.environ.get("INOC_RAY_API_KEY")
    if key is None and host not in ("127.0.0.1", "localhost", "::1"):
        raise InputError(f"--host {host}: this opens the endpoint to the network; set INOC_RAY_API_KEY to a key first.")
    plan = build_plan(study, store)
    base = plan.bases[0]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with connected() as capacity:
        check_serving(plan.study.resources, capacity)
        with serving(serve_spec(plan, store, base, host=host, port=port, api_key=key), say) as endpoint:
            lora = [t for t in plan.fine_tunes if t.recipe is not None and t.recipe.method == "lora"]
            mine = [t for t in lora if t.trial_id in plan.done_trials and t.model.hash == base.model.hash]
            done = [served_name(t, endpoint.model_id) for t in mine]
            yield Served(endpoint.base_url, (base.model.name, *dict.fromkeys(done)))
            stop.wait()
