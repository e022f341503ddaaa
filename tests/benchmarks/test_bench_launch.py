"""What Ray Train costs: the same fine-tune on two ranks under it and under bare torch.distributed, in turn, ZeRO-2."""

import statistics

import pytest
import workloads
from contest import contest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

MOST = 1.02
"""Seconds per step under Ray Train ÷ bare, medians."""


def test_a_step_under_ray_train_beside_bare_torch_distributed(tmp_path):
    workload = workloads.miniature(tmp_path)
    result = contest(workload, ("ray_train", "bare"), rounds=5, steps=220, dropped=20, program="launchers.py")
    print(f"\n{result.text('two ranks, ZeRO-2', 'ray_train')}")
    assert 1 / statistics.median(result.ratios("ray_train", "bare")) <= MOST
