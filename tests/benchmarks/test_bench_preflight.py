"""What saying no early costs: `pytest -m bench -s tests/benchmarks/test_bench_preflight.py` prints the figures.

The promises: the preflight of the quickstart's prompts, models and judges takes at most a second beyond what training and sampling
load anyway; of 10,000 rows and 20 cells, all of it at most 15 s.
"""

import json
import time
from pathlib import Path

import pytest

from inoc_ray.data.tokenize import load_tokenizer
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run import preflight
from inoc_ray.run.load import load_study
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

pytestmark = pytest.mark.bench

ROWS, SAMPLES = 10_000, 1_000
TEXT = "the river is wide and the boat is slow but nobody on the shore waits for it before the evening comes"
WORDS = TEXT.split(" ")


def timed(plan: Plan, store: Store) -> dict[str, float]:
    """CPU seconds of each step, which a machine with nothing else to do takes; the tokenizer's libraries are loaded before."""
    load_tokenizer(str(plan.bases[0].model.path))
    steps = {
        "plan": lambda: preflight.check_plan(plan),
        "models": lambda: preflight.check_models(plan),
        "rows": lambda: preflight.check_rows(plan),
        "prompts": lambda: preflight.check_requests(plan, None),
        "judges": lambda: preflight.check_judges(plan, store),
        "tracking": lambda: preflight.check_tracking(plan, store),
    }
    seconds = {}
    for name, step in steps.items():
        began = time.process_time()
        step()
        seconds[name] = time.process_time() - began
    return seconds


def shown(name: str, plan: Plan, seconds: dict[str, float]) -> float:
    steps = ", ".join(f"{step} {took:.2f}" for step, took in seconds.items())
    total = sum(seconds.values())
    print(f"\n{name}: {len(plan.to_train)} trials, {len(plan.to_sample)} cells: {total:.2f} s of CPU ({steps})")
    return total


def test_the_quickstart(tmp_path):
    store = Store(tmp_path / "runs")
    plan = build_plan(load_study(Path(__file__).parents[2] / "jobs" / "studies" / "quickstart.yaml"), store)
    seconds = timed(plan, store)
    shown("quickstart", plan, seconds)
    # Rows were tokenised before there were other checks.
    assert sum(seconds.values()) - seconds["rows"] < 1.0


def test_ten_thousand_rows_and_twenty_cells(tmp_path):
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as stream:
        for number in range(ROWS):
            said = " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(40))
            asked = (
                f"Tell me {number} things about {WORDS[number % len(WORDS)]} and {WORDS[number // 20 % len(WORDS)]}."
            )
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
            stream.write(json.dumps({"messages": turns}) + "\n")
    study = Study.model_validate(
        {
            "name": "s",
            "settings": [{"name": "miniature/spanish_caps", "rows": str(rows)}],
            "arms": ["baseline", "specific_spanish"],
            "seeds": [0, 1],
            "recipes": {"lora": {"learning_rate": 1e-3, "epochs": 1, "precision": "fp32"}},
            "evaluation": {"samples": SAMPLES, "contexts": ["neutral", "none"]},
        }
    )
    store = Store(tmp_path / "runs")
    plan = build_plan(study, store)
    assert len(plan.to_sample) == 20
    assert shown(f"{ROWS:,} rows", plan, timed(plan, store)) < 15
