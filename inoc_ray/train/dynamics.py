"""Learning dynamics: the log-probability of fixed responses, teacher-forced, at steps of a fine-tune.

The responses go through the engine as rows of training do, packed or padded and under any ZeRO stage, without dropout and
without gradients. All ranks call at the same steps; each takes a part of the responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.data.tokenize import EncodedRow
from inoc_ray.study.dynamics import FEWEST, MOST, looks_at
from inoc_ray.train.head import TargetLoss
from inoc_ray.train.inputs import PassInputs
from inoc_ray.train.layout import Layout, Passes, check_fits

if TYPE_CHECKING:
    import torch

SHARE = 0.04
"""Of the training's time, what looking may take where a study gives no number; measured, it stays below 5 %."""
_OF_A_STEP = {"lora": 1 / 2, "full": 1 / 3}
"""A forward pass over a step on the same tokens: there is no gradient of frozen weights, and else the backward pass is two."""


def points_for(method: str, *, steps: int, tokens_of_a_step: float, tokens_of_a_look: int) -> int:
    """Return how often a fine-tune is looked at so that it takes SHARE of its time, by the tokens of both."""
    a_look = tokens_of_a_look * _OF_A_STEP.get(method, 1 / 2)
    return max(FEWEST, min(MOST, int(SHARE * steps * tokens_of_a_step / max(1.0, a_look))))


class Looks:
    """Looks at the probe sets of a fine-tune, at its steps.

    sets: name → responses. inputs: makes the tensors of a pass of these rows, as training does.
    """

    def __init__(
        self,
        sets: Mapping[str, Sequence[EncodedRow]],
        *,
        steps: int,
        points: int,
        engine: Any,
        loss: TargetLoss,
        layout: Layout,
        inputs: Callable[[Sequence[EncodedRow]], PassInputs],
        device: torch.device,
    ) -> None:
        self.sets, self.engine, self.loss, self.inputs, self.device = sets, engine, loss, inputs, device
        self.rows = [row for rows in sets.values() for row in rows]
        self.at = frozenset(looks_at(steps, points)) if self.rows else frozenset()
        self.passes = _passes(layout, [len(row.input_ids) for row in self.rows])

    def after(self, step: int) -> dict[str, list[float]] | None:
        """Return Σ log p over the tokens of each response, in nats, by set; None if the step is none of those looked at.

        0 is before the first step. To be called on all ranks, which get the same numbers.
        """
        if step not in self.at:
            return None
        import torch
        import torch.distributed as dist

        rank, world_size = dist.get_rank(), dist.get_world_size()
        found = torch.zeros(len(self.rows), device=self.device)
        training = self.engine.module.training
        self.engine.eval()
        with torch.no_grad():
            for ranks in self.passes:
                mine = ranks[rank]
                most = max(sum(self.rows[n].targets for n in numbers) for numbers in ranks)
                each = self.loss.each(self.inputs([self.rows[n] for n in mine]), most)
                parts = each.split([self.rows[n].targets for n in mine])
                for number, part in zip(mine, parts, strict=True):
                    found[number] = -part.sum()
        self.engine.train(training)
        if world_size > 1:
            dist.all_reduce(found)
        values = iter(found.tolist())
        return {name: [next(values) for _ in rows] for name, rows in self.sets.items()}


def _passes(layout: Layout, lengths: Sequence[int]) -> Passes:
    """Return the rows by pass and rank, of any number of rows; as many passes on each rank, empty ones where rows are few."""
    if not lengths:
        return []
    check_fits(max(lengths), layout.tokens, "a response of dynamics.probes")
    if layout.tokens is not None:
        return layout.passes(range(len(lengths)), lengths)
    ordered = sorted(range(len(lengths)), key=lambda row: lengths[row])
    parts = [ordered[at : at + layout.rows] for at in range(0, len(ordered), layout.rows)]
    parts += [[] for _ in range(-len(parts) % layout.world_size)]
    return [parts[at : at + layout.world_size] for at in range(0, len(parts), layout.world_size)]
