"""What people see: text with colour, tables that fit the terminal, and one live display of all that is under way.

Where there is no terminal (a pipe, a file, a log) the same words come as plain lines. `NO_COLOR` takes the colours away.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LINE_SECONDS = 5.0
"""Where there is no terminal, at most one line of progress in this time."""
BAR_COLUMNS = 24
WHOLE_COLUMNS = 16
"""A column of a table that needs no more is never folded: ids and numbers are read, and copied, as a whole."""
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
"""What a colour is for. It only repeats what the words say, so that nothing is lost without it."""


def show(text: str, out: TextIO) -> None:
    """Print `text` to `out`: as it is, and on a terminal in colours."""
    if not is_terminal(out):
        print(text, file=out, flush=True)
        return
    _console(out).print(text, soft_wrap=True)


def say(message: str) -> None:
    """Print a message for people on standard error, above the live display if there is one; results are for standard output."""
    if _display.live is not None:
        _display.live.console.print(message, soft_wrap=True)
    else:
        show(message, sys.stderr)


def is_terminal(out: TextIO) -> bool:
    """Return whether a person may be looking at `out`."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def width_of(out: TextIO) -> int | None:
    """Return the columns of the terminal behind `out` at this moment; None where there is none."""
    return _console(out).width if is_terminal(out) else None


def align(lines: Sequence[Sequence[str]], widths: Sequence[int] | None = None) -> list[str]:
    """Return the lines with their cells in columns, two spaces apart; a column is as wide as its longest cell."""
    widths = widths or [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def table(rows: Sequence[Sequence[str]], header: Sequence[str], width: int | None = None) -> str:
    """Return a table as text that looks the same in a terminal, a log and a file.

    Where it is wider than `width` columns of the terminal, the cells of its wide columns are folded.
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


class _Shown:
    """Something under way: a line of the live display on a terminal, lines now and then elsewhere."""

    def __init__(self) -> None:
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Any:
        if is_terminal(sys.stderr) or _display.live is not None:
            _display.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(stopped=error is not None)
        if _display.holds(self):
            _display.remove(self)
        if last := self.line():
            say(last)

    def line(self) -> str:
        """Return what is going on, in one line."""
        raise NotImplementedError

    def renderable(self) -> RenderableType:
        """Return the line for the live display."""
        raise NotImplementedError

    def _end(self, *, stopped: bool) -> None:
        raise NotImplementedError


class Progress(_Shown):
    """Counts up to `total` `unit`s of `label`.

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
        """Set how many are done; `note` says what is being worked on."""
        self.done, self._note = done, note
        now = time.monotonic()
        if done and self._first is None:
            self._first = now, done
        if not _display.holds(self) and now - self._printed >= LINE_SECONDS:
            self._printed = now
            say(self.line())

    def line(self) -> str:
        """Return "training 3/8 trials · 0.4 trials/s · 0:12 left · baseline seed 1"."""
        return f"{self.label} {' · '.join(self._facts())}"

    def renderable(self) -> RenderableType:
        """Return label, bar and facts: the bar is left out where it would leave no room for the words."""
        from rich.progress_bar import ProgressBar

        bar = ProgressBar(total=max(1, self.total), completed=self.done, width=BAR_COLUMNS)
        return _one_line(self.label, bar, " · ".join(self._facts()))

    def _facts(self) -> list[str]:
        """Return done of total, rate, and time left or taken.

        The rate counts from the first that was done on, since what comes before it (processes that start, a model that is
        loaded) comes once; so there is none before the second.
        """
        now = time.monotonic()
        parts = [f"{self.done}/{self.total} {self.unit}"]
        if self.done and self.done >= self.total:
            elapsed = max(1e-9, now - self._started)
            parts += [f"{_number(self.done / elapsed)} {self.unit}/s", f"took {duration(elapsed)}"]
        elif self._first is not None and self.done > self._first[1]:
            rate = (self.done - self._first[1]) / max(1e-9, now - self._first[0])
            parts += [f"{_number(rate)} {self.unit}/s", f"{duration((self.total - self.done) / rate)} left"]
        if self._note:
            parts.append(self._note)
        return parts

    def _end(self, *, stopped: bool) -> None:
        self._note = "stopped" if stopped else ""


class Status(_Shown):
    """Something that takes a while and cannot be counted, such as an engine that starts; `note` says what it is at.

    On a terminal the notes replace each other and the last one stays; elsewhere each is a line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._note = ""

    def __enter__(self) -> Status:
        super().__enter__()
        return self

    def note(self, text: str) -> None:
        """Say what is waited for now."""
        self._note = text
        if not _display.holds(self):
            say(text)
            self._note = ""

    def line(self) -> str:
        """Return the last note that was not printed yet."""
        return self._note

    def renderable(self) -> RenderableType:
        """Return the note with the time since the start."""
        return _one_line(self._note, None, duration(time.monotonic() - self._started))

    def _end(self, *, stopped: bool) -> None:
        if stopped:
            self._note = ""


class _Display:
    """The one live display: a line for everything that is under way, below what is printed meanwhile."""

    def __init__(self) -> None:
        self.live: Live | None = None
        self._shown: list[_Shown] = []

    def holds(self, shown: _Shown) -> bool:
        return shown in self._shown

    def add(self, shown: _Shown) -> None:
        from rich.live import Live

        self._shown.append(shown)
        if self.live is None:
            # Gone at the end: what is done leaves its last line above.
            self.live = Live(
                get_renderable=self._lines, console=_console(sys.stderr), refresh_per_second=5, transient=True
            )
            self.live.start(refresh=True)

    def remove(self, shown: _Shown) -> None:
        self._shown.remove(shown)
        if self.live is not None and not self._shown:
            self.live.stop()
            self.live = None

    def _lines(self) -> RenderableType:
        from rich.console import Group

        return Group(*(shown.renderable() for shown in self._shown))


_display = _Display()


def _one_line(label: str, bar: RenderableType | None, facts: str) -> RenderableType:
    from rich.table import Column, Table
    from rich.text import Text

    width = _display.live.console.width if _display.live is not None else 80
    roomy = bar is not None and len(label) + len(facts) + BAR_COLUMNS + 4 < width
    cells = [Text(label), *([bar] if roomy and bar is not None else []), Text(facts)]
    grid = Table.grid(*(Column(no_wrap=True, overflow="ellipsis") for _ in cells), padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_row(*cells)
    return grid


def _console(out: TextIO) -> Console:
    """Return a console on `out` that marks words by `_HIGHLIGHTS` and nothing else: what stands in brackets is no markup."""
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
