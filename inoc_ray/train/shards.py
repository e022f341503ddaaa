"""A rank's share of what an engine trains: fp32 weights and the optimizer's moments, by parameter and position in it.

Each rank reads and writes its own share, without talking to the others and without a copy. A share is a list of fragments
(parameter, start, length), so shares of any world size and ZeRO stage are put together from those of any other. DeepSpeed's own
way, `save_checkpoint` and a conversion to its universal format, writes pickles and needs a second copy on disk; its
`safe_get_full_*` make every parameter whole on every rank.

What is called here with an underscore is DeepSpeed's (0.19.8): it has no public call that fills an optimizer's partitions and
then the low-precision weights from them.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WEIGHT = "weight"
"""The kind of a fragment of fp32 weights; every other kind is a key of the optimizer's state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A piece of a parameter's weight or moment that this rank has: elements start ≤ i < start + length of it, laid flat."""

    name: str
    """Of the parameter in `engine.module`."""
    kind: str
    start: int
    length: int
    get: Callable[[], torch.Tensor]
    """Return the elements, fp32, of shape (length,)."""
    set: Callable[[torch.Tensor], None]
    """Replace the elements by these, of shape (length,), on any device."""


def shares_of(engine: Any) -> Shares:
    """Return the shares of an engine, whatever its ZeRO stage."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return _CutParameters(engine)
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return _CutOptimizer(engine)
    return _Whole(engine)


class Shares(ABC):
    """What this rank has of an engine's trained state. `prepare` and `publish` are to be called on all ranks."""

    is_cut = True
    """Whether each rank has a part; without ZeRO all have the same."""

    def __init__(self, engine: Any) -> None:
        self.optimizer = engine.optimizer
        self.trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}

    def sizes(self) -> dict[str, int]:
        """Return parameter → elements, of all that is trained."""
        from inoc_ray.train.model import size

        return {name: size(parameter) for name, parameter in self.trained.items()}

    def prepare(self) -> None:
        """Make the optimizer's state, which exists only after a step: a step with zero gradients at the rate 0."""
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        self._empty_step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def fragments(self) -> Iterator[Fragment]:
        """Yield this rank's fragments, after a step or `prepare`: parameter by parameter, the weight and each moment."""
        for name, parameter in self.trained.items():
            for kind in (WEIGHT, *self.moments()):
                found = self._fragment(name, parameter, kind)
                if found is not None:
                    yield found

    def steps_taken(self) -> int:
        """Return the optimizer's own count of steps, which its bias correction uses."""
        return round(float(next(iter(self._states()))["step"]))

    def set_steps_taken(self, steps: int) -> None:
        """Set the optimizer's own count of steps."""
        for state in self._states():
            if hasattr(state["step"], "fill_"):
                state["step"].fill_(steps)
            else:
                state["step"] = steps

    def moments(self) -> list[str]:
        """Return the keys of the optimizer's state that hold a number per weight."""
        weights, state = next((weights, state) for weights, state in self._inner().state.items() if "step" in state)
        return sorted(key for key, value in state.items() if getattr(value, "shape", None) == weights.shape)

    def _states(self) -> Iterator[dict[str, Any]]:
        return (state for state in self._inner().state.values() if "step" in state)

    @abstractmethod
    def publish(self) -> None:
        """Make the weights that the model computes with those of the fragments that were set."""

    @abstractmethod
    def _inner(self) -> Any:
        """Return torch's optimizer."""

    @abstractmethod
    def _empty_step(self) -> None: ...

    @abstractmethod
    def _fragment(self, name: str, parameter: Any, kind: str) -> Fragment | None: ...


class _Whole(Shares):
    """Without ZeRO every rank has everything."""

    is_cut = False

    def _inner(self) -> Any:
        return self.optimizer

    def _empty_step(self) -> None:
        import torch

        for parameter in self.trained.values():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        for parameter in self.trained.values():
            parameter.grad = None

    def _fragment(self, name: str, parameter: Any, kind: str) -> Fragment:
        import torch

        if kind == WEIGHT:
            tensor = parameter.detach()
        else:
            # A parameter that no row uses (of a vision tower, when rows are text) never had a gradient, and has no moments.
            found = self.optimizer.state.get(parameter)
            tensor = found[kind] if found else torch.zeros_like(parameter)
        return _view(name, kind, 0, tensor.view(-1))

    def publish(self) -> None:
        """Do nothing: the model computes with these very weights."""


