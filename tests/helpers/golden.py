"""Golden loss curves: a file per model, method and ZeRO stage. `python tests/helpers/golden.py` writes them anew.

Write them anew only for a change that is meant to change losses, and say so in CHANGELOG.md: they hold what the loop computes
against every later change of loop, layout, kernels and libraries.
"""

import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from workloads import RECIPE

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "golden"
STEPS = 10

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_key_value_heads": 2},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32},
    "gemma3": {
        "model_type": "gemma3_text",
        "num_key_value_heads": 1,
        "head_dim": 32,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
"""Two random layers of the other architectures that studies use."""
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

CURVES = [
    *({"model": "miniature", "method": m, "zero_stage": stage} for m in ("lora", "full") for stage in range(4)),
    {"model": "miniature", "method": "lora", "zero_stage": 2, "precision": "bf16"},
    *({"model": name, "method": "lora", "zero_stage": stage} for name in ARCHITECTURES for stage in (0, 3)),
]


def name_of(curve: dict[str, Any]) -> str:
    bf16 = "-bf16" if curve.get("precision") == "bf16" else ""
    return f"{curve['model']}-{curve['method']}-zero{curve['zero_stage']}{bf16}"


@cache
def miniature() -> tuple[str, Any]:
    from inoc_ray.data.tokenize import encode_rows, load_tokenizer
    from inoc_ray.miniature import weights_path
    from inoc_ray.settings import get

    base = str(weights_path())
    rows = get("miniature/spanish_caps").rows()[:128]
    return base, encode_rows(load_tokenizer(base), rows, 512, "miniature/spanish_caps")


@cache
def random_model(name: str) -> tuple[str, Any]:
    """Weights drawn by numpy, whose generator stays the same over versions, unlike torch's; and rows of random tokens."""
    import numpy
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from workloads import lognormal_rows

    folder = tempfile.mkdtemp(prefix=f"golden-{name}-")
    values = SHAPE | ARCHITECTURES[name]
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(values.pop("model_type"), **values), dtype=torch.float32
    )
    draw = numpy.random.Generator(numpy.random.PCG64(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.from_numpy(draw.normal(0.0, 0.2, tuple(parameter.shape))))
    model.save_pretrained(folder)
    return folder, lognormal_rows(64, SHAPE["vocab_size"], longest=160)


def run_curve(curve: dict[str, Any], **resources: Any) -> list[float]:
    """Train on one rank and return the loss of every step."""
    from inoc_ray.study.recipe import Recipe
    from inoc_ray.study.resources import TrialResources
    from inoc_ray.train.loop import train
    from inoc_ray.train.spec import LoopSpec, StepRecord

    base, rows = miniature() if curve["model"] == "miniature" else random_model(curve["model"])
    recipe = RECIPE | {"batch_size": 16, "steps": STEPS, "method": curve["method"]}
    # Every parameter of so small a model would stay whole otherwise.
    shared = {"micro_batch_size": 8, "zero_stage": curve["zero_stage"], "persistence_threshold": 0}
    spec = LoopSpec(
        model=base,
        seed=0,
        recipe=Recipe.model_validate(recipe | {"precision": curve.get("precision", "fp32")}),
        resources=TrialResources.model_validate(shared | resources),
    )
    records: list[StepRecord] = []
    train(spec, rows, records.append, out=None)
    return [record.loss for record in records]


def main() -> None:
    from inoc_ray.train.process import set_threads

    set_threads(1)
    names = sys.argv[1:] or [name_of(curve) for curve in CURVES]
    FOLDER.mkdir(exist_ok=True)
    for curve in CURVES:
        if name_of(curve) in names:
            value = {**curve, "losses": run_curve(curve)}
            (FOLDER / f"{name_of(curve)}.json").write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
