"""Output for people: coloured text, tables that fit the terminal, one live display of everything in progress.

Without a terminal (a pipe, a file, a log) the same words come as plain lines. `NO_COLOR` removes the colours.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from inoc_ray.errors import hide_password

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LINE_SECONDS = 5.0
"""Least time between two lines of progress without a terminal."""
BAR_COLUMNS = 24
WHOLE_COLUMNS = 16
"""A column that needs no more is never folded: ids and numbers are read and copied whole."""
_STYLES = {"good": "green", "bad": "bold red", "mixed": "yellow", "quiet": "dim", "head": "bold"}
_HIGHLIGHTS = (
    r"(?m)\A(?P<head>[Ss]tudy .*)$",
    r"(?m)^ *(?P<bad>(INCOMPLETE|Damaged|Failed|failed|missing|problem)\b:?)",
    r"(?m)(?:^|  )(?P<good>done|ok)(?=  |$)",
    r"(?m)(?:^|  )(?P<bad>failed|missing|problem)(?=  |$)",
    r"(?m)\] (?P<good>\*)(?=  |$)",
    r"(?m)\] (?P<mixed>worse|lost|leaks|reversed|one seed|\(incomplete\))(?=  |$)",
    r"(?m)^(?P<quiet>(?:[Nn]ote|thresholds): .*|[─ ]+)$",
)
"""Style → words. A colour only repeats what the words say, so that nothing is lost without it."""


def show(text: str, out: TextIO) -> None:
    """Print `text` to `out`, in colours on a terminal."""
    if not is_terminal(out):
        print(text, file=out, flush=True)
        return
    _console(out).print(text, soft_wrap=True)


def say(message: str) -> None:
    """Print a message on standard error, above the live display if there is one. Results go to standard output instead.

    The password of an address in it is hidden, whoever made the message.
    """
    message = hide_password(message)
    live = _display.live
    if live is not None:
        live.console.print(message, soft_wrap=True)
    else:
        show(message, sys.stderr)


def is_terminal(out: TextIO) -> bool:
    """Return whether `out` is a terminal that a person may be reading."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def width_of(out: TextIO) -> int | None:
    """Return the present width of the terminal behind `out`, in columns; None without a terminal."""
    return _console(out).width if is_terminal(out) else None


