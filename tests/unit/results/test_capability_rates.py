"""Capabilities of arms have intervals over items and fine-tunes, and differences are taken item by item."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from results_table import ARMS, score_table

from inoc_ray.evaluate.capability_items import CapabilityItems, items_by_metric
from inoc_ray.results.capabilities import CapabilityRate
from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.completeness import Planned, PlannedCapability
from inoc_ray.results.report.meta import ReportMeta
from inoc_ray.results.report.page import render
from inoc_ray.results.table import comparison_text
from inoc_ray.results.wording import with_interval
from inoc_ray.study.claims import Claim, StatedClaim

ITEMS = 120
RIGHT = {"base": 0.5, "baseline": 0.5, "inoc_spanish": 0.5, "inoc_capitals": 0.2, "irrelevant": 0.5}
"""The share of items that each arm answers; those of .5 answer the same ones but for a few that change with the seed."""


def items(seeds: int = 3, metric: str = "acc") -> list[CapabilityItems]:
    found = []
    for arm, (kind, _, _) in ARMS.items():
        for seed in [None] if kind == "base" else range(seeds):
            right = np.arange(ITEMS) < RIGHT[arm] * ITEMS
            if seed is not None:
                right[[seed, ITEMS - 1 - seed]] = ~right[[seed, ITEMS - 1 - seed]]
            scores = {f"t/{n}": float(one) for n, one in enumerate(right)}
            place = {"setting": "toy", "model": "tiny", "arm": arm, "kind": kind}
            found.append(
                CapabilityItems(**place, trial_id=f"{arm}-{seed}", seed=seed, task="t", metric=metric, scores=scores)
            )
    return found


def claim(name: str, arm: str, **fields: object) -> StatedClaim:
    value = {"name": name, "says": "x", "measure": "capability", "task": "t", "arms": [arm], **fields}
    return StatedClaim(claim=Claim.model_validate(value))


CLAIMS = [
    claim("kept", "inoc_spanish", than="baseline", within=(-0.08, 0.08)),
    claim("lost", "inoc_capitals", than="baseline", within=(-0.08, 0.08)),
    claim("close", "inoc_spanish", than="baseline", within=(-0.001, 0.001)),
    claim("level", "base", above=0.3),
]


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(score_table(), "toy", items=[*items(), *items(metric="acc_norm")], claims=CLAIMS)


def rate(found: Comparison, arm: str) -> CapabilityRate:
    (one,) = [r for r in found.capability_rates if (r.arm, r.metric) == (arm, "acc")]
    return one


def test_rates_and_differences_have_intervals(found: Comparison) -> None:
    base, kept, lost = (rate(found, arm) for arm in ("base", "inoc_spanish", "inoc_capitals"))
    assert (base.seeds, base.items, kept.seeds) == (1, ITEMS, 3)
    assert base.value == 0.5
    assert base.low < 0.42 < 0.58 < base.high
    assert (base.than_baseline, base.than_base) == (None, None)
    assert kept.than_baseline == pytest.approx(0.0)
    # Item by item: two arms that answer alike differ by far less than either is known.
    assert kept.than_baseline_high - kept.than_baseline_low < 0.6 * (kept.high - kept.low)  # type: ignore[operator]
    assert lost.than_baseline == pytest.approx(-0.3)
    assert lost.than_baseline_high < -0.2  # type: ignore[operator]
    assert lost.than_base == pytest.approx(-0.3)


def test_claims_on_capabilities_are_tested_for_equivalence(found: Comparison) -> None:
    verdicts = {one.name: one.verdict for one in found.claims}
    assert verdicts == {"kept": "holds", "lost": "fails", "close": "cannot tell", "level": "holds"}
    assert next(one for one in found.claims if one.name == "close").decides.settle


def test_both_print(found: Comparison) -> None:
    printed = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(printed["capability_rates"]) == 2 * len(ARMS)
    assert comparison_text(found)


def test_items_are_readitems_by_metric_and_filter() -> None:
    lines = [
        {"task": "a", "doc_id": 0, "filter": "none", "metrics": ["acc", "acc_norm"], "acc": 1.0, "acc_norm": 0.0},
        {"task": "b", "doc_id": 0, "filter": "none", "metrics": ["acc"], "acc": 0},
        {"task": "a", "doc_id": 0, "filter": "strict", "metrics": ["exact"], "exact": 1.0},
        {"task": "a", "doc_id": 1, "filter": "none", "metrics": ["pair"], "pair": [1, 2]},
        ["no", "entry"],
    ]
    data = gzip.compress("\n".join(map(json.dumps, lines)).encode())
    assert items_by_metric(data) == {
        "acc": {"a/0": 1.0, "b/0": 0.0},
        "acc_norm": {"a/0": 0.0},
        "exact.strict": {"a/0": 1.0},
    }
    for damaged in (None, b"samples", data[:-9]):
        assert items_by_metric(damaged) == {}


@pytest.mark.parametrize(("arm", "verdict"), [("baseline", "cannot tell"), ("inoc_capitals", "holds")])
def test_a_claim_on_a_task_that_is_not_measured_of_every_fine_tune_cannot_be_told(arm: str, verdict: str) -> None:
    tasks = [
        PlannedCapability(setting="toy", model="tiny", arm=a, seed=s, task="t", measured=(a, s) != (arm, 2))
        for a in ARMS
        for s in ([None] if a == "base" else range(3))
    ]
    there = [one for one in items() if (one.arm, one.seed) != (arm, 2)]
    (kept,) = compare(score_table(), "toy", planned=Planned(capabilities=tasks), items=there, claims=CLAIMS[:1]).claims
    assert kept.verdict == verdict
    assert ("incomplete" in kept.decides.why) == (verdict == "cannot tell")


def test_the_report_has_the_differences(found: Comparison) -> None:
    score = {"setting": "toy", "model": "tiny", "arm": "base", "seed": None, "capability": "t", "metric": "acc"}
    shown = replace(found, capabilities=({**score, "value": 0.5, "stderr": None, "samples": ITEMS},))
    page = render(shown, ReportMeta(title="x"))
    one = rate(found, "inoc_capitals")
    assert with_interval(one.than_baseline, one.than_baseline_low, one.than_baseline_high) in page
    assert 'href="#capabilities"' in page
