"""From what a study writes under `path:` to a folder on this machine: a registered model, a folder, or a model of the hub.

A model of the hub is downloaded once per machine, into the hub's own cache (HF_HOME), and read from there like any other
folder. Only `fetch` downloads; `locate` and `resolve_model` look at what is there, so that `inoc-ray plan` never does.
On a cluster the folder that is found on the driver must be seen by every node: HF_HOME belongs on a shared mount there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from inoc_ray.config.base import as_on_the_hub
from inoc_ray.config.identity import model_folder_hash
from inoc_ray.console import say
from inoc_ray.errors import InputError
from inoc_ray.models.config import end_ids
from inoc_ray.models.hub import HubErrors, is_hub, parse_place
from inoc_ray.models.weights import check_weights
from inoc_ray.study.named import MODELS, named_folder

_SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
_WEIGHTS = "*.safetensors"
_ADAPTER = "adapter_*.safetensors"
_NOT_WANTED = ("*/*", "consolidated*.safetensors")
"""Files in folders of the repository, and the second copy of the weights that some publishers put beside the first."""


@dataclass(frozen=True)
class ModelFolder:
    """A model found on disk."""

    path: Path
    hash: str
    """64 hex digits over its files; see `identity.model_folder_hash`."""


def resolve_model(source: str, where: str, *, judge: bool = False) -> ModelFolder:
    """The folder and content hash of a model. Raises InputError as `locate` does. Downloads nothing."""
    folder = locate(source, where, judge=judge)
    return ModelFolder(folder, model_folder_hash(folder, _NOT_WANTED if is_hub(source) else ()))


def locate(source: str, where: str, *, judge: bool = False, weights: bool = True) -> Path:
    """The folder of a model on this machine; `where` begins each message ("models: 'qwen'").

    `judge`: a name means the judging model that is registered under it. `weights=False`: configuration and tokenizer are
    enough. Raises InputError for a folder that is not there or holds no config.json or safetensors weights, and for a model
    of the hub that is not pinned or not in this machine's cache.
    """
    folder = named_folder(source, judge)
    if folder is None:
        folder = _cached(source, where, weights) if is_hub(source) else Path(os.path.expanduser(source)).absolute()
    if not folder.is_dir():
        raise InputError(f"{where}: there is no model folder {folder}; {_what_to_write(source)}")
    if not (folder / "config.json").is_file():
        raise InputError(f"{where}: {folder} has no config.json, so it is no model folder.")
    if weights and not _has_weights(folder):
        raise InputError(
            f"{where}: {folder} has no *.safetensors weights (pickled weights are not loaded); convert them first."
        )
    return folder


def fetch(source: str, where: str, *, weights: bool = True) -> None:
    """Downloads a model of the hub into the hub's cache, unless it is there; does nothing for other sources.

    Only safetensors, JSON, Jinja and tokenizer files are downloaded: no pickles, no code. Raises InputError for a model that
    is not pinned, not there, or not to be had without network.
    """
    if not is_hub(source):
        return
    try:
        place = parse_place(source, "model")
        if _snapshot(source, weights, offline=True) is None:
            say(f"fetching {place.repo} at {place.commit[:12]} from the hub ...")
        found = _snapshot(source, weights, offline=False)
        if weights and found is not None and not _has_weights(found):
            raise InputError(
                f"{source}: there are no *.safetensors weights (pickled weights are not loaded), or, if the hub cannot be reached "
                "from here, only a part of the model is in the cache."
            )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def fetch_models(models: Iterable[tuple[str, str]]) -> None:
    """Fetches every (source, where) that is a model of the hub, before anything starts."""
    for source, where in dict.fromkeys(models):
        fetch(source, where)


def _has_weights(folder: Path) -> bool:
    return any(not fnmatch(path.name, _ADAPTER) for path in folder.glob(_WEIGHTS))


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that the model is made of: weights, configuration, tokenizer."""
    wanted = (*_SMALL_FILES, _WEIGHTS)
    return [p for p in sorted(folder.iterdir()) if p.is_file() and any(fnmatch(p.name, one) for one in wanted)]


def check_model_files(folder: Path) -> None:
    """Raises InputError when the files of a model folder cannot be what a fine-tune starts from.

    Read are headers, and of each tensor a few kilobytes: a cut or damaged file, an index that names files which are not
    there, a tensor with NaN, tensors that do not fill the model that config.json describes, an adapter beside the weights, a
    class that would need the repository's own code (`auto_map`), a model that is quantised or does not continue a text,
    a generation_config.json that is damaged.
    """
    check_weights(folder)
    end_ids(folder)


def _what_to_write(source: str) -> str:
    hub = as_on_the_hub(source)
    known = " or ".join(f"`{name}`" for name in MODELS.names())
    return f"give a folder with config.json and *.safetensors, {known}, or a model of the hub as {hub}."


def _cached(source: str, where: str, weights: bool) -> Path:
    try:
        place = parse_place(source, "model")
        folder = _snapshot(source, weights, offline=True)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if folder is None:
        raise InputError(
            f"{where}: {source} is not in this machine's cache of the hub; `inoc-ray run` downloads it before it starts "
            f"anything, `hf download {place.repo} --revision {place.commit}` does so now."
        )
    return folder


def _snapshot(source: str, weights: bool, *, offline: bool) -> Path | None:
    """The folder in the hub's cache; None where `offline` and it is not there whole."""
    from huggingface_hub import errors, snapshot_download

    place = parse_place(source, "model")
    patterns = [*_SMALL_FILES, *([_WEIGHTS] if weights else [])]
    try:
        with HubErrors(source, "model"):
            folder = snapshot_download(
                place.repo,
                revision=place.commit,
                allow_patterns=patterns,
                ignore_patterns=list(_NOT_WANTED),
                local_files_only=offline,
            )
    except InputError as error:
        if offline and isinstance(error.__cause__, errors.LocalEntryNotFoundError):
            return None
        raise
    found = Path(folder)
    # A cache that another program began (a tokenizer alone) is a folder, too, but not this model.
    if offline and (not (found / "config.json").is_file() or (weights and not any(found.glob(_WEIGHTS)))):
        return None
    return found
