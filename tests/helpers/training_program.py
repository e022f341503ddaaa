"""A command that trains one trial of a tiny study on a Ray of its own: BASE STORE REPORTS OPTIONS, as JSON.

Tests kill it, or its worker, whose process id is in the store; the pace is in REPORTS, a line per report of the workers.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tiny_base import chat_rows

from inoc_ray.cluster.connect import connected
from inoc_ray.data.chat import write_jsonl
from inoc_ray.plan.build import build_plan
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study
from inoc_ray.train import sweep


def study_of(base: str, folder: Path, options: dict[str, Any]) -> Study:
    """One trial of `steps` steps, with a snapshot every `minutes`."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        write_jsonl(rows, chat_rows())
    recipe = {"learning_rate": 2e-3, "steps": options["steps"], "precision": "bf16", "lora": {"dropout": 0.1}}
    return Study.model_validate(
        {
            "name": "killed",
            "settings": [{"name": "miniature/spanish_caps", "rows": str(rows)}],
            "arms": ["baseline"],
            "seeds": [0],
            "models": [{"name": "tiny", "path": base}],
            "recipes": {"r": recipe},
            "resources": {
                "workers": options.get("workers", 1),
                "zero_stage": 2,
                "max_failures": options.get("max_failures", 1),
                "snapshot_minutes": options["minutes"],
            },
        }
    )


def log_reports(follow: Any, path: Path) -> Any:
    """Let the callback of a sweep write each report, with the time, to a file as well."""
    on_result = follow.on_trial_result

    def both(**info: Any) -> None:
        with path.open("a") as file:
            result = info["result"]
            file.write(json.dumps({"at": time.time(), "step": result.get("step"), "note": result.get("note")}) + "\n")
        on_result(**info)

    follow.on_trial_result = both
    return follow


def main(base: str, folder: Path, reports: Path, options: dict[str, Any]) -> None:
    store = Store(folder)
    plan = build_plan(study_of(base, folder, options), store)
    make = sweep._follow
    sweep._follow = lambda *args: log_reports(make(*args), reports)
    print(plan.trials[0].trial_id, flush=True)
    with connected() as capacity:
        for outcome in sweep.train_missing(plan, store, capacity):
            print(outcome.status, outcome.error, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
