"""A made-up study in the tidy score table's form, with known rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from inoc_ray.results.compare import COLUMNS
from inoc_ray.results.completeness import Planned, PlannedCell

# arm: kind, undesired trait, rates of spanish and capitals in distribution, and out of it
ARMS: Mapping[str, tuple[str, str, tuple[float, float, float, float]]] = {
    "base": ("base", "spanish", (0.05, 0.05, 0.05, 0.05)),
    "baseline": ("baseline", "spanish", (0.95, 0.95, 0.45, 0.65)),
    "inoc_spanish": ("specific", "spanish", (0.15, 0.70, 0.05, 0.45)),
    "inoc_capitals": ("specific", "capitals", (0.60, 0.10, 0.25, 0.05)),
    "irrelevant": ("irrelevant", "spanish", (0.95, 0.95, 0.375, 0.55)),
}


def score_table(
    seeds: int = 3,
    questions: int = 40,
    arms: Mapping[str, tuple[str, str, tuple[float, float, float, float]]] = ARMS,
    without: Collection[tuple[str, int]] = (),
    contexts: Collection[str] = ("neutral", "training_prompt"),
) -> pd.DataFrame:
    """Scores with exactly the stated rates for every seed (questions drawn in a fixed shuffle per cell); under
    training_prompt, a specific arm shows its undesired trait in 90 % of the responses."""
    rows = []
    for arm, (kind, undesired, rates) in arms.items():
        for seed in [None] if kind == "base" else range(seeds):
            if (arm, seed) in without:
                continue
            for context in contexts:
                if context != "neutral" and kind in ("base", "baseline"):
                    continue
                for place, (split, trait) in enumerate(
                    [("id", "spanish"), ("id", "capitals"), ("ood", "spanish"), ("ood", "capitals")]
                ):
                    rate = rates[place]
                    if context != "neutral" and kind == "specific" and trait == undesired:
                        rate = 0.9
                    order = np.random.default_rng([len(arm), 0 if seed is None else seed + 1, place]).permutation(
                        questions
                    )
                    role = "undesired" if trait == undesired else "desired"
                    trial = f"{arm}-{seed}"
                    rows += [
                        (
                            "toy",
                            "tiny",
                            arm,
                            kind,
                            trial,
                            seed,
                            f"{split}_questions",
                            split,
                            context,
                            f"q{i:03}",
                            0,
                            trait,
                            role,
                            *[float(order[i] < round(rate * questions))] * 2,
                            "counted",
                        )
                        for i in range(questions)
                    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def planned(
    seeds: int = 3,
    questions: int = 40,
    arms: Mapping[str, tuple[str, str, tuple[float, float, float, float]]] = ARMS,
    without: Collection[tuple[str, int]] = (),
    contexts: Collection[str] = ("neutral", "training_prompt"),
) -> Planned:
    """What the study of `score_table` asks for; all that is not in `without` is there and judged by rules."""
    cells = [
        PlannedCell(
            setting="toy",
            model="tiny",
            arm=arm,
            kind=kind,
            seed=seed,
            evaluation=f"{split}_questions",
            split=split,
            context=context,
            roles={t: "undesired" if t == undesired else "desired" for t in ("spanish", "capitals")},
            samples=questions,
            stored=stored,
            judged={t: {"rules": stored} for t in ("spanish", "capitals")},
            trial_id=f"{arm}-{seed}",
            evaluation_id=f"{split} {context}",
        )
        for arm, (kind, undesired, _) in arms.items()
        for seed in ([None] if kind == "base" else range(seeds))
        for stored in [0 if (arm, seed) in without else questions]
        for context in contexts
        if context == "neutral" or kind not in ("base", "baseline")
        for split in ("id", "ood")
    ]
    return Planned(cells=cells)
