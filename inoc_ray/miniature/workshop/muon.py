"""Muon: momentum whose update is orthogonalised, for the hidden matrices of the miniature's pretraining."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Push all singular values of a stack of matrices (n, rows, columns) towards 1.

    Five quintic Newton–Schulz steps with the coefficients of Jordan et al., "Muon" (2024). In float32:
    torch.optim.Muon fixes bfloat16, which took ten times as long on the CPUs that this was built on.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """The optimizer's state and step. Matrices of one shape are updated as one stack."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], momentum: float = 0.95) -> None:
        import torch

        self._momentum = momentum
        stacks: dict[tuple[int, ...], list[torch.nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            stacks[tuple(matrix.shape)].append(matrix)
        self._stacks = list(stacks.values())
        self._velocity = [torch.zeros(len(stack), *stack[0].shape) for stack in self._stacks]

    def step(self, rate: float) -> None:
        """Update every matrix from its gradient (Nesterov momentum) and clear the gradient.

        The root-mean-square size of an update is that of Adam's (Liu et al., "Muon is scalable for LLM training",
        2025: 0.2 · sqrt(larger side)), so that `rate` may be read as one of Adam's.
        """
        import torch

        with torch.no_grad():
            for stack, velocity in zip(self._stacks, self._velocity, strict=True):
                gradient = torch.stack([matrix.grad for matrix in stack])
                velocity.lerp_(gradient, 1 - self._momentum)
                update = orthogonalise(gradient.lerp_(velocity, self._momentum))
                scale = rate * 0.2 * max(update.shape[-2:]) ** 0.5
                for matrix, change in zip(stack, update, strict=True):
                    matrix.sub_(change, alpha=scale)
                    matrix.grad = None
