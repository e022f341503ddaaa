"""The size of a model from its config.json alone: parameters, and the bytes that a forward and backward pass keeps.

The model is built on the meta device, so a 32B model takes no memory and a tenth of a second. What a pass keeps is counted
by running one and two layers of it at the real widths and number of tokens (`live_bytes`); the other layers are alike.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.study.recipe import Recipe
from inoc_ray.train.model import outside_of_the_text

SMALL_VOCABULARY = 64
"""Tokens of vocabulary while layers are counted, so that embedding and output layer weigh nothing."""
PERSISTENT = 100_000
"""Elements up to which ZeRO-3 keeps a parameter whole: DeepSpeed's `stage3_param_persistence_threshold`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """How large a model is, and what a recipe trains of it."""

    parameters: int
    """Every number of the base; tied ones once."""
    trained: int
    """Those that the recipe trains: all, or those of the adapter."""
    multiplied: int
    """Those that each token is multiplied with: without the input embeddings, unless the output layer shares them, and without
    what reads pictures."""
    largest: int
    """Those of the largest module: what ZeRO-3 gathers at once, at least."""
    largest_trained: int
    """Those of the largest trained parameter."""
    persistent: int
    """Those that ZeRO-3 keeps whole on every rank."""
    tied: bool
    """Whether the output layer shares the embedding's weight, whose gradient then comes in two parts."""
    layers: int
    hidden: int
    heads_width: int
    """Heads × head dimension: the width of attention's FLOPs."""
    vocabulary: int
    dtype: str
    """Of weights and activations: "fp32" or "bf16"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSize:
    """Bytes of one forward and backward pass on one rank."""

    kept: int
    """What all layers keep for the backward pass."""
    layer: int
    """The most that the backward pass of one layer takes besides: what is computed again, and its gradients."""
    forward: int
    """The most that the forward pass of one layer takes besides what it keeps."""


def configuration(folder: Path) -> Any:
    """Return the transformers configuration of a model folder; raise InputError if transformers does not know the model."""
    from transformers import AutoConfig

    with _making(folder):
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


@contextlib.contextmanager
def _making(folder: Path) -> Iterator[None]:
    """Raise InputError, naming config.json, for whatever transformers and torch raise while they make the model."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}/config.json: no model can be made of it ({reason}).") from error


def on_meta(config: Any, recipe: Recipe | None, dtype: str) -> Any:
    """Return the model of a configuration on the meta device, with the adapter of a LoRA recipe around it."""
    import torch
    from transformers import AutoModelForCausalLM

    torch_dtype = torch.bfloat16 if dtype == "bf16" else torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype)
        if recipe is not None and recipe.method == "lora":
            import peft

            targets: Any = recipe.lora.targets if isinstance(recipe.lora.targets, str) else list(recipe.lora.targets)
            model.requires_grad_(False)
            lora = peft.LoraConfig(
                r=recipe.lora.rank,
                target_modules=targets,
                exclude_modules=outside_of_the_text(model),
                task_type="CAUSAL_LM",
            )
            # PEFT makes fp32 adapters on the meta device, whatever the base is.
            with warnings.catch_warnings():
                # What PEFT knows of a kind of model and this one lacks is no concern of who plans.
                warnings.simplefilter("ignore", RuntimeWarning)
                model = peft.get_peft_model(model, lora, autocast_adapter_dtype=False).to(torch_dtype)
    model.config.use_cache = False
    return model.train()


