"""Fine-tunes that stop and go on from snapshots, each in processes of its own: BASE OUT RUNS, results in OUT/results.json.

A run is {"workers", "changes", "stop_after", "from"}: `stop_after` ends it after that step, with a snapshot after every step;
`from` names an earlier run whose snapshots it has; `storage` is where they are if not in OUT; `kills` is how often its ranks are
killed at a random moment, with a snapshot every `minutes`; `file_bytes` is the most that a file may have, as on a disk that is
full; `probes` are numbers of rows that are followed. As in rank_program, the libraries are imported once and every rank of every
run is a fork, so nothing of a trial before is left in the process of a later one.
"""

import gc
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import time
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rank_program import free_port, result_of

TIMEOUT_S = 300.0
ADAPTER = "adapter_model.safetensors"
EVERY_STEP = 1e-9
STEPS = 6
"""Looks at a fine-tune that is followed, log-spaced over as many steps."""


class Stop(BaseException):
    """Ends a run where a lost process would."""


def rank_main(base: str, out: Path, run: dict[str, Any], rank: int, port: int) -> None:
    """One rank of a run: rank 0 writes what came out; an error goes to a file per rank."""
    if run["workers"] > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(run["workers"])}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if "file_bytes" in run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (run["file_bytes"], resource.RLIM_INFINITY))
    try:
        value = train_run(base, out, run, out / "weights" if rank == 0 else None)
        if rank == 0:
            (out / "result.json").write_text(json.dumps(value))
    except BaseException:
        (out / f"error-{rank}.txt").write_text(traceback.format_exc())
        raise


def train_run(base: str, out: Path, run: dict[str, Any], weights: Path | None) -> dict[str, Any]:
    from tiny_base import encoded_rows, make_spec, weights_hash

    from inoc_ray.errors import InputError
    from inoc_ray.store.place import at
    from inoc_ray.store.store import Store
    from inoc_ray.train import snapshot
    from inoc_ray.train.loop import train
    from inoc_ray.train.process import set_threads
    from inoc_ray.train.snapshot import Left, Notice, Snapshots

    set_threads(1)
    records: list[Any] = []
    lines: list[str] = []
    resumed_with: list[int] = []
    stop, told = run.get("stop_after"), run.get("notice")

    def on_step(record: Any) -> None:
        if stop is not None and record.step > stop:
            raise Stop
        records.append(record)
        if weights is not None and "kills" in run:
            with (out / "trace.txt").open("a") as trace:
                trace.write(f"{record.step} {time.time()}\n")

    def on_resume(before: Any) -> None:
        resumed_with.append(len(before))
        records.extend(before)

    def notice() -> Notice:
        return Notice[told["what"]] if told and len(records) == told["after"] else Notice.NOTHING

    # So that a notice can come after any step.
    snapshot.LOOK_SECONDS = 0.0
    snapshots = Snapshots(
        Store(run["storage"]).snapshots("trial") if "storage" in run else at(out / "snapshots"),
        of="trial",
        minutes=run.get("minutes", None if stop is None else EVERY_STEP),
        notice=notice if told else None,
        say=lines.append,
    )
    value: dict[str, Any] = {}
    try:
        rows = encoded_rows(base)[: run.get("rows")]
        spec = make_spec(base, **run["changes"])
        probes = {"a": [rows[n] for n in run["probes"]]} if "probes" in run else None
        result = train(
            spec, rows, on_step, out=weights, snapshots=snapshots, on_resume=on_resume, probes=probes, points=STEPS
        )
        resumed = [[one.after_step, one.earlier_world_size, one.world_size] for one in result.resumed]
        value = {"tokens": result.tokens, "resumed": resumed, "seconds": result.seconds_training}
        value |= {"before": result.seconds_before, "weights": weights and weights_hash(weights)}
    except Stop:
        pass
    except InputError as error:
        value = {"refused": str(error)}
    except Left:
        value = {"left_after": len(records)}
    looks = [(r.step, r.logprobs_before, r.logprobs) for r in records if r.logprobs or r.logprobs_before]
    value |= {"looks": looks, "losses": [r.loss for r in records], "steps": [r.step for r in records], "lines": lines}
    return value | {"sum_seconds": sum(r.tokens / r.tokens_per_second for r in records), "resumed_with": resumed_with}


