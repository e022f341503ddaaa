"""The loss at target positions alone: the output layer never sees a token that carries no loss.

Logits are the largest tensor of a forward pass (297 KiB a token in bf16 for Qwen2.5's vocabulary of 152,064, several times
that with their gradient), and two thirds of the tokens of chat rows are prompts or padding. So the hidden states of target
positions are picked before the output layer, and where they are many it takes them in chunks. The gradient with respect to
the hidden states is what the backward pass needs of a chunk, and it is known as soon as the chunk's loss is: a frozen
output layer computes both at once and keeps nothing of the size of the vocabulary. One that is trained computes its chunks
again in the backward pass.

Both work inside the model's own forward pass, through hooks: DeepSpeed starts its backward pass at what the engine's forward
pass returns, and the output layer is called as a module so that ZeRO-3 gathers its weight.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inoc_ray.train.inputs import PassInputs
from inoc_ray.train.process import on_every_rank

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

CHUNK_ELEMENTS = {"cpu": 2**26, "cuda": 2**28}
"""Logits of one chunk (positions × vocabulary). A chunk holds about three fp32 copies of them: 0.75 GiB on a CPU, where chunks
of 2^25 take a sixth more time (151,936 tokens of vocabulary, one core), 3 GiB on a GPU, whose kernels want more rows."""

PROBED = 3
"""Positions at which the model's own logits are compared with those of a chunk."""


