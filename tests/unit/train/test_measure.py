"""Rates of a fine-tune that is resumed on other devices."""

import pytest
import torch

from inoc_ray.train import measure
from inoc_ray.train.flops import Work
from inoc_ray.train.measure import Spent, Totals

STEP = Spent(
    seconds=1.0, phases={}, needed=Work(tokens=10), done=Work(tokens=10), model_flops=40.0, hardware_flops=50.0
)


def test_the_mfu_of_all_steps_goes_by_the_devices_that_each_of_them_had(monkeypatch):
    monkeypatch.setattr(measure, "peak_flops", lambda device, precision: 100.0)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    two, one = (Totals(torch.device("cpu"), "bf16", world_size) for world_size in (2, 1))
    assert two.add(STEP)["mfu"] == pytest.approx(0.2)
    one.go_on(two.sums(loss=1.0, passes=1))
    assert one.add(STEP)["mfu"] == pytest.approx(0.4)
    assert one.result()["mfu"] == pytest.approx(80 / 300)
    assert one.result()["hfu"] == pytest.approx(100 / 300)
