"""The model that is trained: a base from its folder, kept in memory between trials, and an adapter around it."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inoc_ray.config.identity import canonical_json
from inoc_ray.errors import InputError, TrialError
from inoc_ray.train import zero
from inoc_ray.train.export import read_adapter
from inoc_ray.train.spec import LoopSpec


class BaseModelCache:
    """One frozen base in memory, for LoRA trials that follow each other in a process.

    Each `get` gives a new tree of modules (no hook and no adapter of an earlier trial can be left on it) over the same
    parameter tensors; under ZeRO-3 these are a rank's shares. A full fine-tune changes its parameters, so it reads the folder
    itself (the operating system holds the file in its cache).
    """

    def __init__(self) -> None:
        self._key: tuple[str, ...] | None = None
        self._base: Any = None

    def get(self, spec: LoopSpec, config: dict[str, Any], device: Any) -> Any:
        """Return the base of `spec`, on `device`, sharing its parameters with every other result of this cache.

        `config` is DeepSpeed's. To be called on all ranks.
        """
        # How the shares are made and where they lie is DeepSpeed's section on ZeRO.
        shares = canonical_json(config["zero_optimization"]) if spec.resources.zero_stage == 3 else ""
        key = (spec.model, spec.recipe.precision, shares)
        if self._key != key or not all(map(zero.at_rest, self._base.parameters())):
            # Dropped first: two bases at once may not fit.
            self.clear()
            self._base = _read(spec, config, device).requires_grad_(False)
            self._key = key
        return copy.deepcopy(self._base, {id(p): p for p in self._base.parameters()})

    def clear(self) -> None:
        """Let go of the base."""
        self._key = self._base = None


def make_model(spec: LoopSpec, config: dict[str, Any], device: Any, cache: BaseModelCache | None) -> Any:
    """Make the model for `deepspeed.initialize`, in train mode; only what is trained requires a gradient.

    Adapter weights come out of torch's random numbers, so seed before; or out of the folder `spec.start`.
    `config` is DeepSpeed's: under ZeRO-3 the base is cut into shares while it is read, and never whole in memory.
    Raises InputError when the folder holds no model, its weights do not fill the model that its config.json describes, or it
    has no module of the adapter's targets; TrialError when the adapter to start from does not fit.
    """
    if cache is not None and spec.recipe.method == "lora":
        model = cache.get(spec, config, device)
    else:
        if cache is not None:
            cache.clear()
        model = _read(spec, config, device)
    if spec.resources.checkpoints_gradients:
        # Non-reentrant under every stage: the reentrant kind needs inputs that require a gradient, which a frozen base's
        # embeddings do not have. ZeRO-3 gathers the parameters again for the recomputation (DeepSpeed 0.19.8 and later).
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if spec.recipe.method == "lora":
        model = _with_adapter(spec, model)
        if spec.start is not None:
            _load_adapter(model, spec, Path(spec.start))
    model.config.use_cache = False
    model.train()
    return model


def _read(spec: LoopSpec, config: dict[str, Any], device: Any) -> Any:
    """Read the base: on `device`, or under ZeRO-3 as this rank's shares."""
    if spec.resources.zero_stage < 3:
        return _from_folder(spec).to(device)
    with _zero3_loading(config):
        return _from_folder(spec)


def _from_folder(spec: LoopSpec) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if not Path(spec.model, "config.json").is_file():
        raise InputError(f"model {spec.model}: there is no model in this folder (no config.json); give its path.")
    # A progress bar per trial would drown a sweep's log.
    logging.disable_progress_bar()
    dtype = torch.bfloat16 if spec.recipe.precision == "bf16" else torch.float32
    # Mismatched tensors are reported like missing ones; without this they are an error that names no file.
    model, info = AutoModelForCausalLM.from_pretrained(
        spec.model,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    _check_filled(spec.model, model, info)
    return model


def _check_filled(folder: str, model: Any, info: dict[str, Any]) -> None:
    """Raise InputError unless every tensor of the model came out of the folder, and every one of the folder went into it.

    transformers draws what is missing at random and only warns. Under ZeRO-3 it does not say what is left over.
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    wrong = {
        "missing": sorted(set(info["missing_keys"]) - tied),
        "of another size than config.json says": sorted(str(name) for name, *_ in info["mismatched_keys"]),
        "not part of the model that config.json describes": sorted(info["unexpected_keys"]),
    }
    for what, names in wrong.items():
        if names:
            raise InputError(
                f"model {folder}: {len(names)} of its tensors are {what} ({names[0]}{', …' if len(names) > 1 else ''}); weights "
                "and config.json do not belong together: fetch the model again."
            )


@contextlib.contextmanager
def _zero3_loading(config: dict[str, Any]) -> Iterator[None]:
    """While the block runs, transformers reads weights straight into ZeRO-3 shares."""
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    zero.forget_hpz_group()
    # transformers holds it by a weak reference, so it must have a name.
    alive = HfDeepSpeedConfig(config)
    try:
        yield
    finally:
        del alive
        unset_hf_deepspeed_config()


def _with_adapter(spec: LoopSpec, base: Any) -> Any:
    import peft

    targets = spec.recipe.lora.targets
    if not isinstance(targets, str):
        names = {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
        missing = [target for target in targets if target.rsplit(".", 1)[-1] not in names]
        if missing:
            raise InputError(f"recipe.lora.targets: {spec.model} has no module named {missing[0]!r}.")
        targets = list(targets)  # type: ignore[assignment]
    lora = peft.LoraConfig(
        r=spec.recipe.lora.rank,
        lora_alpha=spec.recipe.lora.alpha,
        lora_dropout=spec.recipe.lora.dropout,
        target_modules=targets,
        exclude_modules=outside_of_the_text(base),
        use_rslora=spec.recipe.lora.rslora,
        task_type="CAUSAL_LM",
    )
    # The adapter in the base's type: under bf16 DeepSpeed keeps fp32 master weights, so a second fp32 copy is none.
    return peft.get_peft_model(base, lora, autocast_adapter_dtype=False)


def outside_of_the_text(base: Any) -> str | None:
    """Return a pattern of the modules beside the text model, such as a vision tower; None for a model of text alone.

    Rows have no images, so factors there would stay as they are drawn, and few models are served with adapters on them.
    """
    decoder = base.get_decoder()
    if decoder is base.base_model:
        return None
    name = next(name for name, module in base.named_modules() if module is decoder)
    return rf"(?!{re.escape(name)}\.).*"


def _load_adapter(model: Any, spec: LoopSpec, folder: Path) -> None:
    """Replace the drawn adapter weights by those of an adapter's folder.

    Under ZeRO-3, too, the adapter is still whole on every rank here: it is made after the base is partitioned, and
    `deepspeed.initialize` partitions it.
    """
    import torch

    weights = read_adapter(folder, spec.recipe.lora)
    # PEFT's files leave out the adapter's name, "default".
    own = {name.replace(".default.", "."): p for name, p in model.named_parameters() if p.requires_grad}
    found, expected = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (weights, own))
    if found != expected:
        odd = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise TrialError(
            f"{folder}: the adapter to start from does not fit {spec.model} and recipe.lora.targets: {odd[0]} has the shape "
            f"{found.get(odd[0], 'none')} in the folder and {expected.get(odd[0], 'none')} in the model."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trained parameters for AdamW: matrices decay, vectors (norms, biases) do not."""
    matrices: list[Any] = []
    vectors: list[Any] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)
            (matrices if len(shape) > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def size(parameter: Any) -> int:
    """Count the elements of a parameter, also of one that ZeRO-3 has cut."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