def start(base: str, out: Path, run: dict[str, Any]) -> list[BaseProcess]:
    context = multiprocessing.get_context("fork")
    port = free_port()
    ranks = [context.Process(target=rank_main, args=(base, out, run, n, port)) for n in range(run["workers"])]
    for rank in ranks:
        rank.start()
    return list(ranks)


def kill(ranks: list[BaseProcess], out: Path, interval: float) -> dict[str, float]:
    """SIGKILL all ranks a random part of the interval after their second snapshot; what that costs."""
    begun = time.time()
    before = latest(out)
    seen: list[str] = []
    while len(seen) < 2:
        assert all(rank.is_alive() for rank in ranks), "the run ended before it was killed"
        if (name := latest(out)) not in (before, "", *seen):
            seen.append(name)
        time.sleep(0.01)
    time.sleep(random.uniform(0, interval))
    for rank in ranks:
        rank.kill()
    at = time.time()
    for rank in ranks:
        rank.join()
    trace = [
        (int(step), float(when))
        for step, when in (line.split() for line in (out / "trace.txt").read_text().splitlines())
    ]
    reached, kept = max(step for step, when in trace if when > begun), int(latest(out)[:8])
    written = json.loads((out / "snapshots" / latest(out) / "COMMIT.json").read_text())["about"]["written_at"]
    first = next(when for _, when in trace if when > begun)
    return {"steps": reached - kept, "seconds": at - written, "started": first - begun}


def latest(out: Path) -> str:
    """The name of the latest committed snapshot, or nothing."""
    return max((path.parent.name for path in (out / "snapshots").glob("0*/COMMIT.json")), default="")


def go(base: str, folder: Path, name: str, run: dict[str, Any]) -> dict[str, Any]:
    """Run all ranks of a run; what rank 0 wrote, or {"error": …} with the traceback of the first rank that failed."""
    out = folder / name
    out.mkdir(parents=True)
    if "from" in run:
        shutil.copytree(folder / run["from"] / "snapshots", out / "snapshots")
    if "damage" in run:
        damage(out / "snapshots", **run["damage"])
    kills = [kill(start(base, out, run), out, 60 * run["minutes"]) for _ in range(run.get("kills", 0))]
    ranks = start(base, out, run)
    value = result_of(ranks, out, TIMEOUT_S)
    if "error" in value:
        return value
    # What could not be written leaves its folder.
    kept = sorted(path.parent for path in (out / "snapshots").glob(f"checkpoint-*/{ADAPTER}"))
    value["kept"] = {folder.name: hashlib.sha256((folder / ADAPTER).read_bytes()).hexdigest() for folder in kept}
    value["kills"] = kills
    value["left"] = sorted(path.name for path in (out / "snapshots").iterdir()) if (out / "snapshots").exists() else []
    return value


def damage(snapshots: Path, *, newest: int, pattern: str, how: str) -> None:
    """Damage the files of the newest snapshots: flip a byte in the middle, cut the end off, or delete them."""
    for folder in sorted(snapshots.glob("0*"), reverse=True)[:newest]:
        files = list(folder.glob(pattern))  # "../" leaves the snapshot for a checkpoint beside it
        assert files, f"{folder} has no {pattern}"
        for file in files:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            if how == "delete":
                file.unlink()
            else:
                file.write_bytes(data if how == "flip" else data[:-8])


def main(base: str, folder: Path, runs: dict[str, dict[str, Any]]) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import transformers.integrations  # noqa: F401
    from transformers.models.qwen2 import modeling_qwen2  # noqa: F401

    # What is imported stays: the collections of the forks need not look at it.
    gc.freeze()
    results = {name: go(base, folder, name, run) for name, run in runs.items()}
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
