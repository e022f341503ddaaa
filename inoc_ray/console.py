"""Progress that people can follow: done, rate and time left; a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

LINE_SECONDS = 5.0
"""Where there is no terminal, at most one line in this time."""


def say(message: str) -> None:
    """One line for people, on standard error: standard output is for results."""
    print(message, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """ "0:07", "3:20", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Counts up to `total` `unit`s of `label`.

    `with Progress("sampling", 400, "samples") as progress: progress.update(120, "miniature:ab12 neutral")`
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._note = ""
        self._first: tuple[float, int] | None = None
        self._started = self._printed = time.monotonic()
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self._print("\r" if self._live else "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note = "" if error is None else "stopped"
        self._print("\r" if self._live else "")
        if self._live:
            print(file=sys.stderr, flush=True)

    def update(self, done: int, note: str = "") -> None:
        """Sets how many are done; `note` says what is being worked on."""
        self.done, self._note = done, note
        now = time.monotonic()
        if done and self._first is None:
            self._first = now, done
        if now - self._printed >= (0.2 if self._live else LINE_SECONDS):
            self._printed = now
            self._print("\r" if self._live else "")

    def line(self) -> str:
        """What is printed: "training 3/8 trials · 0.4 trials/s · 0:12 left · baseline seed 1".

        The rate counts from the first that was done on, since what comes before it (processes that start, a model that is
        loaded) comes once; so there is none before the second.
        """
        now = time.monotonic()
        parts = [f"{self.label} {self.done}/{self.total} {self.unit}"]
        if self.done and self.done >= self.total:
            elapsed = max(1e-9, now - self._started)
            parts += [f"{self.done / elapsed:.3g} {self.unit}/s", f"took {duration(elapsed)}"]
        elif self._first is not None and self.done > self._first[1]:
            rate = (self.done - self._first[1]) / max(1e-9, now - self._first[0])
            parts += [f"{rate:.3g} {self.unit}/s", f"{duration((self.total - self.done) / rate)} left"]
        if self._note:
            parts.append(self._note)
        return " · ".join(parts)

    def _print(self, start: str) -> None:
        text = self.line()
        if start:
            # A line as wide as the terminal would wrap, and the next one would not cover it.
            text = start + text[: columns() - 1] + "\x1b[K"
        print(text, end="" if start else "\n", file=sys.stderr, flush=True)


def columns() -> int:
    """How wide the terminal behind standard error is at this moment; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
