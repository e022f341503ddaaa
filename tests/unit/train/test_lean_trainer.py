"""What a run on a private cluster switches off stays on for the next run of the process, which may be on a team's cluster."""

from __future__ import annotations

import os
from typing import Any

import pytest


@pytest.mark.parametrize("fails", [False, True])
def test_preemption_is_watched_again_after_a_run_on_a_private_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, fails: bool
) -> None:
    # As the product does before it imports Ray Train.
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "1")
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR

    from inoc_ray.train.lean_trainer import LeanTrainer

    monkeypatch.delenv(ENABLE_PREEMPTION_WATCHER_ENV_VAR, raising=False)
    seen: list[str | None] = []

    def run_controller(self: LeanTrainer, **options: Any) -> None:
        seen.append(os.environ.get(ENABLE_PREEMPTION_WATCHER_ENV_VAR))
        if fails:
            raise RuntimeError("the run failed")

    monkeypatch.setattr(LeanTrainer, "_run_controller", run_controller)
    for private in (True, False):
        trainer = LeanTrainer(
            lambda: None,
            private=private,
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(storage_path=str(tmp_path)),
        )
        try:
            trainer._initialize_and_run_controller()
        except RuntimeError:
            assert fails
    assert seen == ["0", None]
