"""Pinned places on the Hugging Face hub, and one message for whatever the hub's client raises.

A place is written `hf://OWNER/NAME@COMMIT` (a model) or `hf://datasets/OWNER/NAME@COMMIT/FILE`, with the full commit: a branch
or a tag of the hub can come to mean other files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inoc_ray.config.base import HUB
from inoc_ray.errors import InputError

RepoKind = Literal["model", "dataset"]
_PLACE = re.compile(
    r"hf://(?P<dataset>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<commit>[^/]*))?(?:/(?P<file>.+))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CACHED = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)", re.ASCII)
"""The folder of a repository in the hub's cache. No name on the hub has two hyphens in a row."""
_FORMS = {"model": "hf://OWNER/NAME@COMMIT", "dataset": "hf://datasets/OWNER/NAME@COMMIT/FILE"}


@dataclass(frozen=True)
class Place:
    """A repository of the hub at one commit, and optionally a file in it."""

    repo: str
    commit: str
    file: str | None = None


def is_hub(source: str) -> bool:
    """Return whether a source is written as a place on the hub."""
    return source.startswith(HUB)


def parse_place(source: str, kind: RepoKind) -> Place:
    """Return the place that `source` names. Raises InputError for another form, and for a place without a full commit."""
    found = _PLACE.fullmatch(source)
    if found and kind == "model" and found["dataset"]:
        raise InputError(f"{source}: a dataset, where a model is needed; write {_FORMS[kind]}.")
    if not found or (kind == "dataset" and not found["dataset"]) or (kind == "model" and found["file"]):
        raise InputError(f"{source}: not a {kind} of the hub; write {_FORMS[kind]}.")
    repo, commit, file = found["repo"], found["commit"], found["file"]
    if commit is not None and _COMMIT.fullmatch(commit.lower()) and commit != commit.lower():
        raise InputError(f"{source}: the hub writes commits in lower case; write @{commit.lower()}.")
    if commit is None or not _COMMIT.fullmatch(commit):
        pinned = f"{HUB}{found['dataset'] or ''}{repo}@<40 hex digits>{'/FILE' if kind == 'dataset' else ''}"
        what = "rows" if kind == "dataset" else "weights"
        raise InputError(
            f"{source}: not pinned; put the full commit after the name ({pinned}; the {kind}'s page shows it under Files, "
            f"History), or the same name could come to mean other {what}."
        )
    return Place(repo, commit, file)


def cached_place(folder: Path) -> Place | None:
    """Return what a folder of the hub's cache holds (`models--OWNER--NAME/snapshots/COMMIT`); None for any other folder."""
    repository, snapshots, commit = ("", "", "", *folder.parts)[-3:]
    found = _CACHED.fullmatch(repository)
    if not found or snapshots != "snapshots" or not _COMMIT.fullmatch(commit):
        return None
    return Place(f"{found['owner']}/{found['name']}", commit)


class HubErrors:
    """Turns what the hub's client raises into InputError: `with HubErrors(source, "dataset"): …`."""

    def __init__(self, source: str, kind: RepoKind) -> None:
        """`source` is what the message names."""
        self.source, self.kind = source, kind

    def __enter__(self) -> None:
        """Do nothing: only errors count."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise InputError for an error of the hub's client; let others pass."""
        if error is None:
            return
        from huggingface_hub import errors

        source, what = self.source, self.kind
        if isinstance(error, errors.GatedRepoError):
            raise InputError(
                f"{source}: the {what} is gated; accept its terms on the hub and log in (`hf auth login`)."
            ) from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise InputError(f"{source}: the {what} has no such commit.") from error
        # The client reports "not in the cache, and no network" as a subclass of "no such entry".
        if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)):
            raise self._offline() from error
        if isinstance(error, errors.EntryNotFoundError):
            raise InputError(f"{source}: the {what} has no such file at this commit.") from error
        if isinstance(error, errors.RepositoryNotFoundError):
            raise InputError(
                f"{source}: there is no such {what} on the hub, or it is private and you are not logged in."
            ) from error
        if isinstance(error, (errors.HfHubHTTPError, errors.HFValidationError)):
            raise InputError(f"{source}: the hub refuses ({str(error).splitlines()[0]}).") from error
        # Everything else that the client's HTTP library raises means that the hub could not be reached.
        if isinstance(error, errors.HTTPError):
            raise self._offline() from error

    def _offline(self) -> InputError:
        by_path = "the file's path" if self.kind == "dataset" else "the folder's path"
        return InputError(
            f"{self.source}: not in the local cache, and the hub cannot be reached; download it on a machine with network "
            f"and give {by_path}, or copy the cache (HF_HOME)."
        )
