"""How well two judges agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def agree(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Over responses that both decided (1 shown, 0 not; NaN: not decided): how many, the share of equal decisions, Cohen's
    kappa (Cohen 1960), and the difference of the rates (the second's minus the first's).

    kappa is None where it is not defined: nothing decided by both, or both say the same of every response. Raises ValueError
    for lengths that differ.
    """
    import numpy as np
    from sklearn.metrics import cohen_kappa_score

    first, second = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape} are not decisions on the same responses")
    both = ~np.isnan(first) & ~np.isnan(second)
    a, b = first[both].astype(int), second[both].astype(int)
    if not len(a):
        return {"responses": 0, "agreement": None, "kappa": None, "difference": None}
    varied = len({*a.tolist(), *b.tolist()}) > 1
    return {
        "responses": len(a),
        "agreement": float((a == b).mean()),
        "kappa": float(cohen_kappa_score(a, b)) if varied else None,
        "difference": float(b.mean() - a.mean()),
    }