@functools.lru_cache(maxsize=64)
def model_size(folder: Path, recipe: Recipe, dtype: str | None = None) -> ModelSize:
    """Return the size of the model in `folder` under a recipe, exactly; dtype: if not the recipe's precision.

    Raises InputError if transformers cannot make the model, or it lacks the recipe's LoRA targets.
    """
    config = configuration(folder)
    text = config.get_text_config()
    dtype = dtype or recipe.precision
    with _making(folder):
        base = on_meta(config, None, dtype)
        heads = int(text.num_attention_heads)
        head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    parameters = list(base.parameters())
    total = sum(p.numel() for p in parameters)
    of_text = {id(p): p for part in (base.get_decoder(), base.get_output_embeddings()) for p in part.parameters()}
    reads = sum(p.numel() for p in of_text.values())
    tied = bool(text.tie_word_embeddings)
    embedding = base.get_input_embeddings().weight.numel()
    own = [sum(p.numel() for p in module.parameters(recurse=False)) for module in base.modules()]
    try:
        tuned = on_meta(config, recipe, dtype) if recipe.method == "lora" else base
    except ValueError as error:
        raise InputError(f"{folder}: recipe.lora.targets: {str(error).splitlines()[0]}") from error
    trained = [p.numel() for p in tuned.parameters() if p.requires_grad]
    return ModelSize(
        parameters=total,
        trained=sum(trained),
        multiplied=reads if tied else reads - embedding,
        largest=max(own),
        largest_trained=max(trained),
        persistent=sum(p.numel() for p in parameters if p.numel() <= PERSISTENT),
        tied=tied,
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        heads_width=heads * head_dim,
        vocabulary=int(text.vocab_size),
        dtype=dtype,
    )


@functools.lru_cache(maxsize=256)
def pass_size(folder: Path, recipe: Recipe, *, tokens: int, checkpointed: bool) -> PassSize:
    """Return what a forward and backward pass over `tokens` tokens keeps, without the output layer.

    Attention is counted as its fused kernels keep it: queries, keys, values, the result, nothing of the size of tokens².
    Raises InputError for a model whose forward pass cannot run without data (a mixture of experts).
    """
    layers = configuration(folder).get_text_config().num_hidden_layers
    one, two = (_counted(folder, recipe, count, tokens=tokens, checkpointed=checkpointed) for count in (1, 2))
    per_layer = two[0] - one[0]
    return PassSize(
        kept=one[0] + (layers - 1) * per_layer,
        layer=max(0, one[2] - one[0]),
        forward=max(0, one[1] - one[0]),
    )


def _counted(folder: Path, recipe: Recipe, layers: int, *, tokens: int, checkpointed: bool) -> tuple[int, int, int]:
    """Return (bytes kept after the forward pass, its peak, the backward pass's peak) of the model's first layers.

    Gradients of weights leave as soon as they are complete, as DeepSpeed takes them; they are accounted for elsewhere.
    """
    import torch

    from inoc_ray.sizing.live_bytes import LiveBytes

    config = copy.deepcopy(configuration(folder).get_text_config())
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = layers, SMALL_VOCABULARY, None
    if getattr(config, "layer_types", None):
        config.layer_types = (list(config.layer_types) * layers)[:layers]
    config._attn_implementation = _counting_attention()
    model = on_meta(config, recipe, recipe.precision)
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_drop)
    with torch.device("meta"):
        ids = torch.zeros(1, tokens, dtype=torch.long)
        positions = torch.zeros(1, tokens, dtype=torch.long)
    try:
        with LiveBytes([*model.parameters(), *model.buffers(), ids, positions]) as live:
            hidden = model(input_ids=ids, position_ids=positions, logits_to_keep=1).logits
            kept, forward = live.now, live.peak
            live.restart()
            hidden.sum().backward()
            return kept, forward, live.peak
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{folder}: the memory of this model cannot be computed ahead, because its forward pass depends on its data, as that "
            f"of a mixture of experts may ({reason}); plan it without --cluster, and measure it with a short run."
        ) from error


def _drop(parameter: Any) -> None:
    parameter.grad = None


@functools.cache
def _counting_attention() -> str:
    """Register attention that keeps what the fused kernels keep, and return its name in transformers."""
    import torch
    from transformers import AttentionInterface

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            rows, heads, tokens, _ = query.shape
            out = query.new_empty(rows, tokens, heads, value.shape[-1])
            ctx.save_for_backward(query, key, value, out)
            return out

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            query, key, value, _ = ctx.saved_tensors
            return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
        return Counted.apply(query, key, value), None

    AttentionInterface.register("inoc_ray_counted", attention)
    return "inoc_ray_counted"
