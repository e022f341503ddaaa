"""What Ray Train costs: the same fine-tune under it and under bare torch.distributed, in turn, ZeRO-2.

Ray's own processes (raylet, agents, a run's helper actors) take about a tenth of a core between them, all the time, which ranks
that fill the machine have to give up. So a third contestant is bare torch.distributed on a machine on which
Ray runs and does nothing: it tells what of the difference is theirs. The limit holds against a machine without Ray.
"""

import json
import statistics

import pytest
import workloads
from contest import contest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

MOST = 1.02
"""Seconds per step under Ray Train ÷ bare, medians."""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_under_ray_train_beside_bare_torch_distributed(ranks, tmp_path):
    workload = workloads.miniature(tmp_path)
    settings = workload / "workload.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"ranks": ranks}))
    names = ("ray_train", "bare_beside_ray", "bare")
    result = contest(workload, names, rounds=5, steps=220, dropped=20, program="launchers.py")
    print(f"\n{result.text(f'{ranks} ranks, ZeRO-2', 'ray_train')}")
    assert 1 / statistics.median(result.ratios("ray_train", "bare")) <= MOST
