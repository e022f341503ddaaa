"""A study's results: the comparison from stored scores, the report, the MLflow runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.console import say
from inoc_ray.errors import InputError, hide_password
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.claims import stated_claims
from inoc_ray.plan.looking import reads
from inoc_ray.plan.plan import Plan
from inoc_ray.run.followed import followed_of, read_courses
from inoc_ray.run.integrity import report_damage, seal_samples
from inoc_ray.run.mlflow_records import planned_records, trial_records
from inoc_ray.run.outcome import StudyOutcome
from inoc_ray.run.planned_and_stored import failures_of, planned_of
from inoc_ray.run.report_content import report_meta
from inoc_ray.run.report_samples import read_samples
from inoc_ray.run.study_record import study_file, study_record
from inoc_ray.run.written_results import mlflow_is_written, note_mlflow, note_report
from inoc_ray.scoring.profiles import get_profile
from inoc_ray.store.failures import MLFLOW, REPORT, Failure, keep_failures
from inoc_ray.store.place import Place, at
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.tracking_live import LiveRuns


def compared(study: Study, store: Store, profile: str | None = None) -> tuple[Plan, Comparison]:
    """Return a study's plan and what its stored scores say. profile: the name of thresholds to use instead of the study's.

    Raises InputError as `build_plan` and `compare_study` do, and for a profile that does not exist.
    """
    plan = build_plan(study, store)
    if profile:
        plan = plan.under(get_profile(profile))
    return plan, compare_study(plan, store)


@reads
def compare_study(plan: Plan, store: Store, outcome: StudyOutcome | None = None) -> Comparison:
    """Return rates and effects from the stored scores under the plan's thresholds, with what is missing or failed.

    Calls no model. Raise InputError if nothing is evaluated and nothing failed. Evaluations with unreliable scores are among
    the failures, and are added to those of `outcome`.
    """
    from inoc_ray.evaluate.agreement import judge_agreement
    from inoc_ray.evaluate.capabilities import read_capability_scores
    from inoc_ray.evaluate.capability_items import read_capability_items
    from inoc_ray.evaluate.score_table import NoScores, empty_score_table, read_score_table, score_warnings
    from inoc_ray.results.compare import compare

    if outcome is None:
        report_damage(plan)
    seal_samples(plan, store)
    failures = [f for f in failures_of(plan, store) if not set(f.of) <= {REPORT, MLFLOW}]
    try:
        frame = read_score_table(plan, store)
    except NoScores:
        if not failures:
            raise
        frame = empty_score_table()
    # No log: no program failed, and the responses themselves can be read.
    unreliable = [Failure(sentence, "evaluation failed", "") for sentence in score_warnings(plan, frame)]
    if outcome is not None:
        outcome.failed += unreliable
    # A profile has no effect on rules.
    thresholds = plan.profile.in_words() if any(trait.models for trait in plan.trait_judges()) else ""
    comparison = compare(
        frame,
        plan.study.name,
        profile=thresholds,
        planned=planned_of(plan, store, failures),
        reference=plan.reference,
        claims=stated_claims(plan),
        outcome=plan.study.evaluation.outcome,
        items=read_capability_items(plan, store, plan.study.evaluation.capabilities),
        followed=followed_of(plan, store),
    )
    # The parts of a task (the subjects of MMLU) stay in the store.
    scores = [
        s
        for s in read_capability_scores(plan, store, plan.study.evaluation.capabilities)
        if not s["part"] and s["value"] is not None
    ]
    return replace(
        comparison,
        agreement=tuple(judge_agreement(plan, store)),
        capabilities=tuple(scores),
        failures=(*failures, *unreliable),
        courses=tuple(read_courses(plan, store, failures)),
        remarks=plan.notes,
    )


@reads
def write_study_report(plan: Plan, store: Store, comparison: Comparison, out: Path | None = None) -> Place:
    """Write the HTML page with its figures beside it (SVG and PNG); return the page's place.

    plan: with the profile of the comparison. Raise InputError unless `out` is an .html file.
    """
    from inoc_ray.results.report.report import write_report

    page = store.report(plan.study.name) if out is None else at(out)
    if page.suffix != ".html":
        raise InputError(f"--out {page}: must end in .html.")
    with page.parent.folder() as folder:
        samples = read_samples(plan, store)
        write_report(folder / page.name, comparison, report_meta(plan, store, samples), samples.cells)
    if out is None:
        keep_failures(store, plan.study.name, [REPORT], [])
        note_report(plan, store, comparison)
    return page


def live_runs(plan: Plan, store: Store) -> AbstractContextManager[LiveRuns]:
    """Return a context in which MLflow can show how far the study is, and which tells it if the study does not reach its end."""
    from inoc_ray.results.tracking import file_lock
    from inoc_ray.results.tracking_live import CALL_SECONDS, live

    uri, artifacts = _tracking(plan, store)
    return live(
        uri,
        study_record(plan, store),
        planned_records(plan),
        lock=lambda: file_lock(store.sync_lock(), CALL_SECONDS),
        artifact_root=artifacts,
        inside=plan.study.tracking_uri is None,
        tell=say,
    )


def _tracking(plan: Plan, store: Store) -> tuple[str, str | None]:
    """Return the tracking URI of a study and where the artifacts of a new experiment go; None leaves that to the server."""
    from inoc_ray.results.tracking import embedded
    from inoc_ray.results.tracking_checks import is_database

    store.mlflow().mkdir(parents=True, exist_ok=True)
    if plan.study.tracking_uri is None:
        return embedded(store.mlflow())
    return plan.study.tracking_uri, store.artifacts() if is_database(plan.study.tracking_uri) else None


def sync_study(plan: Plan, store: Store, comparison: Comparison) -> str:
    """Update MLflow from the store; return the tracking URI, without a password.

    MLflow's own database is left alone if it has everything already, since a look at it imports MLflow, which takes a second.
    Raise InputError if the server cannot be reached, TrialError if it or its database fails.
    """
    from inoc_ray.results.figures.catalogue import FIGURES
    from inoc_ray.results.records import Artifact
    from inoc_ray.results.tracking import file_lock, sync, what_is_told

    uri, artifacts = _tracking(plan, store)
    report = store.report(plan.study.name)
    # An earlier version of the study may have left a figure that does not apply now.
    shown = [report.name, *(f"{figure.name}.png" for figure in FIGURES if figure.applies(comparison))]
    study, trials = study_record(plan, store), trial_records(plan, store)
    files = [
        Artifact(path="study.yaml", make=lambda: study_file(plan).encode()),
        *(Artifact(path=name, of=(p,)) for name in shown if (p := report.with_name(name)).is_file()),
    ]
    told = what_is_told(study, trials, comparison, files)
    if not mlflow_is_written(plan, store, told):
        lock = file_lock(store.sync_lock())
        inside = plan.study.tracking_uri is None
        sync(uri, study, trials, comparison, lock=lock, artifact_root=artifacts, inside=inside, files=files)
        note_mlflow(plan, store, told)
    keep_failures(store, plan.study.name, [MLFLOW], [])
    return hide_password(uri)
