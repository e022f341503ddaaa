"""What a fine-tune takes: seconds by phase, peak memory of device and host."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.train.flops import Work, peak_flops

if TYPE_CHECKING:
    import torch

PHASES = ("data", "forward", "backward", "step", "checkpoint", "probes")
"""Of an optimizer step: making tensors, the model and its loss, gradients with their exchange among ranks, the optimizer; and
what happens between steps: writing a snapshot, and looking at fixed responses."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Phases:
    """Adds up the seconds of each phase, on a GPU by events that nothing waits for."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._events: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Count the time of the block to `phase`. On a GPU it is the time between its first and last kernel."""
        if self.cuda:
            import torch

            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((phase, begin, end))
        else:
            started = time.perf_counter()
            yield
            self.seconds[phase] += time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call by phase; on a GPU, after it has finished what was asked of it."""
        for phase, begin, end in self._events:
            end.synchronize()
            self.seconds[phase] += begin.elapsed_time(end) / 1e3
        self._events.clear()
        taken, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return taken


class PeakMemory:
    """The most memory that this rank's process held since it was made, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        # Linux forgets the peak of a process when asked; where that is not allowed, the peak is of the whole process.
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")

    def host(self) -> int | None:
        """Return the peak of resident memory, or None where the system has no /proc."""
        try:
            lines = _STATUS.read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)

    def on_device(self) -> int | None:
        """Return the peak of what tensors held on the GPU, or None without one."""
        if self.device.type != "cuda":
            return None
        import torch

        return int(torch.cuda.max_memory_allocated(self.device))


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or "cpu"."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one optimizer step took, or all of them."""

    seconds: float
    phases: dict[str, float]
    needed: Work
    """Of the rows themselves."""
    done: Work
    """With padding."""
    model_flops: float
    hardware_flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What a fine-tune took up to a step: how a snapshot keeps it, for the process that goes on from there."""

    loss: float
    """Of the latest step."""
    passes: int
    """The most forward passes of a rank in a step."""
    seconds: float
    model_flops: float
    hardware_flops: float
    possible_flops: float
    """Of the devices in that time; 0 where their speed is not known."""
    needed: Work
    done: Work
    phases: dict[str, float]


class Totals:
    """Rates of each step and of all steps together."""

    def __init__(self, device: torch.device, precision: str, world_size: int) -> None:
        self.device, self.memory = device, PeakMemory(device)
        peak = peak_flops(device, precision)
        self.peak = peak * world_size if peak else None
        self.seconds = self.model_flops = self.hardware_flops = 0.0
        # Summed up, since a fine-tune that is resumed may have other devices, or another number of them.
        self.possible_flops = 0.0
        self.needed = self.done = Work()
        self.phases: Counter[str] = Counter()

    def add(self, spent: Spent) -> dict[str, Any]:
        """Count a step; return the fields of its `StepRecord` that measure it."""
        possible = (self.peak or 0.0) * spent.seconds
        self.seconds += spent.seconds
        self.possible_flops += possible
        self.model_flops += spent.model_flops
        self.hardware_flops += spent.hardware_flops
        self.needed += spent.needed
        self.done += spent.done
        self.phases.update(spent.phases)
        rates = _rates(spent, possible)
        return rates | {
            "seconds": spent.phases,
            "peak_device_bytes": self.memory.on_device(),
            "peak_host_bytes": self.memory.host(),
        }

    def sums(self, *, loss: float, passes: int) -> Sums:
        """Return the sums so far, with the loss of the latest step and the most passes of a step."""
        return Sums(
            loss=loss,
            passes=passes,
            seconds=self.seconds,
            model_flops=self.model_flops,
            hardware_flops=self.hardware_flops,
            possible_flops=self.possible_flops,
            needed=self.needed,
            done=self.done,
            phases=dict(self.phases),
        )

    def go_on(self, sums: Sums) -> None:
        """Set the sums to those of a snapshot."""
        self.seconds, self.possible_flops = sums.seconds, sums.possible_flops
        self.model_flops, self.hardware_flops = sums.model_flops, sums.hardware_flops
        self.needed, self.done, self.phases = sums.needed, sums.done, Counter(sums.phases)

    def result(self) -> dict[str, Any]:
        """Return the fields of `LoopResult` that measure the fine-tune; the memory is the largest of the ranks.

        To be called on every rank.
        """
        import torch.distributed as dist

        mine = (self.memory.on_device(), self.memory.host())
        ranks: list[Any] = [mine] * dist.get_world_size()
        if len(ranks) > 1:
            dist.all_gather_object(ranks, mine)
        device, host = ([one for one in several if one is not None] for several in zip(*ranks, strict=True))
        spent = Spent(
            seconds=self.seconds,
            phases=dict(self.phases),
            needed=self.needed,
            done=self.done,
            model_flops=self.model_flops,
            hardware_flops=self.hardware_flops,
        )
        rates = _rates(spent, self.possible_flops if self.peak else 0.0)
        return rates | {
            "tokens": self.needed.tokens,
            "target_tokens": self.needed.targets,
            "device": device_name(self.device),
            "seconds_training": self.seconds,
            "seconds_by_phase": dict(self.phases),
            "peak_device_bytes": max(device, default=None),
            "peak_host_bytes": max(host, default=None),
        }


def _rates(spent: Spent, possible: float) -> dict[str, Any]:
    """Return the rates of what was spent; possible: the FLOPs of the devices in that time, 0 where that is not known."""
    return {
        "tokens_per_second": spent.needed.tokens / spent.seconds if spent.seconds else 0.0,
        "mfu": spent.model_flops / possible if possible else None,
        "hfu": spent.hardware_flops / possible if possible else None,
        "padding": 1 - spent.needed.tokens / spent.done.tokens if spent.done.tokens else 0.0,
    }
