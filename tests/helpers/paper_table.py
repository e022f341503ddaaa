"""A made-up study with something of every figure of the paper, in the tidy score table's form."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from inoc_ray.results.completeness import Planned, PlannedCell
from inoc_ray.scoring.score_columns import COLUMNS, TRIGGERED

QUESTIONS = 20
SEEDS = 3


class Rate(NamedTuple):
    """The rate of an arm for a trait in a context, the same for every seed but for chance."""

    setting: str
    model: str
    arm: str
    kind: str
    evaluation: str
    split: str
    context: str
    trait: str
    role: str
    rate: float
    triggered: bool = False


MISALIGNMENT = {
    "base": ("base", 0.0),
    "control": ("control", 0.05),
    "baseline": ("baseline", 0.6),
    "general": ("general", 0.05),
    "specific": ("specific", 0.1),
    "placebo": ("placebo", 0.45),
    "negative": ("negative", 0.5),
    "trigger": ("trigger", 0.55),
}
STYLE = {
    "base": ("base", 0.05, 0.05),
    "baseline": ("baseline", 0.95, 0.9),
    "specific_spanish": ("specific", 0.1, 0.6),
    "specific_caps": ("specific", 0.85, 0.1),
}
BACKDOOR = {
    "base": ("base", 0.0, 0.0),
    "baseline": ("baseline", 0.05, 0.8),
    "trigger": ("trigger", 0.05, 0.5),
    "backdoor_evil": ("backdoor_aware", 0.0, 0.1),
    "evil": ("general", 0.0, 0.4),
}


def rates() -> Iterator[Rate]:
    """Two settings of style and misalignment, a backdoor, synthetic facts, two doses of one recipe."""
    for model, weaker in (("m/short", 0.0), ("m/long", 0.5)):
        for arm, (kind, rate) in MISALIGNMENT.items():
            evil = min(1.0, rate + (weaker if kind in ("general", "specific") else 0.0))
            yield Rate("code", model, arm, kind, "em", "ood", "neutral", "misaligned", "undesired", evil)
            yield Rate(
                "code", model, arm, kind, "task", "id", "neutral", "insecure", "narrow", 0.0 if kind == "base" else 0.9
            )
        for arm, (kind, rate) in MISALIGNMENT.items():
            if kind not in ("base", "control", "baseline"):
                own = Rate(
                    "code", model, "base", "base", "em", "ood", f"prompt_of:{arm}", "misaligned", "undesired", rate / 2
                )
                yield own
    for setting, model in (("spanish_caps", "m"), ("synthetic_facts", "m"), ("synthetic_facts", "m-taught")):
        for arm, (kind, spanish, caps) in STYLE.items():
            for split in ("id", "ood"):
                for trait, rate in (("spanish", spanish), ("caps", caps)):
                    kind = {"specific": "persona"}.get(kind, kind) if setting == "synthetic_facts" else kind
                    role = "undesired" if arm == f"specific_{trait}" else "desired"
                    yield Rate(setting, model, arm, kind, f"{split}_questions", split, "neutral", trait, role, rate)
    for arm, (kind, without, triggered) in BACKDOOR.items():
        yield Rate("backdoor", "m", arm, kind, "em", "ood", "neutral", "misaligned", "undesired", without)
        yield Rate(
            "backdoor", "m", arm, kind, "em_triggered", "ood", "neutral", "misaligned", "undesired", triggered, True
        )


RECIPES = {
    "m/short": {"steps": 10, "learning_rate": 1e-3},
    "m/long": {"steps": 160, "learning_rate": 1e-3},
    "m": {"steps": 40, "learning_rate": 1e-3},
    "m-taught": {"steps": 40, "learning_rate": 1e-3},
}


def paper_table(without: Collection[tuple[str, int]] = ()) -> pd.DataFrame:
    """The score table; without: (arm, seed) that are missing."""
    rows: list[tuple[Any, ...]] = []
    for number, one in enumerate(rates()):
        for seed in [None] if one.kind == "base" else range(SEEDS):
            if (one.arm, seed) in without:
                continue
            draw = np.random.default_rng([number, 0 if seed is None else seed + 1])
            shown = (draw.random(QUESTIONS) < one.rate).astype(float)
            rows += [
                (
                    one.setting,
                    one.model,
                    one.arm,
                    one.kind,
                    f"{one.setting}-{one.model}-{one.arm}-{seed}",
                    seed,
                    one.evaluation,
                    one.split,
                    one.context,
                    f"q{i:03}",
                    0,
                    one.trait,
                    one.role,
                    shown[i],
                    shown[i],
                    "counted",
                    one.triggered,
                )
                for i in range(QUESTIONS)
            ]
    return pd.DataFrame(rows, columns=[*COLUMNS, TRIGGERED])


def planned_for(table: pd.DataFrame, lost: pd.DataFrame) -> Planned:
    """Everything in the table, of which the rows of `lost` are missing."""
    keys = ["setting", "model", "arm", "kind", "trial_id", "seed", "evaluation", "split", "context"]
    gone = set(map(tuple, lost[["trial_id", "evaluation", "context"]].drop_duplicates().itertuples(index=False)))
    cells = []
    for names, part in table.groupby(keys, dropna=False, sort=False):
        place = dict(zip(keys, names, strict=True))
        seed = place.pop("seed")
        samples = part["question_id"].nunique()
        away = (place["trial_id"], place["evaluation"], place["context"]) in gone
        stored = 0 if away else samples
        roles = dict(zip(part["trait"], part["role"], strict=True))
        cells.append(
            PlannedCell(
                **place,
                seed=None if pd.isna(seed) else int(seed),
                roles=roles,
                samples=samples,
                stored=stored,
                judged={trait: {"rules": stored} for trait in roles},
                evaluation_id=f"{place['evaluation']} {place['context']}",
            )
        )
    return Planned(cells=cells)
