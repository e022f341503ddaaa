"""How well the judges of a study agree with each other on the same responses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from inoc_ray.evaluate.cell_scores import PartScores
from inoc_ray.evaluate.verdicts import Verdicts
from inoc_ray.plan.plan import Plan
from inoc_ray.scoring.agreement import agreement as agree
from inoc_ray.scoring.judgment import RULES
from inoc_ray.store.store import Store


def judge_agreement(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Return how well each pair of judges agrees, per setting and trait, over the responses that both decided, each counted once.

    `difference` (second minus first) compares the numbers on the trait's rubric; None for a pair with the rules, which give none.
    """
    pairs: dict[tuple[str, str, str, str], list[tuple[Verdicts, Verdicts]]] = {}
    seen: set[tuple[str, str, str, str]] = set()
    for cell in sorted(plan.cells, key=lambda c: -c.samples):
        several = [
            judges
            for judges in cell.judges.traits.values()
            if len(judges.judges) > 1 and (cell.setting.name, *cell.key, judges.trait) not in seen
        ]
        # Two contexts of a model may share their samples.
        seen |= {(cell.setting.name, *cell.key, judges.trait) for judges in several}
        if not several:
            continue
        for start, _, path in store.parts(*cell.key):
            part = PartScores(cell, path)
            # Another study may have asked for more samples.
            selected = slice(0, max(0, cell.samples - start))
            for judges in several:
                for (one, first), (other, second) in itertools.combinations(part.verdicts(judges).items(), 2):
                    pairs.setdefault((cell.setting.name, judges.trait, one, other), []).append(
                        (first[selected], second[selected])
                    )
    return [_agreement(setting, trait, names, verdicts) for (setting, trait, *names), verdicts in pairs.items()]


def _agreement(
    setting: str, trait: str, names: Sequence[str], verdicts: Sequence[tuple[Verdicts, Verdicts]]
) -> dict[str, Any]:
    decided = {n: np.concatenate([v[i].shown for v in verdicts]) for i, n in enumerate(names)}
    numbers = {n: np.concatenate([v[i].score for v in verdicts]) for i, n in enumerate(names)}
    [pair] = agree(decided if RULES in names else numbers, decided)
    difference = math.nan if RULES in names else pair.difference
    shares = {"agreement": pair.share, "kappa": pair.kappa, "difference": difference}
    return {
        "setting": setting,
        "trait": trait,
        "judges": [pair.first, pair.second],
        "responses": pair.n,
        "asked": len(decided[pair.first]),
        **{name: None if math.isnan(value) else value for name, value in shares.items()},
    }