def align(lines: Sequence[Sequence[str]], widths: Sequence[int] | None = None) -> list[str]:
    """Return the lines with their cells in columns, two spaces apart; a column is as wide as its longest cell."""
    widths = widths or [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def table(rows: Sequence[Sequence[str]], header: Sequence[str], width: int | None = None) -> str:
    """Return a table as text that looks the same in a terminal, a log and a file.

    width: of the terminal in columns; the cells of wide columns are folded if the table is wider.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        return _folded(rows, header, width)
    head, *body = align(lines, widths)
    return "\n".join([head, "  ".join("─" * columns for columns in widths), *body])


def _folded(rows: Sequence[Sequence[str]], header: Sequence[str], width: int) -> str:
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for column in zip(header, *rows, strict=True):
        grid.add_column(overflow="fold", no_wrap=max(map(len, column)) <= WHOLE_COLUMNS)
    grid.add_row(*map(Text, header))
    grid.add_row(*(Rule(characters="─") for _ in header))
    for row in rows:
        grid.add_row(*map(Text, row))
    console = _plain(width)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def duration(seconds: float) -> str:
    """Return "0:07", "3:20" or "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class _Activity:
    """Something in progress: a line of the live display on a terminal, occasional lines elsewhere."""

    def __init__(self) -> None:
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Any:
        _under_way.append(self)
        if is_terminal(sys.stderr) or _display.live is not None:
            _display.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(stopped=error is not None)
        _under_way.remove(self)
        if _display.holds(self):
            _display.remove(self)
        if last := self.line():
            say(last)

    def line(self) -> str:
        """Return the state in one line."""
        raise NotImplementedError

    def renderable(self) -> RenderableType:
        """Return the line for the live display."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what is known of it, as plain values: see `under_way`."""
        raise NotImplementedError

    def _end(self, *, stopped: bool) -> None:
        raise NotImplementedError


_under_way: list[_Activity] = []


def under_way() -> list[dict[str, Any]]:
    """Return what is in progress in this process.

    Something that is counted: {label, done, total, unit, per_second, seconds_left, note}, the rate and the time None as long as
    they are not known. Anything else: {label}.
    """
    return [activity.state() for activity in list(_under_way)]


def facts(state: Mapping[str, Any]) -> list[str]:
    """Return a state of `under_way` in words: done of total, rate, time left, note."""
    if "total" not in state:
        return []
    parts = [f"{state['done']}/{state['total']} {state['unit']}"]
    if state["per_second"] is not None:
        parts.append(f"{_number(state['per_second'])} {state['unit']}/s")
    if state["seconds_left"] is not None:
        parts.append(f"{duration(state['seconds_left'])} left")
    return [*parts, *([state["note"]] if state["note"] else [])]


class Progress(_Activity):
    """Progress of `label` to a `total` number of `unit`s.

    `with Progress("sampling", 400, "samples") as progress: progress.update(120, "miniature:ab12 neutral")`
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        super().__init__()
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._note = ""
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Progress:
        super().__enter__()
        if not _display.holds(self):
            say(self.line())
        return self

    def update(self, done: int, note: str = "") -> None:
        """Set how many are done. note: what is being worked on."""
        now = time.monotonic()
        if done < self.done:
            # Something is done again; the rate up to here would say nothing about the rest.
            self._first = None
        self.done, self._note = done, note
        if done and self._first is None:
            self._first = now, done
        if not _display.holds(self) and now - self._printed >= LINE_SECONDS:
            self._printed = now
            say(self.line())

    def line(self) -> str:
        """Return "training 3/8 trials · 0.4 trials/s · 0:12 left · baseline seed 1"."""
        return f"{self.label} {' · '.join(self._facts())}"

    def renderable(self) -> RenderableType:
        """Return label, bar and facts, without the bar if the words need its room."""
        from rich.progress_bar import ProgressBar

        bar = ProgressBar(total=max(1, self.total), completed=self.done, width=BAR_COLUMNS)
        return _one_line(self.label, bar, " · ".join(self._facts()))

    def state(self) -> dict[str, Any]:
        """Return what is known of it; see `under_way`.

        The rate counts from the first unit that was done, since what comes before it (starting processes, loading a model)
        happens once; so there is no rate before the second.
        """
        rate = left = None
        if self._first is not None and self.done > self._first[1]:
            rate = (self.done - self._first[1]) / max(1e-9, time.monotonic() - self._first[0])
            left = max(0, self.total - self.done) / rate
        known = {"label": self.label, "done": self.done, "total": self.total, "unit": self.unit}
        return {**known, "per_second": rate, "seconds_left": left, "note": self._note}

    def _facts(self) -> list[str]:
        """Return done of total, rate, and time left or taken."""
        if not self.done or self.done < self.total:
            return facts(self.state())
        elapsed = max(1e-9, time.monotonic() - self._started)
        parts = [f"{self.done}/{self.total} {self.unit}", f"{_number(self.done / elapsed)} {self.unit}/s"]
        return [*parts, f"took {duration(elapsed)}", *([self._note] if self._note else [])]

    def _end(self, *, stopped: bool) -> None:
        self._note = "stopped" if stopped else ""


class Status(_Activity):
    """Progress that cannot be counted, such as the start of an engine.

    On a terminal each note replaces the one before and the last one stays; elsewhere each is a line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._note = self._last = ""

    def __enter__(self) -> Status:
        super().__enter__()
        return self

    def note(self, text: str) -> None:
        """Set what is in progress now."""
        self._note = self._last = text
        if not _display.holds(self):
            say(text)
            self._note = ""

    def line(self) -> str:
        """Return the last note if it was not printed yet."""
        return self._note

    def state(self) -> dict[str, Any]:
        """Return the last note; see `under_way`."""
        return {"label": self._last}

    def renderable(self) -> RenderableType:
        """Return the note with the time since the start."""
        return _one_line(self._note, None, duration(time.monotonic() - self._started))

    def _end(self, *, stopped: bool) -> None:
        if stopped:
            self._note = ""


class _Display:
    """The one live display: a line for each activity, of whichever thread, below what is printed meanwhile."""

    def __init__(self) -> None:
        self.live: Live | None = None
        self._activities: list[_Activity] = []
        self._lock = threading.RLock()

    def holds(self, activity: _Activity) -> bool:
        return activity in self._activities

    def add(self, activity: _Activity) -> None:
        from rich.live import Live

        with self._lock:
            self._activities.append(activity)
            if self.live is None:
                # Transient: an activity that ends prints its last line above.
                self.live = Live(
                    get_renderable=self._lines, console=_console(sys.stderr), refresh_per_second=5, transient=True
                )
                self.live.start(refresh=True)

    def remove(self, activity: _Activity) -> None:
        with self._lock:
            self._activities.remove(activity)
            if self.live is not None and not self._activities:
                self.live.stop()
                self.live = None

    def _lines(self) -> RenderableType:
        from rich.console import Group

        return Group(*(activity.renderable() for activity in list(self._activities)))


_display = _Display()


def _one_line(label: str, bar: RenderableType | None, facts: str) -> RenderableType:
    from rich.table import Column, Table
    from rich.text import Text

    width = _display.live.console.width if _display.live is not None else 80
    has_room = bar is not None and len(label) + len(facts) + BAR_COLUMNS + 4 < width
    cells = [Text(label), *([bar] if has_room and bar is not None else []), Text(facts)]
    grid = Table.grid(*(Column(no_wrap=True, overflow="ellipsis") for _ in cells), padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_row(*cells)
    return grid


def _console(out: TextIO) -> Console:
    """Return a console on `out` that styles words by `_HIGHLIGHTS` alone, and takes brackets as text, not markup."""
    from rich.console import Console
    from rich.highlighter import RegexHighlighter
    from rich.theme import Theme

    class Words(RegexHighlighter):
        base_style = "inoc."
        highlights: ClassVar = list(_HIGHLIGHTS)

    theme = Theme({f"inoc.{name}": style for name, style in _STYLES.items()})
    return Console(file=out, theme=theme, highlighter=Words(), markup=False, emoji=False)


def _plain(width: int) -> Console:
    import io

    from rich.console import Console

    return Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
