"""The error classes with which a command ends, the exit code of each, and how a value appears in a message."""

import contextlib
import errno
import os
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHOWN_CHARACTERS = 60


class InputError(Exception):
    """The user's input is wrong: the command line prints the message alone and exits with 2.

    The message says what is wrong, where (file, row, field) and what to change.
    """


class TrialError(Exception):
    """At least one trial failed while the others finished: exit code 1. The message names the trial and its log."""


class StorageError(Exception):
    """The storage cannot be reached, or refuses: exit code 2 before a run begins, 1 during it, the message alone.

    It is no `OSError`, so that nobody takes it for a sign that a file is missing or damaged.
    """


class StorageRefusal(StorageError):
    """The credentials of this process may not do that in the storage, as whoever may only read may not write."""


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 2 * SHOWN_CHARACTERS
_short.maxlevel = 4


def shown(value: object) -> str:
    """Return a value as a message shows it: one line of at most 60 characters, however large the value is.

    Looks only at the beginning of a text, list or mapping, so that a message about gigabytes costs nothing.
    """
    try:
        # reprlib shortens long lists, but keeps both ends of a long text, of which only the beginning is wanted.
        text = repr(value[: 2 * SHOWN_CHARACTERS]) if isinstance(value, str) else _short.repr(value)
    except ValueError:
        # Python does not write integers of more than 4300 digits.
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}…"


# A password may contain an @ or a slash: everything up to the last @ is hidden. Digits before a slash are a port.
_PASSWORD = re.compile(r"(?<=\w)(:/{1,2}[^/@:\s]*):(?:[^/\s]*|(?!\d+[/?#])[^\s\"'<>]*)@")
# What stands alone before the @ is a token for HTTP, and a user's name for a database, which may have its password in the query.
_TOKEN = re.compile(r"(?i)(https?:/{1,2})[^/@:\s\"'<>]+@")
# PostgreSQL's `sslkey` names a file.
_IN_QUERY = re.compile(
    r"(?i)([?&#;](?!sslkey=)[\w.-]*(?:password|passwd|pwd|token|secret|key|sig|signature|credential)=)[^&\s\"'<>]+?(?=[.,:;)]*(?:[&\s\"'<>]|$))"
)


def hide_password(text: str) -> str:
    """Return the text with the password, or the token, of every address in it replaced by `***`."""
    return _IN_QUERY.sub(r"\1***", _TOKEN.sub(r"\1***@", _PASSWORD.sub(r"\1:***@", text)))


def hide_passwords(value: Any) -> Any:
    """Return parsed JSON with `hide_password` applied to every text in it."""
    if isinstance(value, dict):
        return {key: hide_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [hide_passwords(inner) for inner in value]
    return hide_password(value) if isinstance(value, str) else value


@contextlib.contextmanager
def said_of(place: str) -> Iterator[None]:
    """Put the place in the study (`settings: mine.rows`) before the message of an InputError that the block raises."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def unreadable(path: Path, error: OSError, what: str = "") -> InputError:
    """Return the error for a file that cannot be read (as `what`): the reason, and for a missing file where it was sought."""
    missing = isinstance(error, FileNotFoundError)
    # pyarrow's errors have no strerror.
    why = os.strerror(errno.ENOENT) if missing else error.strerror or str(error)
    where = f"; looked in {Path.cwd()}, as paths count from the folder in which the command runs"
    tried = f"cannot be read as {what}" if what else "cannot be read"
    return InputError(f"{path}: {tried} ({why}){where if missing and not path.is_absolute() else ''}.")


@contextlib.contextmanager
def writing(place: object) -> Iterator[None]:
    """Turn an OSError of the block, such as that of a full disk, into an InputError with the place and what to do."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"{place}: cannot be written ({why}); make room there, and run the study again.") from error
