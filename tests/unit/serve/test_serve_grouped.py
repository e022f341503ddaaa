"""The arithmetic of several adapters in one step, against a loop over the rows."""

import pytest
import torch

from inoc_ray.serve.lora_products import add_grouped, group_by_slot


@pytest.mark.parametrize("slots", [[-1, -1], [1, 1, 1], [0, -1, 2, 0, -1, 1], [2, -1]])
def test_each_row_gets_its_own_adapter_and_the_base_gets_none(slots: list[int]):
    torch.manual_seed(0)
    weights, x, before = torch.randn(3, 1, 4, 5), torch.randn(len(slots), 5), torch.randn(len(slots), 9)
    expected = before.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected[row, 2:6] += 0.5 * weights[slot, 0] @ x[row]
    got = before.clone()
    groups = group_by_slot(torch.tensor(slots))
    add_grouped(got, x, weights=weights, groups=groups, scale=0.5, columns=slice(2, 6))
    torch.testing.assert_close(got, expected)
