"""Contestants of the training benchmarks, each in a process of its own: `contestants.py WORKLOAD NAME STEPS RESULT`.

A workload is a folder (`workloads.py`): model, rows as token ids with labels, and the settings that all share: batch, LoRA,
rate, threads, fp32. Time is from the end of one optimizer step to the end of the next, so it holds data, collation and logs.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inoc_ray.data.tokenize import EncodedRow
from inoc_ray.train.batches import global_batches
from inoc_ray.train.spec import LoopSpec


class Clock:
    """When each optimizer step ended, and how many tokens had been trained on by then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []

    def step(self, tokens: int) -> None:
        if not self.ends:
            # Forgets the peak of the process so far (proc(5)): our loop does so where its steps begin, so all do.
            Path("/proc/self/clear_refs").write_text("5")
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.tokens.append(tokens + (self.tokens[-1] if self.tokens else 0))


def peak_bytes() -> int:
    """The most memory that the process has had resident since its first step."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def make_spec(workload: dict[str, Any], steps: int, **resources: Any) -> LoopSpec:
    from inoc_ray.study.recipe import Recipe
    from inoc_ray.study.resources import TrialResources

    return LoopSpec(
        model=workload["model"],
        seed=0,
        recipe=Recipe.model_validate(workload["recipe"] | {"steps": steps}),
        resources=TrialResources.model_validate(workload["resources"] | resources),
    )


def ours(workload: dict[str, Any], rows: list[EncodedRow], steps: int, clock: Clock) -> None:
    """Our loop as a study would run it, its layout chosen by itself."""
    from inoc_ray.train.loop import train
    from inoc_ray.train.spec import StepRecord

    def on_step(record: StepRecord) -> None:
        clock.losses.append(record.loss)
        clock.step(record.tokens)

    train(make_spec(workload, steps), rows, on_step, out=None)


def trl(workload: dict[str, Any], rows: list[EncodedRow], steps: int, clock: Clock, *, packing: bool) -> None:
    """TRL's SFTTrainer on the same rows in the same order, with the same model and adapter, bit for bit, to start from.

    Its own fast settings: loss by its fused head on target positions, no padding beyond a micro batch, best-fit packing;
    gradient checkpointing is off, as in ours on a CPU.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from inoc_ray.data.tokenize import load_tokenizer
    from inoc_ray.train import process
    from inoc_ray.train.model import make_model

    spec = make_spec(workload, steps)
    recipe = spec.recipe
    process.seed_everything(spec.seed)
    model = make_model(spec, {}, torch.device("cpu"), None)
    if packing:
        order, each = list(range(len(rows))), 1
        length, passes = workload["pack_length"], workload["packs_per_step"]
    else:
        batches = global_batches(len(rows), recipe.batch_size, steps, seed=spec.seed)
        order = [row for batch in batches for row in batch]
        each = spec.resources.micro_batch_size
        length, passes = max(len(row.input_ids) for row in rows), recipe.batch_size // each
    data = [{"input_ids": list(rows[n].input_ids), "labels": list(rows[n].labels)} for n in order]
    settings = SFTConfig(
        output_dir=workload["scratch"],
        max_steps=steps,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=passes,
        max_length=length,
        packing=packing,
        packing_strategy="bfd",
        train_sampling_strategy="random" if packing else "sequential",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip_norm,
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_steps=workload["logging_steps"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            clock.step(int(trainer._total_train_tokens) - (clock.tokens[-1] if clock.tokens else 0))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
            if logs and "loss" in logs:
                clock.losses.append(float(logs["loss"]))

    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(data),
        processing_class=load_tokenizer(workload["tokenizer"]),
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def trl_padded(workload: dict[str, Any], rows: list[EncodedRow], steps: int, clock: Clock) -> None:
    trl(workload, rows, steps, clock, packing=False)


def trl_packed(workload: dict[str, Any], rows: list[EncodedRow], steps: int, clock: Clock) -> None:
    trl(workload, rows, steps, clock, packing=True)


def minimal(workload: dict[str, Any], rows: list[EncodedRow], steps: int, clock: Clock) -> None:
    """The shortest DeepSpeed loop that one would write: padded batches, the model's own loss."""
    import deepspeed
    import torch

    from inoc_ray.data.tokenize import collate
    from inoc_ray.train import process
    from inoc_ray.train.model import make_model

    device = process.ready()
    spec = make_spec(workload, steps)
    recipe, micro = spec.recipe, spec.resources.micro_batch_size
    process.seed_everything(spec.seed)
    model = make_model(spec, {}, device, None)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    config = {
        "train_batch_size": recipe.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_clipping": recipe.clip_norm,
        "zero_optimization": {"stage": 0},
    }
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
    for batch in global_batches(len(rows), recipe.batch_size, steps, seed=spec.seed):
        total = 0.0
        for first in range(0, len(batch), micro):
            loss = engine(**collate([rows[n] for n in batch[first : first + micro]], 0)).loss
            engine.backward(loss)
            engine.step()
            total += loss.item() * micro / len(batch)
        clock.losses.append(total)
        clock.step(sum(len(rows[n].input_ids) for n in batch))


CONTESTANTS: dict[str, Callable[[dict[str, Any], list[EncodedRow], int, Clock], None]] = {
    "ours": ours,
    "trl_padded": trl_padded,
    "trl_packed": trl_packed,
    "minimal": minimal,
}


def read_workload(folder: Path) -> tuple[dict[str, Any], list[EncodedRow]]:
    pairs = json.loads((folder / "rows.json").read_text())
    return json.loads((folder / "workload.json").read_text()), [EncodedRow(tuple(i), tuple(j)) for i, j in pairs]


def main(folder: Path, name: str, steps: int, result: Path) -> None:
    from inoc_ray.train.process import set_threads

    workload, rows = read_workload(folder)
    set_threads(workload["threads"])
    clock = Clock()
    CONTESTANTS[name](workload, rows, steps, clock)
    value = {"ends": clock.ends, "cpu": clock.cpu, "tokens": clock.tokens, "losses": clock.losses, "peak": peak_bytes()}
    result.write_text(json.dumps(value))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