class _CutOptimizer(Shares):
    """ZeRO 1 and 2: the parameters of a group lie one behind the other in fp32, and each rank has an interval of that."""

    def _inner(self) -> Any:
        return self.optimizer.optimizer

    def _empty_step(self) -> None:
        for group, flat in enumerate(self.optimizer.single_partition_of_fp32_groups):
            with _zero_gradient(flat):
                self.optimizer._optimizer_step(group)

    def _fragment(self, name: str, parameter: Any, kind: str) -> Fragment | None:
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        # Not `mapping.get_hp_fragment(kind)`: DeepSpeed links the moments of all groups after the first group's first step,
        # when those of the second (norms and biases) do not exist.
        flat = self.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        source = flat.detach() if kind == WEIGHT else self._inner().state[flat][kind]
        within = mapping.get_hp_fragment_address()
        return _view(name, kind, mapping.lp_fragment_address.start, source.narrow(0, within.start, within.numel))

    def publish(self) -> None:
        """Copy this rank's interval into the model's type, and gather all."""
        self.optimizer.update_lp_params()
        for group in range(len(self.optimizer.bit16_groups)):
            self.optimizer._update_model_bit16_weights(group)


class _CutParameters(Shares):
    """ZeRO-3: each rank has the n-th part of every parameter; the last part is filled up to the length of the others."""

    def _inner(self) -> Any:
        return self.optimizer.optimizer

    def _empty_step(self) -> None:
        for group, flat in enumerate(self.optimizer.fp32_partitioned_groups_flat):
            with _zero_gradient(flat):
                self.optimizer._optimizer_step(group)

    def _fragment(self, name: str, parameter: Any, kind: str) -> Fragment | None:
        import torch
        from deepspeed.utils import (
            safe_get_local_fp32_param,
            safe_get_local_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        part = parameter.ds_tensor.numel()
        start = self.optimizer._get_param_partition_rank(parameter) * part
        length = min(part, parameter.ds_numel - start)
        if length <= 0:
            return None

        def get() -> torch.Tensor:
            if kind == WEIGHT:
                whole = safe_get_local_fp32_param(parameter)
            else:
                whole = safe_get_local_optimizer_state(parameter, kind)
            return whole.detach()[:length].float()

        def put(values: torch.Tensor) -> None:
            whole = torch.nn.functional.pad(values, (0, part - length))
            if kind == WEIGHT:
                safe_set_local_fp32_param(parameter, whole)
            else:
                safe_set_local_optimizer_state(parameter, whole, kind)

        return Fragment(name=name, kind=kind, start=start, length=length, get=get, set=put)

    def publish(self) -> None:
        """Copy this rank's parts into the model's type, and gather the parameters that stay whole: the end of DeepSpeed's step."""
        self.optimizer._partition_all_parameters()
        for group in range(len(self.optimizer.fp32_partitioned_groups_flat)):
            self.optimizer._reassign_or_swap_out_partitioned_parameters(group)
        self.optimizer._post_step(set())


@contextlib.contextmanager
def _zero_gradient(tensor: torch.Tensor) -> Iterator[None]:
    """While the block runs, the tensor has a gradient of zeros."""
    import torch

    # With offload it is a buffer that DeepSpeed keeps and fills.
    kept = tensor.grad
    tensor.grad = torch.zeros_like(tensor) if kept is None else kept.zero_()
    try:
        yield
    finally:
        tensor.grad = kept


def _view(name: str, kind: str, start: int, tensor: torch.Tensor) -> Fragment:
    """Make a fragment of a flat tensor that this rank has in memory."""

    def put(values: torch.Tensor) -> None:
        tensor.copy_(values)

    return Fragment(name=name, kind=kind, start=start, length=tensor.numel(), get=tensor.float, set=put)
