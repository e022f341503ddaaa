"""One fine-tune, started by Ray Train or by bare torch.distributed: `launchers.py WORKLOAD NAME STEPS RESULT`.

The workload's settings say on how many ranks. All run the same function with the same rows.
Under Ray Train the ranks report their progress as the product's workers do.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def train_rank(config: dict[str, Any]) -> None:
    """Run as one rank; rank 0 writes when each step ended."""
    import torch.distributed as dist
    from contestants import Clock, make_spec, peak_bytes, read_workload

    from inoc_ray.train import process
    from inoc_ray.train.loop import train
    from inoc_ray.train.spec import StepRecord
    from inoc_ray.train.worker import _Progress

    process.set_threads(1)
    process.ready()
    assert dist.get_world_size() == config["ranks"]
    workload, rows = read_workload(Path(config["workload"]))
    spec = make_spec(workload, config["steps"], workers=config["ranks"], zero_stage=2)
    clock, progress = Clock(), _Progress()

    def on_step(record: StepRecord) -> None:
        if config["reports"]:
            progress.step(record.tokens / record.tokens_per_second, {"step": record.step, "loss": record.loss})
        clock.losses.append(record.loss)
        clock.step(record.tokens)

    train(spec, rows, on_step, out=None)
    if dist.get_rank() == 0:
        value = {"ends": clock.ends, "cpu": clock.cpu, "tokens": clock.tokens, "losses": clock.losses}
        Path(config["result"]).write_text(json.dumps(value | {"peak": peak_bytes()}))


def close_group() -> None:
    """Close the process group."""
    import torch.distributed as dist

    dist.destroy_process_group()


def bare(config: dict[str, Any]) -> None:
    """Processes that find each other by the variables that torchrun sets."""
    from rank_program import free_port

    ranks = config["ranks"]
    shared = os.environ | {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    # A process that ends with the group still open can be aborted by gloo's threads; Ray Train closes it as well.
    code = "import json, sys, launchers; launchers.train_rank(json.loads(sys.argv[1])); launchers.close_group()"
    command = [sys.executable, "-c", code, json.dumps(config)]
    started = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(ranks)
    ]
    failed = [process.args for process in started if process.wait()]
    if failed:
        raise RuntimeError("a rank failed; its last words are above")


def ray_train(config: dict[str, Any]) -> None:
    """A Ray Train run on a private cluster of this machine, with the helper actors that the product's groups have there."""
    from inoc_ray.cluster.connect import connected

    with connected():
        # Ray reads how to authenticate when it is imported.
        from ray.train import RunConfig, ScalingConfig

        from inoc_ray.train.lean_trainer import LeanTrainer

        LeanTrainer(
            train_rank,
            private=True,
            train_loop_config=config | {"reports": True},
            scaling_config=ScalingConfig(num_workers=config["ranks"], resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=f"launch-{time.time_ns()}", storage_path=config["scratch"]),
        ).fit()


def bare_beside_ray(config: dict[str, Any]) -> None:
    """The same as `bare` on a machine on which Ray runs: what Ray's own processes take from the ranks, without Ray Train."""
    from inoc_ray.cluster.connect import connected

    with connected():
        bare(config)


LAUNCHERS = {"bare": bare, "bare_beside_ray": bare_beside_ray, "ray_train": ray_train}


def main(workload: str, name: str, steps: int, result: str) -> None:
    settings = json.loads(Path(workload, "workload.json").read_text())
    shared = {"workload": workload, "steps": steps, "result": result, "reports": False}
    shared |= {"scratch": settings["scratch"], "ranks": settings["ranks"]}
    LAUNCHERS[name](shared)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
