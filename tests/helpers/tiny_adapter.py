"""Committed LoRA adapters: one with random weights, and one that was trained, with weights kept on the way."""

from pathlib import Path

from inoc_ray.store.commit import weights_in, write_commit, write_trial
from inoc_ray.store.snapshots import move_checkpoints
from inoc_ray.store.store import Store


def save_adapter(base: Path, folder: Path, seed: int, rank: int = 8, std: float = 0.1) -> None:
    """An adapter that changes the base visibly: B is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder / "adapter")
    (folder / "trial.json").write_text("{}")
    write_commit(folder)


def train_adapter(base: Path, store: Store, trial_id: str, *, steps: int, checkpoints: tuple[int, ...]) -> None:
    """Train an adapter in this process, and commit it and what was kept of it as a worker does."""
    from tiny_base import chat_rows, make_spec

    from inoc_ray.data.tokenize import encode_rows, load_tokenizer
    from inoc_ray.train.loop import train
    from inoc_ray.train.snapshot import Snapshots

    rows = encode_rows(load_tokenizer(str(base)), chat_rows(16), 200, "rows")
    spec = make_spec(str(base), steps=steps, checkpoints=checkpoints, learning_rate=2e-2)
    folder = store.snapshots(trial_id)
    with store.stage_trial(trial_id) as staging:
        snapshots = Snapshots(folder, of=trial_id, minutes=None)
        result = train(spec, rows, lambda record: None, out=weights_in(staging), snapshots=snapshots)
        move_checkpoints(folder, result.checkpoints, staging)
        write_trial(staging, {}, [])