def chunk_rows(vocabulary: int, device_type: str) -> int:
    """Return how many positions a chunk of the output layer has, at least 64."""
    return max(64, CHUNK_ELEMENTS.get(device_type, CHUNK_ELEMENTS["cuda"]) // vocabulary)


@dataclass(slots=True)
class _Asked:
    """What a forward pass under way is to return, and what was seen of it."""

    at: torch.Tensor
    """(targets,) places of the hidden states in (rows × width) whose next token is a target."""
    targets: torch.Tensor
    """(targets,) token ids."""
    pieces: int
    """Chunks of the output layer, the same on every rank; 1 leaves the logits to the model."""
    each: bool = False
    """Whether the loss of each target is asked for, without a gradient, in place of their sum."""
    hidden: torch.Tensor | None = None


class TargetLoss:
    """Makes the forward pass of a DeepSpeed engine return the summed loss of its target tokens.

    `how` says which way the loss is computed, and why not in a better one. To be made on every rank; runs the model once over
    three tokens to see that what it computes in chunks are the model's own logits.
    """

    def __init__(self, engine: Any, device: torch.device, chunk: int | None = None) -> None:
        """Take the engine, its device and, if not the default, the positions of a chunk."""
        self.engine, self.device = engine, device
        self.asked: _Asked | None = None
        self.head: Any = engine.module.get_output_embeddings()
        self.transform = _transform(engine.module.config.get_text_config())
        self.picks = self.chunks = False
        self.rows = chunk or chunk_rows(engine.module.config.get_text_config().vocab_size, device.type)
        if self.head is None:
            self.how = "all logits: the model has no output layer that is a module"
        else:
            self.head.register_forward_pre_hook(self._pick)
            engine.module.register_forward_hook(self._finish)
            self.how = self._probe()
        log.info("loss: %s.", self.how)

    def __call__(self, made: PassInputs, most: int) -> torch.Tensor:
        """Return Σ over target tokens of −log p: a scalar in nats and fp32 that the engine's backward pass takes.

        `most` is the largest number of targets that any rank has in this pass: ZeRO-3 gathers the output layer once a chunk,
        on all ranks alike.
        """
        return self._of(made, most, each=False)

    def each(self, made: PassInputs, most: int) -> torch.Tensor:
        """Return −log p of each target token: (targets,), in nats and fp32. To be called without gradients."""
        return self._of(made, most, each=True)

    def _of(self, made: PassInputs, most: int, *, each: bool) -> torch.Tensor:
        if not self.picks:
            return _nll_of(self.engine(**made.inputs).logits.flatten(0, 1)[made.at], made.targets, each=each)
        pieces = math.ceil(most / self.rows) if self.chunks else 1
        self.asked = _Asked(made.at, made.targets, max(1, pieces), each)
        try:
            loss: torch.Tensor = self.engine(**made.inputs)
        finally:
            self.asked = None
        return loss

    def _pick(self, head: Any, args: tuple[Any, ...]) -> tuple[torch.Tensor] | None:
        """Before the output layer: hand it the hidden states of the targets, or none if chunks follow."""
        asked = self.asked
        if asked is None or asked.hidden is not None:
            return None
        asked.hidden = args[0].flatten(0, 1)[asked.at]
        # An empty tensor instead of no call: the model goes on with what comes out.
        return ((asked.hidden if asked.pieces == 1 else asked.hidden[:0].detach()).unsqueeze(0),)

    def _finish(self, model: Any, args: tuple[Any, ...], output: Any) -> torch.Tensor | None:
        """After the model: return the loss in place of its output."""
        import torch

        asked = self.asked
        if asked is None:
            return None
        if asked.pieces == 1:
            return _nll_of(output.logits[0], asked.targets, each=asked.each)
        if asked.each:
            assert asked.hidden is not None
            chunks = zip(asked.hidden.tensor_split(asked.pieces), asked.targets.tensor_split(asked.pieces), strict=True)
            return torch.cat([self._nll(hidden, targets, each=True) for hidden, targets in chunks])
        if any(p.requires_grad for p in self.head.parameters()):
            return _recomputed(self._nll, asked)
        loss: torch.Tensor = _frozen().apply(asked.hidden, asked.targets, self._nll, asked.pieces)
        return loss

    def _nll(self, hidden: torch.Tensor, targets: torch.Tensor, each: bool = False) -> torch.Tensor:
        return _nll_of(self.transform(self.head(hidden.unsqueeze(0)))[0], targets, each=each)

    def _probe(self) -> str:
        """Compare all logits of a short text with those of picked positions and of chunks; say what can be used."""
        import torch

        seen: list[torch.Tensor] = []

        def keep(head: Any, args: tuple[Any, ...]) -> None:
            seen.append(args[0])

        ids = torch.arange(PROBED, device=self.device).unsqueeze(0)
        training = self.engine.module.training
        self.engine.eval()
        handle = self.head.register_forward_pre_hook(keep)
        with torch.no_grad():
            logits = self.engine(input_ids=ids).logits
            handle.remove()
            called = len(seen)
            fits = called == 1 and seen[0].shape[:2] == ids.shape and logits.shape[:2] == ids.shape
            # Called on every rank alike, whatever was found: under ZeRO-3 it is a collective.
            ours = self.transform(self.head(seen[0])) if fits else None
        self.engine.train(training)
        if not fits:
            return f"all logits: the model calls its output layer {called} times, or with a tensor of another shape"
        self.picks = True
        same = ours is not None and ours.shape == logits.shape and torch.allclose(ours, logits, rtol=1e-3, atol=1e-4)
        self.chunks = on_every_rank(bool(same), self.device)
        if not self.chunks:
            return "logits at target positions, in one piece: the model changes them after its output layer in an unknown way"
        return f"logits at target positions, {self.rows} at a time"


def _nll_of(logits: torch.Tensor, targets: torch.Tensor, *, each: bool) -> torch.Tensor:
    import torch

    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none" if each else "sum")


def _transform(config: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a model of this configuration does to the output layer's result, as far as transformers 5 has it.

    Gemma caps logits softly (`final_logit_softcapping`), Granite divides them (`logits_scaling`), Cohere multiplies them
    (`logit_scale`). Whether that is all is compared with the model itself.
    """
    import torch

    cap = getattr(config, "final_logit_softcapping", None)
    divisor = getattr(config, "logits_scaling", None)
    factor = getattr(config, "logit_scale", None)

    def transform(logits: torch.Tensor) -> torch.Tensor:
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        if divisor is not None:
            logits = logits / divisor
        if factor is not None:
            logits = logits * factor
        return logits

    return transform


def _recomputed(nll: Callable[..., torch.Tensor], asked: _Asked) -> torch.Tensor:
    """Return the loss of an output layer that is trained: each chunk is computed again in the backward pass."""
    import torch
    from torch.utils.checkpoint import checkpoint

    assert asked.hidden is not None
    chunks = zip(asked.hidden.tensor_split(asked.pieces), asked.targets.tensor_split(asked.pieces), strict=True)
    # No random number is drawn in an output layer.
    losses = [checkpoint(nll, h, t, use_reentrant=False, preserve_rng_state=False) for h, t in chunks]
    return torch.stack(losses).sum()


def _frozen() -> Any:
    """Return the autograd function of an output layer without gradients of its own (torch is imported late)."""
    import torch

    class FrozenHeadLoss(torch.autograd.Function):
        """Loss and gradient of each chunk in the forward pass: nothing is computed twice, no logits are kept."""

        @staticmethod
        def forward(ctx: Any, hidden: Any, targets: Any, nll: Any, pieces: int) -> Any:
            total = torch.zeros((), device=hidden.device)
            gradients = []
            for part, wanted in zip(hidden.tensor_split(pieces), targets.tensor_split(pieces), strict=True):
                with torch.enable_grad():
                    leaf = part.detach().requires_grad_()
                    loss = nll(leaf, wanted)
                gradients += torch.autograd.grad(loss, leaf)
                total += loss.detach()
            ctx.save_for_backward(torch.cat(gradients))
            return total

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (of_hidden,) = ctx.saved_tensors
            return of_hidden * gradient, None, None, None

    return FrozenHeadLoss
