"""The adapters that an engine can serve: their public ids, their folders, and the check of one.

An adapter's public model id is `<base>:<trial_id>`: the trial id is derived from content, so a name never changes its
weights. Weights that a trial kept on the way (`resources.checkpoints`) are `<base>:<trial_id>@<step>`. This module imports
neither Ray nor vLLM: the driver checks adapters with it before anything starts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.store.commit import adapter_of, fetch_weights, is_read_by_engines, record_of, trial_and_step
from inoc_ray.store.place import Place, at

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# vLLM builds its LoRA buffers for one of these ranks (vllm.config.lora.MaxLoRARanks).
ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class FolderCatalogue:
    """Every committed adapter under `root`, a folder of trials of a store.

    With `model_hash`, only LoRA adapters of that base model (by their trial.json): a store may hold trials of other models, and
    an adapter of another base with the same shapes would load without an error.
    """

    root: Place | Path
    model_hash: str | None = None

    def find(self, name: str) -> Place | None:
        """Return the place of a committed adapter; None if there is none at the moment.

        name: a trial id, or TRIAL@STEP for weights that the trial kept on the way.
        """
        weights = trial_and_step(name)
        return adapter_of(self.root, *weights) if weights is not None and self._fits(weights[0]) else None

    def fetch(self, name: str) -> Path:
        """Return the folder of an adapter on this machine, to be loaded.

        Raises `InputError` if its files are not those that its trial committed.
        """
        return fetch_weights(self.root, *_weights(name))

    def _fits(self, trial_id: str) -> bool:
        if self.model_hash is None:
            return True
        trial = record_of(self.root, trial_id)
        try:
            return bool(trial["model_hash"] == self.model_hash and trial["recipe"]["method"] == "lora")
        except (KeyError, TypeError):
            return False

    def ids(self) -> list[str]:
        """Return the trial ids of all adapters that can be served now, sorted."""
        root = at(self.root)
        # One listing for all trials; some requests for each would take minutes in a bucket.
        with root.filesystem.glance([root.key], is_read_by_engines):
            return [entry.name for entry in root.iterdir() if self.find(entry.name) is not None]


@dataclass(frozen=True)
class JoinedCatalogue:
    """The adapters of several storages; of what more than one has, the first one's, which has the same content."""

    parts: tuple[FolderCatalogue, ...]

    def find(self, name: str) -> Place | None:
        """Return the place of a committed adapter; None if there is none at the moment."""
        return next((place for part in self.parts if (place := part.find(name)) is not None), None)

    def fetch(self, name: str) -> Path:
        """Return the folder of an adapter on this machine. Raises `InputError` if it is damaged, or not there."""
        part = next((part for part in self.parts if part.find(name) is not None), self.parts[0])
        return part.fetch(name)

    def ids(self) -> list[str]:
        """Return the trial ids of all adapters that can be served now, sorted."""
        return sorted({trial_id for part in self.parts for trial_id in part.ids()})


Catalogue = FolderCatalogue | JoinedCatalogue


@dataclass(frozen=True)
class FullModel:
    """The model that a full fine-tune made, as its trial committed it among `trials`, a folder of a store.

    trial_id: or TRIAL@STEP for the model that it kept on the way.
    """

    trials: Place
    trial_id: str

    def fetch(self) -> Path:
        """Return its folder on this machine. Raises `InputError` if its files are not those that its trial committed."""
        return fetch_weights(self.trials, *_weights(self.trial_id))


def _weights(name: str) -> tuple[str, int | None]:
    found = trial_and_step(name)
    if found is None:
        raise InputError(f"{name!r} does not name a trial")
    return found


def model_id_of(base: str, trial_id: str) -> str:
    """Return the public model id of a trial's adapter on the engine of `base`."""
    return f"{base}:{trial_id}"


def trial_id_of(base: str, model_id: str) -> str | None:
    """Return the trial id in an adapter's public model id; None if `model_id` does not name an adapter of `base`."""
    prefix = f"{base}:"
    return model_id[len(prefix) :] if model_id.startswith(prefix) and len(model_id) > len(prefix) else None


def engine_rank(rank: int) -> int:
    """Return the smallest rank, of those an engine can be built for, that holds adapters of `rank`.

    Raises `InputError` if `rank` exceeds the largest.
    """
    for candidate in ENGINE_RANKS:
        if candidate >= rank:
            return candidate
    raise InputError(f"LoRA rank {rank} cannot be served: the engine's largest is {ENGINE_RANKS[-1]}")


@dataclass(frozen=True)
class AdapterFacts:
    """What the files of an adapter say about it."""

    path: Path
    rank: int
    tensors: int = field(compare=False)


def check_adapter(path: Path, max_rank: int) -> AdapterFacts:
    """Check that the engine can load an adapter folder, without reading its weights.

    Raises `InputError` if the folder is not a LoRA adapter in safetensors, if a tensor in it is empty (as a plain save under
    ZeRO-3 leaves it), or if its rank exceeds `max_rank`.
    """
    config_path, weights_path = path / CONFIG_FILE, path / WEIGHTS_FILE
    if not config_path.is_file():
        raise InputError(f"{path} is not a LoRA adapter: it has no {CONFIG_FILE}")
    if not weights_path.is_file():
        raise InputError(
            f"{path} has no {WEIGHTS_FILE}. Adapters are served from safetensors only (a pickle such as adapter_model.bin "
            "can run code when it is loaded): save the adapter with safe_serialization=True"
        )
    try:
        config: dict[str, Any] = json.loads(config_path.read_text())
    except ValueError as error:
        raise InputError(f"{config_path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError(f"{config_path} does not describe a LoRA adapter (peft_type must be LORA)")
    for unsupported in ("use_dora", "modules_to_save"):
        if config.get(unsupported):
            raise InputError(f"{config_path} sets {unsupported}, which the engine cannot serve: train without it")
    rank = max([int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values())])
    if rank > max_rank:
        raise InputError(
            f"{path} has LoRA rank {rank}, above the engine's max_lora_rank {max_rank}: start the engine with "
            f"max_lora_rank={engine_rank(rank)}"
        )
    shapes = _tensor_shapes(weights_path)
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if not shapes or empty:
        raise InputError(
            f"{weights_path} holds {'empty tensors, e.g. ' + empty[0] if empty else 'no tensors'}: export it again"
        )
    return AdapterFacts(path=path, rank=rank, tensors=len(shapes))


def _tensor_shapes(weights: Path) -> dict[str, list[int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as file:
            names: list[str] = file.keys()
            return {name: file.get_slice(name).get_shape() for name in names}
    except SafetensorError as error:
        raise InputError(f"{weights} is not a safetensors file: {error}") from error
