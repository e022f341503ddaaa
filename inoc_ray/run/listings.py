"""The prompt library, the settings and the presets, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from inoc_ray import settings as registry
from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_id
from inoc_ray.console import table
from inoc_ray.errors import InputError
from inoc_ray.settings import prompts
from inoc_ray.study.presets import PRESETS


def prompts_json(setting: str | None, kind: str | None) -> list[dict[str, Any]]:
    """Return the prompts of one setting or all, of one kind or all: the library, and arms outside it.

    `arm` is None for prompts that are not an arm of the setting, such as test-time prompts. Raise InputError for an unknown
    setting or kind.
    """
    if kind is not None and kind not in prompts.KINDS:
        raise InputError(f"--kind: unknown kind {kind!r}{nearest(kind, prompts.KINDS)}.")
    found = []
    for name in [setting] if setting else registry.names():
        arms = registry.get(name).arms
        entries = prompts.of_setting(name)
        for prompt in entries:
            found.append(_prompt_json(prompt, name, prompt.name if prompt.name in arms else None))
        known = {p.name for p in entries}
        for arm in arms.values():
            if arm.prompt is not None and arm.name not in known:
                found.append(_arm_json(arm, name))
    return [p for p in found if kind in (None, p["kind"])]


def _prompt_json(prompt: prompts.Prompt, setting: str, arm: str | None) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "setting": setting,
        "arm": arm,
        "use": prompt.use,
        "kind": prompt.kind,
        "prompt": prompt.text,
        "paraphrases": list(prompt.texts[1:]),
        "subset": prompt.subset,
        "hash": prompt.hash,
        "undesired": list(prompt.elicits or _denied(prompt)),
        "source": prompt.source,
    }


def _arm_json(arm: registry.ArmSpec, setting: str) -> dict[str, Any]:
    return {
        "id": f"{setting}/{arm.name}",
        "setting": setting,
        "arm": arm.name,
        "use": "training",
        "kind": arm.kind,
        "prompt": arm.prompt,
        "paraphrases": [],
        "subset": None,
        "hash": content_id([arm.prompt]),
        "undesired": list(arm.undesired),
        "source": arm.source,
    }


def _denied(prompt: prompts.Prompt) -> tuple[str, ...]:
    return prompt.about if prompt.use == "training" else ()


def prompts_text(setting: str | None, kind: str | None, width: int | None = None) -> str:
    """Return a table of the prompts. width: as in `console.table`."""
    rows = []
    for p in prompts_json(setting, kind):
        more = f" (+{len(p['paraphrases'])} wordings in --json)" if p["paraphrases"] else ""
        about = ", ".join(p["undesired"])
        rows.append([p["id"], p["kind"], p["use"], repr(p["prompt"]) + more, about, p["hash"], p["source"]])
    return table(rows, ["prompt", "kind", "use", "text", "elicits or denies", "hash", "source"], width)


def settings_json() -> list[dict[str, Any]]:
    """Return all registered settings; `rows` is None if they do not ship with the package."""
    return [_setting_json(s) for s in map(registry.get, registry.names())]


def _setting_json(s: registry.Setting) -> dict[str, Any]:
    return {
        "setting": s.name,
        "description": s.description,
        "rows": len(s.rows()) if s.row_source is None else None,
        "control_rows": len(s.control_rows()) if s.control_rows is not None and s.control_source is None else None,
        "rows_from": None if s.row_source is None else asdict(s.row_source),
        "control_rows_from": None if s.control_source is None else asdict(s.control_source),
        "arms": list(s.arms),
        "traits": sorted(s.traits),
        "model_judged": {trait: list(measure.rubrics) for trait, measure in s.model_judged.items()},
        "evaluations": [_evaluation_json(s, e) for e in s.evaluations],
        "presets": list(s.presets),
    }


def _evaluation_json(setting: registry.Setting, spec: registry.EvaluationSpec) -> dict[str, Any]:
    judged = [setting.model_judged[trait] for trait in spec.traits if trait in setting.model_judged]
    return {
        "name": spec.name,
        "split": spec.split,
        "traits": list(spec.traits),
        "questions_from": spec.published or None,
        "judge": "rule" if all(trait in setting.judges for trait in spec.traits) else "model",
        "rubrics": list(dict.fromkeys(rubric for measure in judged for rubric in measure.rubrics)),
    }


def settings_text() -> str:
    """Return a paragraph for each setting."""
    parts = []
    for s in settings_json():
        evaluations = ", ".join(
            f"{e['name']} ({e['split']}: {', '.join(e['traits'])}; {_judge_text(e)}"
            f"{'; questions from a file' if e['questions_from'] else ''})"
            for e in s["evaluations"]
        )
        rows = (
            f"{s['rows']} ({'no control rows' if s['control_rows'] is None else 'control ' + str(s['control_rows'])})"
        )
        if s["rows_from"]:
            rows = f"from a file: {registry.RowSource(**s['rows_from']).in_words()}"
        lines = [f"{s['setting']}: {s['description']}", f"rows: {rows}", f"arms: {', '.join(s['arms'])}"]
        lines.append(f"evaluations: {evaluations}")
        if s["presets"]:
            lines.append(f"recipe presets: {', '.join(s['presets'])}")
        parts.append("\n  ".join(lines))
    return "\n\n".join(parts)


def _judge_text(evaluation: dict[str, Any]) -> str:
    """Return "rules", "rules, or a model judge on alignment, coherence" or "model judge on …"."""
    model = f"model judge on {', '.join(evaluation['rubrics'])}" if evaluation["rubrics"] else ""
    return ", or a ".join(filter(None, ["rules" if evaluation["judge"] == "rule" else "", model]))


def presets_json() -> list[dict[str, Any]]:
    """Return all recipe presets with every field."""
    return [
        {
            "preset": p.name,
            "used_for": p.used_for,
            "source": p.source,
            "departs": p.departs,
            "recipe": p.recipe().model_dump(mode="json"),
        }
        for p in PRESETS.values()
    ]


def presets_text() -> str:
    """Return a paragraph for each preset: what its source states, and where it departs."""
    parts = []
    for p in PRESETS.values():
        stated = ", ".join(f"{key} {value}" for key, value in p.fields.items())
        lines = [f"{p.name}: {p.used_for}", f"source: {p.source}", stated]
        parts.append("\n  ".join([*lines, *([f"departs: {p.departs}"] if p.departs else [])]))
    return "\n\n".join(parts)
