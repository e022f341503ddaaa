"""Weights on disk: an adapter or a whole model as safetensors, checked before anything relies on them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.errors import TrialError
from inoc_ray.models.config import read_config
from inoc_ray.store.commit import committed_fault
from inoc_ray.study.recipe import Lora
from inoc_ray.train.spec import LoopSpec
from inoc_ray.train.zero import consolidated_weights

if TYPE_CHECKING:
    import torch

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
GENERATION_CONFIG = "generation_config.json"
SHARD_SIZE = "5GB"
_ADAPTER_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


def export(engine: Any, spec: LoopSpec, out: Path | None) -> None:
    """Write what was trained to `out` and check it. To be called on all ranks; only rank 0 writes.

    Raises TrialError when what was written is not usable, OSError when it cannot be written.
    """
    if spec.recipe.method == "lora":
        export_adapter(engine, spec, out)
    else:
        export_model(engine, spec, out)


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Raise the OSError behind what safetensors says of a file that it cannot write."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        # Rust's words: I/O error: No space left on device (os error 28)
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error


def export_adapter(engine: Any, spec: LoopSpec, out: Path | None) -> None:
    """Write a PEFT adapter folder (safetensors, adapter_config.json) whose tensors are whole under every ZeRO stage.

    Raises TrialError when the adapter is not usable (`validate_adapter`).
    """
    import peft
    from safetensors.torch import save_file

    weights = consolidated_weights(engine, trainable_only=True)
    if weights is None or out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    model = engine.module
    state = peft.get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    with _as_os_errors():
        save_file(
            {name: tensor.contiguous() for name, tensor in state.items()}, out / ADAPTER_WEIGHTS, {"format": "pt"}
        )
    config = model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    modules = config["target_modules"]
    if spec.recipe.lora.targets == "all-linear":
        # PEFT lists every linear module by its full name, those without an adapter, too; readers, vLLM among them, expect
        # the names alone.
        modules = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in state}
    # A set, whose order differs between processes; the file should not.
    config["target_modules"] = sorted(modules)
    text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
    (out / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
    _let_read(out, like=out / ADAPTER_CONFIG)
    validate_adapter(out, spec.model, spec.recipe.lora.rank)


def export_model(engine: Any, spec: LoopSpec, out: Path | None) -> None:
    """Write a whole model folder: safetensors, configuration, tokenizer with its chat template.

    Files that training does not change are copied from the base. transformers would refuse to write some of it:
    published models have sampling defaults that contradict each other (`do_sample: false` with a temperature), which it
    reads without complaint, and which are not used here. Raises TrialError when a weight is not finite.
    """
    from huggingface_hub import save_torch_state_dict

    from inoc_ray.models.tokenizer import copy_tokenizer

    weights = consolidated_weights(engine, trainable_only=False)
    if weights is None or out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    _check_finite(weights, out)
    model = engine.module
    with _as_os_errors():
        save_torch_state_dict(weights, out, max_shard_size=SHARD_SIZE, metadata={"format": "pt"})
    _write_config(model.config, Path(spec.model), out)
    _let_read(out, like=out / "config.json")
    if (generation := Path(spec.model, GENERATION_CONFIG)).is_file():
        shutil.copyfile(generation, out / GENERATION_CONFIG)
    copy_tokenizer(Path(spec.model), out)


def _let_read(folder: Path, *, like: Path) -> None:
    """Give weights the permissions of another file: safetensors' own exclude everybody else who shares the storage."""
    for path in folder.glob("*.safetensors"):
        shutil.copymode(like, path)


def _write_config(config: Any, base: Path, out: Path) -> None:
    """Write the configuration of the class and type that the weights now have; `use_cache`, off in training, as in the base."""
    values = config.to_diff_dict()
    values.pop("use_cache", None)
    if (cached := read_config(base).get("use_cache")) is not None:
        values["use_cache"] = cached
    (out / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def validate_adapter(folder: Path, base: str, rank: int) -> None:
    """Check that the folder holds a trained adapter of that rank for that base, else raise TrialError.

    Checked: base and rank in the configuration; each module with both factors, of matching shapes and not empty; all
    numbers finite; not every second factor zero (then training changed nothing); each named target is there.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except Exception as error:
        raise TrialError(f"{folder}: the adapter cannot be read ({error}).") from error
    if config.get("base_model_name_or_path") != base:
        raise TrialError(f"{folder}: the adapter is for {config.get('base_model_name_or_path')}, not for {base}.")
    if config.get("r") != rank:
        raise TrialError(f"{folder}: the adapter has rank {config.get('r')}, not {rank}.")
    factors = _factors(weights, rank, folder)
    _check_finite(weights, folder)
    if not factors:
        raise TrialError(f"{folder}: the adapter is empty.")
    for module, sides in factors.items():
        if set(sides) != {"A", "B"}:
            raise TrialError(f"{folder}: {module} has only the factor {', '.join(sides)}.")
    for target in config["target_modules"]:
        if not any(module == target or module.endswith(f".{target}") for module in factors):
            raise TrialError(f"{folder}: the target module {target} has no weights.")
    if not any(sides["B"].any() for sides in factors.values()):
        raise TrialError(f"{folder}: every second factor is zero, so training changed nothing.")


def _factors(weights: Mapping[str, torch.Tensor], rank: int, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return module → side (A, B) → factor. Raises TrialError for another tensor, and for one of another shape."""
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        match = _ADAPTER_TENSOR.fullmatch(name)
        if match is None:
            raise TrialError(f"{folder}: {name} is not a factor of an adapter.")
        # LoRA's A is (rank, in), its B (out, rank).
        expected = 0 if match["side"] == "A" else 1
        if tensor.ndim != 2 or tensor.numel() == 0 or tensor.shape[expected] != rank:
            raise TrialError(f"{folder}: {name} has the shape {tuple(tensor.shape)}, expected one of rank {rank}.")
        factors.setdefault(match["module"], {})[match["side"]] = tensor
    return factors


def read_adapter(folder: Path, lora: Lora) -> dict[str, torch.Tensor]:
    """Read the factors of a committed adapter by their names in its file, to start from under `lora`.

    Where the base lay when it was trained does not matter. Raises TrialError when the folder cannot be read, when its files
    are not those that its trial committed, or its rank or scale are others than `lora` has: the same numbers would then mean
    another model.
    """
    from safetensors.torch import load_file

    if (fault := committed_fault(folder)) is not None:
        raise TrialError(f"{folder.parent}: the trial to go on with is damaged: {fault}; run the study again.")
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / ADAPTER_WEIGHTS)
        found = (config["r"], float(config["lora_alpha"]), bool(config["use_rslora"]))
    except Exception as error:
        raise TrialError(f"{folder}: the adapter to go on with cannot be read ({error}).") from error
    if found != (expected := (lora.rank, float(lora.alpha), lora.rslora)):
        raise TrialError(
            f"{folder}: the adapter to go on with has (rank, alpha, rslora) {found}, the recipe {expected}; give both the same."
        )
    _check_finite(weights, folder)
    return weights


def _check_finite(weights: dict[str, torch.Tensor], where: Path) -> None:
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise TrialError(f"{where}: {name} holds numbers that are not finite; lower recipe.learning_rate.")


def _plain(value: Any) -> Any:
    """Turn sets and enumerations of PEFT's configuration into JSON."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
