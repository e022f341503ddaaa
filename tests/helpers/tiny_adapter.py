"""A LoRA adapter with random weights, committed as a trial commits its own."""

from pathlib import Path

from inoc_ray.store.commit import write_commit


def save_adapter(base: Path, folder: Path, seed: int, rank: int = 8) -> None:
    """An adapter that changes the base visibly: B is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter")
    (folder / "trial.json").write_text("{}")
    write_commit(folder)
