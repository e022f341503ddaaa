"""What the ranks of a trial do together."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from inoc_ray.errors import InputError, TrialError
from inoc_ray.train.process import on_all_ranks, on_every_rank


def rank_main(folder: Path, rank: int) -> None:
    import torch
    import torch.distributed as dist

    def make(number: int) -> int:
        if (number, rank) == (1, 1):
            raise InputError("this node has no model")
        if number == 2:
            raise TrialError(f"rank {rank}")
        return rank

    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    lines = []
    for number in range(4):
        try:
            lines.append(str(on_all_ranks(lambda number=number: make(number))))
        except (InputError, TrialError) as error:
            lines.append(f"{type(error).__name__}: {error}")
    lines += [str(on_every_rank(flag, torch.device("cpu"))) for flag in (True, rank == 0, False)]
    (folder / f"{rank}.txt").write_text("\n".join(lines))
    dist.destroy_process_group()


def test_what_one_rank_cannot_do_no_rank_does_and_they_go_on_together(tmp_path):
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank_main, args=(tmp_path, rank)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    for rank in range(2):
        expected = [str(rank), "InputError: this node has no model", f"TrialError: rank {rank}", str(rank)]
        expected += ["True", "False", "False"]
        assert (tmp_path / f"{rank}.txt").read_text().splitlines() == expected
