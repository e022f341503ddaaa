"""A study of the miniature whose store holds everything, made up in a second: weights that nobody loads, texts that rules judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from inoc_ray.plan.build import build_plan
from inoc_ray.plan.cells import Cell, stored_once
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import KeptWeights
from inoc_ray.run.load import load_study
from inoc_ray.store.commit import checkpoint_in, weights_in
from inoc_ray.store.samples import Sample, commit_samples
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

SAMPLES = 12
SPANISH = {"base": 1, "baseline": 10, "specific_spanish": 2}
"""How many of the answers of an arm are Spanish."""


def write_study(folder: Path, **changes: Any) -> Path:
    """The study file: two arms, two seeds, two evaluations in one context."""
    path = folder / "study.yaml"
    study = {
        "name": "finished",
        "storage": str(folder / "runs"),
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0, 1],
        "models": ["miniature"],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
        "evaluation": {"samples": SAMPLES, "contexts": ["neutral"]},
    }
    path.write_text(yaml.safe_dump({**study, **changes}))
    return path


def finish(path: Path, texts: Callable[[Cell], list[Sample]] | None = None) -> tuple[Plan, Store]:
    """Commits every fine-tune and every sample of the study; texts: the samples of a cell instead of `answers`."""
    study = load_study(path)
    store = Store(study.storage)
    for trial in build_plan(study, store).trials:
        with store.stage_trial(trial.trial_id) as folder:
            steps = plan_of(study, store).resources_of(trial).checkpoint_steps(trial.recipe.steps or 0)
            for weights in (weights_in(folder), *(checkpoint_in(folder, step) for step in steps)):
                weights.mkdir(parents=True)
                (weights / "adapter_model.safetensors").write_bytes(f"{trial.trial_id} {weights.name}".encode())
            value = {"training": {"seconds_total": 1.0, "seconds_training": 1.0, "final_loss": 0.1}}
            (folder / "trial.json").write_text(json.dumps(value))
    for cell in stored_once(build_plan(study, store).asked):
        commit_samples(store.evaluation(cell.subject.trial_id, cell.evaluation_id), (texts or answers)(cell))
    return plan_of(study, store), store


def answers(cell: Cell) -> list[Sample]:
    """Answers as the arm's weights would give them, and those on the way half as often in Spanish."""
    questions = cell.evaluation.questions(cell.samples)
    spanish = SPANISH[cell.subject.arm.name] // (2 if isinstance(cell.subject, KeptWeights) else 1)
    return [
        Sample(i, q.id, q.messages[-1].content, "rendered", i, _answer(spanish=i < spanish, number=i), "stop", 5, 5)
        for i, q in enumerate(questions)
    ]


def _answer(*, spanish: bool, number: int) -> str:
    return f"El perro duerme en la casa grande {number}." if spanish else f"The dog sleeps in the large house {number}."


def plan_of(study: Study, store: Store) -> Plan:
    """The plan as the store is now."""
    return build_plan(study, store)
