"""The logs of what failed in a study, read from its storage: whoever looks on from a laptop has no other way to a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.run.load import store_at
from inoc_ray.run.look import look
from inoc_ray.store.place import Place


@dataclass(frozen=True, kw_only=True)
class FailureLog:
    """A failure with the text of its log."""

    label: str
    error: str
    log: str
    text: str
    """Empty if the failure left no log, or if it is gone."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields for `--json`."""
        return asdict(self)


def failure_logs(study: str, storage: str | None, address: str | None) -> list[FailureLog]:
    """Return the failures of a study that `inoc-ray status` shows, with their logs; arguments as for `look`.

    Raises InputError as `look` does, and for a storage of which this machine can read nothing.
    """
    status = look(study, storage, address)
    if "trials" not in status:
        raise InputError(
            f"{status['storage']}: has no results of {status['study']} that this machine can read, so what failed is not "
            f"known here; `inoc-ray logs {study}` prints the log of its job."
        )
    top = store_at(status["storage"]).logs()
    found = []
    for failure in status.get("failures", ()):
        place = Place(top.filesystem, failure["log"].removeprefix(status["storage"]).lstrip("/"))
        text = place.read_text(errors="replace") if failure["log"] and place.is_file() else ""
        found.append(FailureLog(**failure, text=text))
    return found


def logs_text(logs: Sequence[FailureLog]) -> str:
    """Return the logs one below the other, each under what failed."""
    parts = [f"{log.label} ({log.log})\n{log.text.rstrip() or log.error}" for log in logs]
    return "\n\n".join(parts) or "Nothing failed."
