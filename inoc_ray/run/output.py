"""The output of a command: its result on standard output, as text or one JSON value; all else on standard error."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TextIO

import click

from inoc_ray.console import show

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON value instead of text; errors too.")

_results: ContextVar[TextIO | None] = ContextVar("results", default=None)


class _Printed:
    """Whether the command has printed its result; for all threads."""

    yes = False


def begin() -> None:
    """Note that the command has printed nothing yet."""
    _Printed.yes = False


def printed() -> bool:
    """Return whether the command has printed its result; an error after it is not printed as JSON."""
    return _Printed.yes


def results() -> TextIO:
    """Return the stream for results: standard output, even while `results_alone` redirects the output of libraries."""
    return _results.get() or sys.stdout


def results_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Redirect to standard error what libraries print on standard output while the command runs.

    Ray occasionally prints there, which would break `--json`.
    """

    @functools.wraps(function)
    def quiet(**arguments: Any) -> Any:
        token = _results.set(sys.stdout)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return function(**arguments)
        finally:
            _results.reset(token)

    return quiet


def emit(as_json: bool, value: Any, text: str) -> None:
    """Print the command's result: `value` as JSON, or `text`."""
    if as_json:
        print(json_text(value, indent=2), file=results(), flush=True)
    else:
        show(text, results())
    _Printed.yes = True


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON that standard output can encode: with escapes unless it is UTF-8, never with a "?" for a character."""
    in_ascii = not (results().encoding or "").lower().startswith("utf")
    return json.dumps(value, indent=indent, ensure_ascii=in_ascii, allow_nan=False)
