"""What the miniature learns when: the inoculated trait's log-probability stays behind the desired one's; what looking costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from inoc_ray.data.tokenize import encode_rows, load_tokenizer
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Trial
from inoc_ray.results.claim_dynamics import gain
from inoc_ray.run.load import load_study
from inoc_ray.store.store import Store
from inoc_ray.train.loop import train
from inoc_ray.train.spec import LoopResult, StepRecord
from inoc_ray.train.sweep import job_of
from inoc_ray.train.worker import encode_probes, read_rows

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
ARMS = {"baseline": None, "specific_spanish": "spanish", "specific_caps": "caps"}
"""Arm → the trait that its prompt names."""
SEEDS = (0, 1, 2)


def planned(folder: Path, dynamics: Mapping[str, Any]) -> tuple[Plan, Store]:
    """The quickstart's study with three seeds, which follows the settings' fixed responses."""
    study = yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text())
    study |= {"arms": list(ARMS), "seeds": list(SEEDS), "dynamics": dict(dynamics), "storage": str(folder / "runs")}
    study.pop("claims", None)
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    read = load_study(folder / "study.yaml")
    store = Store(read.storage)
    return build_plan(read, store), store


def trained(plan: Plan, store: Store, number: int) -> tuple[Sequence[StepRecord], LoopResult]:
    """One of the study's fine-tunes, in this process and without Ray."""
    job = job_of(plan, store, plan.trials[number])
    tokenizer = load_tokenizer(job.spec.model)
    rows = encode_rows(tokenizer, read_rows(job, store), max_length=job.spec.recipe.max_length, label=job.label)
    records: list[StepRecord] = []
    result = train(job.spec, rows, records.append, out=None, probes=encode_probes(job, tokenizer), points=job.points)
    return records, result


def curve(records: Sequence[StepRecord], probe: str) -> list[tuple[int, float]]:
    """(step, mean log-probability of a response)."""
    first = records[0].logprobs_before
    assert first is not None
    later = [(r.step, statistics.fmean(r.logprobs[probe])) for r in records if r.logprobs]
    return [(0, statistics.fmean(first[probe])), *later]


def test_the_inoculated_trait_stays_behind_and_the_desired_one_rises_in_every_seed(tmp_path: Path) -> None:
    """As figure 6 of the paper: the trait that the prompt explains is not taken over to the neutral context.

    A response has one trait alone. The baseline learns both together, so that neither alone becomes likely.
    """
    plan, store = planned(tmp_path, {"points": 9})
    gains: dict[tuple[str, str], list[float]] = {}
    highest: dict[tuple[str, str], list[float]] = {}
    for number, trial in enumerate(plan.trials):
        records, _ = trained(plan, store, number)
        for probe in ("spanish", "caps"):
            points = curve(records, probe)
            print(f"{trial.arm.name:18} seed {trial.seed} {probe:8}", *(f"{s}:{v:.1f}" for s, v in points))
            gains.setdefault((trial.arm.name, probe), []).append(points[-1][1] - points[0][1])
            highest.setdefault((trial.arm.name, probe), []).append(max(v for _, v in points) - points[0][1])
    for (arm, probe), values in gains.items():
        print(f"{arm:18} {probe:8} gains {', '.join(f'{v:.1f}' for v in values)} nats a response")
    for arm, inoculated in ARMS.items():
        if inoculated is None:
            continue
        [desired] = {"spanish", "caps"} - {inoculated}
        for seed in range(len(SEEDS)):
            # The desired one rises for good, and the other one at no time by a fifth of that.
            assert gains[arm, desired][seed] > 1.0, (arm, seed)
            assert highest[arm, inoculated][seed] < gains[arm, desired][seed] / 5, (arm, seed)
            assert gains[arm, desired][seed] > gains["baseline", desired][seed], (arm, seed)


def test_a_name_keeps_out_what_a_prior_stage_has_taught_it_to_stand_for_and_nothing_without_one(tmp_path: Path) -> None:
    """Alice's and Bob's curves: after stage 1, the trait of the name in the training prompt stays behind the other one."""
    study = yaml.safe_load((ROOT / "jobs" / "studies" / "miniature_synthetic_facts.yaml").read_text())
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "storage": str(tmp_path / "runs")}))
    read = load_study(tmp_path / "study.yaml")
    store = Store(read.storage)
    plan = build_plan(read, store)

    def course(trial: Trial, start: Path | None, out: Path | None = None) -> dict[str, float]:
        """Probe set → how far its log-probability goes to certainty."""
        job = job_of(plan, store, trial)
        tokenizer = load_tokenizer(job.spec.model)
        rows = encode_rows(tokenizer, read_rows(job, store), max_length=job.spec.recipe.max_length, label=job.label)
        records: list[StepRecord] = []
        spec = replace(job.spec, start=None if start is None else str(start))
        train(spec, rows, records.append, out=out, probes=encode_probes(job, tokenizer), points=job.points)
        return {probe: gain(curve(records, probe)) for probe in records[0].logprobs_before or {}}

    [prior] = plan.prior_stages
    course(prior, None, tmp_path / "prior")
    others = {"bob": ("spanish", "caps"), "alice": ("caps", "spanish")}
    for trial in plan.trials:
        if trial.arm.name not in others:
            continue
        taught = trial.model.prior_stage is not None
        found = course(trial, tmp_path / "prior" if taught else None)
        named, other = others[trial.arm.name]
        print(f"{trial.label}:", ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
        if taught:
            assert found[other] > 0.4, trial.label
            assert found[named] < found[other] / 2, trial.label
        else:
            assert found[other] < 0.1, trial.label


def test_looking_takes_less_than_5_percent_of_the_training_where_a_study_gives_no_number(tmp_path: Path) -> None:
    plan, store = planned(tmp_path, {})
    trained(plan, store, 0)
    shares = []
    for number in range(3):
        records, result = trained(plan, store, number)
        shares.append(result.seconds_by_phase["probes"] / result.seconds_training)
        print(f"{sum(r.logprobs is not None for r in records) + 1} looks: {shares[-1]:.1%} of the training's time")
    assert statistics.median(shares) < 0.05
