"""Why an engine did not start, in one sentence, from the log of a process that died with it."""

from __future__ import annotations

import os
import re
from pathlib import Path

MARK = "the engine said: "
"""Precedes the cause in a replica's error, so that the driver finds it within Ray's own message."""
TAIL_BYTES = 1 << 20
SHOWN = 600
_RAISED = re.compile(r"(?<![\w.])((?:\w+\.)*\w*(?:Error|Exception|Interrupt)): *(\S.*)")
_NO_CAUSE = ("Engine core initialization failed", "See root cause above", "Engine process failed to start")


def cause_in(log: str) -> str | None:
    """Return the last error in a log that names a cause, as `ValueError: …`; None if there is none.

    vLLM's engine runs in a process of its own. It logs why it ends; outside of the log it says only that it ended.
    """
    found = None
    for line in log.splitlines():
        raised = _RAISED.search(line)
        if raised and not any(text in line for text in _NO_CAUSE):
            found = f"{raised[1]}: {raised[2].strip()}"
    return found[:SHOWN] if found else None


def cause_of(error: BaseException, log: str) -> str:
    """Return the error in one line; if it says only that the engine's process ended, the cause from the log."""
    message = (str(error).strip().splitlines() or [""])[0]
    own = f"{type(error).__name__}: {message}"[:SHOWN]
    return (cause_in(log) or own) if any(text in message for text in _NO_CAUSE) else own


def own_log() -> str:
    """Return the end of what this process and its children have written; empty if they do not write to a file."""
    texts = []
    for stream in (1, 2):
        path = Path(os.readlink(f"/proc/self/fd/{stream}"))
        if path.is_file():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL_BYTES))
                texts.append(file.read().decode(errors="replace"))
    return "\n".join(texts)


def marked_cause(text: str) -> str | None:
    """Return the cause in a replica's error, which holds Ray's traceback as well; None if it names none."""
    _, mark, rest = text.rpartition(MARK)
    return (rest.splitlines() or [""])[0].strip() if mark else None
