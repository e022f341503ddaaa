"""Rates over the steps of fine-tunes, of responses sampled from the weights that they kept on the way, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inoc_ray.results.rows import Place, Row, TrialRate


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRates:
    """The rates after one step: of the fine-tunes that kept their weights then or were finished, and of the bases at step 0."""

    step: int
    rows: tuple[Row, ...]
    trial_rates: Mapping[Place, tuple[TrialRate, ...]] = field(default_factory=dict)
