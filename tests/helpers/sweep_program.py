"""A sweep as a command makes it, on the cluster of RAY_ADDRESS: BASE FOLDER RESOURCES STEPS, outcomes in FOLDER/outcomes.json."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from tiny_base import chat_rows

from inoc_ray.cluster.connect import connected
from inoc_ray.data.chat import write_jsonl
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study


def plan_of(base: str, folder: Path, resources: dict[str, Any], steps: int) -> tuple[Plan, Store]:
    """One fine-tune of the tiny base."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        write_jsonl(rows, chat_rows())
    study = Study.model_validate(
        {
            "name": "nodes",
            "settings": [{"name": "miniature/spanish_caps", "rows": str(rows)}],
            "arms": ["baseline"],
            "seeds": [0],
            "models": [{"name": "tiny", "path": base}],
            "recipes": {"lora": {"learning_rate": 2e-3, "steps": steps, "batch_size": 16, "precision": "fp32"}},
            "resources": resources,
        }
    )
    store = Store(folder / "runs")
    return build_plan(study, store), store


def main(base: str, folder: Path, resources: dict[str, Any], steps: int) -> None:
    from inoc_ray.train.sweep import train_missing

    plan, store = plan_of(base, folder, resources, steps)
    with connected() as capacity:
        outcomes = train_missing(plan, store, capacity)
    (folder / "outcomes.json").write_text(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))
