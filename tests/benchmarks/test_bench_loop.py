"""What our training loop costs beside a minimal DeepSpeed loop: a ratio, measured in turn in one process."""

import statistics
import time

import pytest
from tiny_base import encoded_rows, make_spec

from inoc_ray.miniature import weights_path

pytestmark = pytest.mark.bench

STEPS, DROPPED = 220, 20


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_step_of_our_loop_beside_a_step_of_a_minimal_one(zero_stage):
    """A B A B …: both engines take the same batches in turn; the first steps are left out."""
    import deepspeed
    import torch

    from inoc_ray.data.tokenize import collate
    from inoc_ray.train import loop, process, zero
    from inoc_ray.train.batches import global_batches
    from inoc_ray.train.model import make_model, parameter_groups

    process.set_threads(1)
    device = process.ready()
    base = str(weights_path())
    rows = encoded_rows(base)
    spec = make_spec(base, steps=10**6, batch_size=16, micro_batch_size=16, zero_stage=zero_stage)

    def engine():
        process.seed_everything(0)
        config = zero.deepspeed_config(spec, 1)
        model = make_model(spec, config, device, None)
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.0), lr=1e-3, fused=True)
        return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]

    ours, minimal = loop._Run(spec, rows, engine(), device=device, steps=10**6), engine()
    seconds: dict[str, list[float]] = {"ours": [], "minimal": []}
    with process.deterministic(device):
        for step, batch in enumerate(global_batches(len(rows), 16, STEPS, 0), start=1):
            started = time.perf_counter()
            ours.step(step, batch)
            seconds["ours"].append(time.perf_counter() - started)
            ready = collate([rows[i] for i in batch], 0)
            started = time.perf_counter()
            minimal.backward(minimal(**ready).loss)
            if zero_stage == 0:
                torch.nn.utils.clip_grad_norm_([p for p in minimal.module.parameters() if p.requires_grad], 1.0)
            minimal.step()
            seconds["minimal"].append(time.perf_counter() - started)
    median = {name: statistics.median(taken[DROPPED:]) for name, taken in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["ours"][DROPPED:], seconds["minimal"][DROPPED:], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    print(
        f"\nZeRO-{zero_stage}: ours {median['ours'] * 1e3:.2f} ms, minimal {median['minimal'] * 1e3:.2f} ms a step; "
        f"ratio median {quartiles[1]:.3f}, quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}"
    )
    assert quartiles[1] <= 1.0, "a minimal loop is faster"
