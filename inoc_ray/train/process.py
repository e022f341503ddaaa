"""State of a whole process: accelerator, process group, threads, random numbers."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from inoc_ray.errors import InputError, TrialError
from inoc_ray.train import libraries

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")


def ready() -> torch.device:
    """Return this rank's device, with DeepSpeed and torch.distributed set up; may be called any number of times.

    Under Ray Train or torchrun the process group of the environment is used; alone, the process becomes a group of
    one. Must come before the first import of deepspeed elsewhere in the process, which picks its accelerator then.
    """
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if not cuda:
        # Without this DeepSpeed asks every vendor's library in turn and warns that it found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}") if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    libraries.load(cuda=cuda)
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        if "MASTER_ADDR" in os.environ and "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:
            # A store inside the process: no port, no file, nothing to clash with.
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    _share_with_deepspeed()
    return device


def from_rank_0(value: Any) -> Any:
    """Return rank 0's value on every rank; a barrier."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """Return the values of all ranks, on all of them."""
    import torch.distributed as dist

    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value)
    return out


def on_all_ranks(make: Callable[[], _T]) -> _T:
    """Return what `make` returns; raise the InputError or TrialError that it raised on any rank, on all of them.

    To be called on all ranks. What one rank alone cannot do (its node lacks the model, its mount shows an older file) would
    otherwise end the trial there, while the others wait for that rank in their next collective.
    """
    value: _T | None = None
    fault: InputError | TrialError | None = None
    try:
        value = make()
    except (InputError, TrialError) as error:
        fault = error
    faults = gathered(None if fault is None else (isinstance(fault, InputError), str(fault)))
    if fault is not None:
        raise fault
    if theirs := next((one for one in faults if one is not None), None):
        is_input, text = theirs
        raise InputError(text) if is_input else TrialError(text)
    return cast("_T", value)


def on_every_rank(flag: bool, device: torch.device) -> bool:
    """Return whether `flag` is True on all ranks; to be called on all of them.

    What is measured on each rank's own device may come out differently where devices differ, and decides what all do next.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    box = torch.tensor([int(flag)], device=device)
    dist.all_reduce(box, dist.ReduceOp.MIN)
    return bool(box.item())


def _share_with_deepspeed() -> None:
    """Let DeepSpeed know the process group now, not only in `deepspeed.initialize`.

    Every `DeepSpeedConfig` asks `deepspeed.comm` for the number of ranks, and takes one rank where that is not initialised
    yet (runtime/config.py of 0.19.8 swallows the error). Under ZeRO-3 the first such configuration is built while the
    weights are read, so with two ranks the first trial of a process failed with "16 != 4 * 2 * 1".
    """
    import deepspeed
    import torch.distributed as dist

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False, verbose=False)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (every device)."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_threads(cpus: float) -> None:
    """Let torch use `cpus` cores, at least one. Sums in another order give other last bits, so a run fixes them."""
    import torch

    threads = max(1, int(cpus))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Use only algorithms that give the same bits each time while the block runs, on a CPU; on a GPU torch chooses.

    On a GPU that would cost speed and exclude some attention kernels, and NCCL sums in no fixed order anyway.
    """
    import torch

    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory guards against reading it unwritten, which costs time and which no kernel here does.
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled
