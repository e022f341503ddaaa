"""What `inoc-ray plan` takes for a trial does not grow with the number of trials."""

import time
from pathlib import Path

from large_study import large_study

from inoc_ray.plan.build import build_plan
from inoc_ray.run.describe import plan_text
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study


def seconds_of_a_plan(folder: Path, seeds: int) -> float:
    """CPU seconds of this process, the least of two."""
    study, store, taken = Study.model_validate(large_study(20, seeds)), Store(folder), []
    for _ in range(2):
        began = time.process_time()
        plan = build_plan(study, store)
        text = plan_text(plan, store)
        taken.append(time.process_time() - began)
        assert len(plan.fine_tunes) == 20 * seeds
        assert text.count("\n") > 20 * seeds
    return min(taken)


def test_ten_times_as_many_trials_take_ten_times_as_long(tmp_path: Path):
    few, many = (seconds_of_a_plan(tmp_path, seeds) for seeds in (20, 200))
    # A scan over all cells for each trial would be ten times that.
    assert many < 2.5 * 10 * few
