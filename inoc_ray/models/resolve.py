"""From the `path:` of a model in a study to a folder on this machine: a registered model, a folder, one of the hub or a package.

A model of the hub is downloaded once per machine, into the hub's own cache (HF_HOME), and read from there like any other
folder. Only `fetch` and `on_this_node` download; `locate` and `resolve_model` look only at what is there, so `inoc-ray plan`
never downloads. On a cluster each node that lacks a model of the hub fetches it for itself, unless HF_HOME is a shared mount.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from inoc_ray.config.base import HUB, as_on_the_hub
from inoc_ray.config.identity import model_folder_hash
from inoc_ray.config.reading import check_no_address
from inoc_ray.console import say
from inoc_ray.errors import InputError, said_of
from inoc_ray.models import package
from inoc_ray.models.config import end_ids
from inoc_ray.models.hub import HubErrors, cached_place, is_hub, parse_place
from inoc_ray.models.weights import check_weights
from inoc_ray.study.registered import MODELS, named_folder

MODEL_INSTEAD = "download the model and give its folder, or name one of the hub (hf://OWNER/NAME@COMMIT)"
"""What to give in place of another address."""
_SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
_WEIGHTS = "*.safetensors"
_ADAPTER = "adapter_*.safetensors"
_EXCLUDED = ("*/*", "consolidated*.safetensors")
"""Files in subfolders, and the second copy of the weights that some publishers add."""


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk."""

    path: Path
    hash: str
    """64 hex digits over its files; see `identity.model_folder_hash`."""


def resolve_model(source: str, where: str, *, judge: bool = False, weights: bool = True) -> ModelFolder:
    """Return the folder and content hash of a model, downloading nothing. Raises InputError as `locate` does.

    weights: as for `locate`; without them the hash is that of the other files.
    """
    folder = locate(source, where, judge=judge, weights=weights)
    return ModelFolder(folder, model_folder_hash(folder, _EXCLUDED if is_hub(source) else ()))


def locate(source: str, where: str, *, judge: bool = False, weights: bool = True) -> Path:
    """Return the folder of a model on this machine; `where` begins each error message ("models: 'qwen'").

    `judge`: a name means the judge model that is registered under it. `weights=False`: configuration and tokenizer are
    enough. Raises InputError for a folder that does not exist or has no config.json or safetensors weights, and for a model of
    the hub that is not pinned or not in this machine's cache.
    """
    folder = named_folder(source, judge) or _folder(source, where, weights)
    if not folder.is_dir():
        raise InputError(f"{where}: there is no model folder {folder}; {_forms(source)}")
    if not (folder / "config.json").is_file():
        raise InputError(f"{where}: {folder} has no config.json, so it is not a model folder.")
    if weights and not _has_weights(folder):
        raise InputError(
            f"{where}: {folder} has no *.safetensors weights (pickled weights are not loaded); convert them first."
        )
    return folder


def _folder(source: str, where: str, weights: bool) -> Path:
    if is_hub(source):
        return _cached(source, where, weights)
    if package.is_packaged(source):
        try:
            return package.model_of_package(source)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    with said_of(where):
        check_no_address(source, MODEL_INSTEAD)
    return Path(os.path.expanduser(source)).absolute()


def fetch(source: str, where: str, *, weights: bool = True) -> None:
    """Download a model of the hub into the hub's cache, unless it is there; do nothing for other sources.

    Only safetensors, JSON, Jinja and tokenizer files are downloaded: no pickles, no code. Raises InputError for a model that
    is not pinned, does not exist, or is neither in the cache nor reachable.
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
                "from here, only part of the model is in the cache."
            )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def fetch_models(models: Iterable[tuple[str, str]]) -> None:
    """Fetch every (source, where) that is a model of the hub."""
    for source, where in dict.fromkeys(models):
        fetch(source, where)


def on_this_node(folder: Path) -> Path:
    """Return the folder of a model that the driver found, on this node: itself, or the same commit in this node's cache.

    A model of the hub that is not here is fetched, once for all processes of the node, and one of a package is converted.
    Raises InputError for another folder that is not here.
    """
    if (folder / "config.json").is_file():
        return folder
    if (packaged := package.package_of(folder)) is not None:
        return package.on_this_node(*packaged)
    place = cached_place(folder)
    where = f"node {socket.gethostname()}"
    if place is None:
        raise InputError(
            f"{where}: there is no model folder {folder} here; put the model on a mount that every node has, or use one of the hub."
        )
    source = f"{HUB}{place.repo}@{place.commit}"
    fetch(source, where)
    return locate(source, where)


def _has_weights(folder: Path) -> bool:
    return any(not fnmatch(path.name, _ADAPTER) for path in folder.glob(_WEIGHTS))


def model_files(folder: Path) -> list[Path]:
    """Return the files that make up the model in a folder: weights, configuration, tokenizer."""
    patterns = (*_SMALL_FILES, _WEIGHTS)
    return [p for p in sorted(folder.iterdir()) if p.is_file() and any(fnmatch(p.name, one) for one in patterns)]


def check_model_files(folder: Path) -> None:
    """Raise InputError when a fine-tune cannot start from the files of a model folder.

    Reads headers, and a few kilobytes of each tensor. Refused are a cut or damaged file, an index that names missing files, a
    tensor with NaN, tensors that do not fill the model that config.json describes, an adapter beside the weights, a class
    that needs the repository's own code (`auto_map`), a model that is quantised or does not continue a text, and a damaged
    generation_config.json.
    """
    check_weights(folder)
    end_ids(folder)


def _forms(source: str) -> str:
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
            f"anything, `hf download {place.repo} --revision {place.commit}` downloads it now."
        )
    return folder


def _snapshot(source: str, weights: bool, *, offline: bool) -> Path | None:
    """Return the folder in the hub's cache; None where `offline` and it is not complete there."""
    from huggingface_hub import errors, snapshot_download

    place = parse_place(source, "model")
    patterns = [*_SMALL_FILES, *([_WEIGHTS] if weights else [])]
    try:
        with HubErrors(source, "model"):
            folder = snapshot_download(
                place.repo,
                revision=place.commit,
                allow_patterns=patterns,
                ignore_patterns=list(_EXCLUDED),
                local_files_only=offline,
            )
    except InputError as error:
        if offline and isinstance(error.__cause__, errors.LocalEntryNotFoundError):
            return None
        raise
    found = Path(folder)
    # Another program may have cached only a part of the model, such as its tokenizer.
    if offline and (not (found / "config.json").is_file() or (weights and not any(found.glob(_WEIGHTS)))):
        return None
    return found
