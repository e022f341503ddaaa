"""Fine-tunes that are each the first of their process, on one rank and on two: BASE OUT CASES, results in OUT/results.json.

What DeepSpeed sets up for a first trial stays for the later ones, so a fault of a first trial shows only in a process of
its own. This program imports the libraries once and forks a process for every rank of every case: the children share
the imports (several seconds each) and nothing that a trial does.
"""

import gc
import json
import multiprocessing
import os
import shutil
import socket
import sys
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

RANKS_AT_ONCE = 2
TIMEOUT_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def facts(engine: Any) -> dict[str, Any]:
    """What DeepSpeed does in fact, by its own account."""
    copies = [getattr(parameter, "ds_secondary_tensor", None) for parameter in engine.module.parameters()]
    return {
        "offload_optimizer": bool(engine.zero_use_cpu_optimizer()),
        "offload_parameters": engine.zero_offload_param() is not None,
        "accumulates_in": str(engine.get_data_types()[1]),
        "hpz_partition_size": engine.zero_hpz_partition_size(),
        "second_copies": sum(copy is not None for copy in copies),
    }


def tensor_bytes() -> int:
    """Bytes of every tensor that Python can reach, after a collection."""
    import torch

    gc.collect()
    storages = [one.untyped_storage() for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def forget(folder: str) -> None:
    """Let the system drop what it holds of the weights in memory, so that they are read from the disk again."""
    for path in Path(folder).glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int:
    """What this process has read from disks; what lay in memory already does not count."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def rank_main(base: str, out: Path, case: dict[str, Any], rank: int, port: int) -> None:
    """One rank of a case: trains, and rank 0 writes what came out beside the weights; an error goes to a file per rank."""
    if case["workers"] > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case["workers"])}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        import torch
        from tiny_base import encoded_rows, run, weights_hash

        from inoc_ray.train import model
        from inoc_ray.train.model import BaseModelCache
        from inoc_ray.train.process import set_threads

        set_threads(1)
        read = model._read

        def counted(*args: Any) -> Any:
            before = bytes_from_disk()
            found = read(*args)
            out.mkdir(parents=True, exist_ok=True)
            (out / f"read-{rank}").write_text(str(bytes_from_disk() - before))
            return found

        model._read = counted
        row = encoded_rows(base)[3]
        logits: list[Any] = []
        engines: list[dict[str, Any]] = []

        def look(engine: Any) -> None:
            engines.append(facts(engine))
            engine.eval()
            with torch.no_grad():
                logits.append(engine(input_ids=torch.tensor([row.input_ids])).logits[0].float())

        cache, held = BaseModelCache(), []
        for number, changes in enumerate(case.get("before", [])):
            run(base, None, cache=cache, **changes)
            held.append(tensor_bytes())
            if number == 0 and rank == 0 and case.get("reads_once"):
                for weights in Path(base).glob("*.safetensors"):
                    weights.unlink()
        rows = encoded_rows(base)
        # More than a pass and a rank take evenly.
        probes = {"first": rows[3:8], "second": rows[20:26]}
        records, result = run(
            base, out if rank == 0 else None, on_trained=look, cache=cache, probes=probes, points=3, **case["changes"]
        )
        if held:
            held.append(tensor_bytes())
        if rank == 0:
            torch.save({"ids": list(row.input_ids), "logits": logits[0]}, out / "logits.pt")
            value = {
                "losses": [r.loss for r in records],
                "logprobs": [
                    (r.step, r.logprobs_before, r.logprobs) for r in records if r.logprobs or r.logprobs_before
                ],
                "norms": [r.grad_norm for r in records],
                "world_size": result.world_size,
                "accumulation": result.accumulation,
                "engine": engines[0],
                "held": held,
                "weights": weights_hash(out),
            }
            (out / "result.json").write_text(json.dumps(value))
        torch.distributed.destroy_process_group()
    except BaseException:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"error-{rank}.txt").write_text(traceback.format_exc())
        raise


def start(base: str, out: Path, case: dict[str, Any]) -> list[BaseProcess]:
    port = free_port()
    if "base" in case:
        base = case["base"]
        forget(base)
    if case.get("reads_once"):
        # Its first trial takes the weights away, so it has a base of its own.
        base = str(shutil.copytree(base, out.parent / f"{out.name}-base"))
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=rank_main, args=(base, out, case, n, port)) for n in range(case["workers"])]
    for rank in ranks:
        rank.start()
    return list(ranks)


def result_of(ranks: list[BaseProcess], out: Path, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What rank 0 wrote, or {"error": …} with the traceback of the first rank that failed."""
    for rank in ranks:
        rank.join(timeout_s)
    for rank in ranks:
        if rank.is_alive():
            rank.kill()
            rank.join()
    for number, rank in enumerate(ranks):
        if rank.exitcode:
            error = out / f"error-{number}.txt"
            return {"error": error.read_text() if error.exists() else f"rank {number} ended with {rank.exitcode}"}
    return dict(json.loads((out / "result.json").read_text()))


def main(base: str, folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    # Imported, not used: DeepSpeed and torch.distributed are set up by each child for itself.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import transformers.integrations  # noqa: F401
    from transformers.models.qwen2 import modeling_qwen2  # noqa: F401

    # What is imported stays: the collections of the forks need not look at it.
    gc.freeze()
    results: dict[str, Any] = {}
    for workers in sorted({case["workers"] for case in cases.values()}):
        names = [name for name, case in cases.items() if case["workers"] == workers]
        at_once = max(1, RANKS_AT_ONCE // workers)
        for first in range(0, len(names), at_once):
            running = {name: start(base, folder / name, cases[name]) for name in names[first : first + at_once]}
            for name, ranks in running.items():
                found = result_of(ranks, folder / name)
                read = sum(int(path.read_text()) for path in (folder / name).glob("read-*"))
                results[name] = {**found, "read_from_disk": read}
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
