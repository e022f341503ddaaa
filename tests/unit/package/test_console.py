"""One live display on a terminal of any width, plain lines elsewhere, and colours that say nothing of their own."""

from __future__ import annotations

import io
import re
import time

import pytest
from terminal import run_on_terminal

from inoc_ray.console import Progress, Status, align, show, table

PROGRAM = """
import time
from inoc_ray.console import Progress, Status, say
with Status() as waiting:
    waiting.note("serve: waiting for the replica")
    time.sleep(0.5)
    waiting.note("serve: miniature answers")
with (
    Progress("sampling (a judge with quite a long name of its own)", 4000, "samples") as progress,
    Progress("judging", 10, "judgments") as second,
):
    for done in range(0, 4001, 800):
        progress.update(done, "miniature/spanish_caps · Qwen2.5-7B-Instruct · specific_spanish seed 1")
        second.update(done // 800)
        if done == 1600:
            say("a message in between")
        time.sleep(0.25)
"""


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_what_is_under_way_is_one_row_each_below_what_is_said(columns: int) -> None:
    printed = run_on_terminal(PROGRAM, columns)
    frames = [
        rows[-2:] for rows in printed.seen if len(rows) > 1 and rows[-2].startswith("sampling") and rows[-1][:2] == "ju"
    ]
    assert len(frames) >= 3
    assert all(len(row) <= columns for frame in frames for row in frame)
    assert any(re.search(r"\d+/10 judgments", lower) for _, lower in frames)
    assert any("━" in lower for _, lower in frames) == (columns > 40)
    # Each ends as one line that stays; nothing of the display is left between them.
    text = "".join(row.ljust(columns) if len(row) == columns else row + "\n" for row in printed.screen)
    patterns = [
        "serve: miniature answers",
        "a message in between",
        "judging 5/10 judgments · .*",
        r"sampling \(a judge.*4000/4000 samples · .* samples/s · took 0:0[12]",
    ]
    assert re.fullmatch(r"\s+".join(patterns), re.sub(r"\s+", " ", text).strip()), text


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_left_out_where_nobody_wants_them(environment: dict[str, str], coloured: bool) -> None:
    program = "import sys; from inoc_ray.console import show; show('a  .95 [.84, 1.04] *', sys.stdout)"
    printed = run_on_terminal(program, 80, environment)
    assert bool(printed.colours) == coloured
    assert printed.screen == ["a  .95 [.84, 1.04] *"]


def test_a_terminal_without_commands_gets_plain_lines() -> None:
    printed = run_on_terminal(PROGRAM, 80, {"TERM": "dumb"})
    assert "\x1b" not in printed.raw
    assert printed.raw.startswith("serve: waiting for the replica\r\nserve: miniature answers\r\nsampling ")


def test_text_is_never_taken_for_markup() -> None:
    text = "[bold]a[/bold] :smile: [.84, 1.04] [link=x]"
    printed = run_on_terminal(f"import sys; from inoc_ray.console import show; show({text!r}, sys.stdout)", 80)
    assert printed.screen == [text]
    elsewhere = io.StringIO()
    show(text, elsewhere)
    assert elsewhere.getvalue() == text + "\n"


def test_the_rate_counts_from_the_first_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("training", 480, "steps")
    now = 60.0
    progress.update(1)
    assert "left" not in progress.line()
    now = 61.0
    progress.update(11)
    assert "10 steps/s · 0:47 left" in progress.line()
    now = 110.0
    progress.update(480)
    assert "took 1:50" in progress.line()


def test_what_is_done_again_does_not_spoil_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("training", 66, "steps")
    progress.update(1)
    now = 66.0
    progress.update(66)
    now = 100.0
    progress.update(1)
    assert progress.line() == "training 1/66 steps"
    now = 110.0
    progress.update(11)
    assert progress.line() == "training 11/66 steps · 1 steps/s · 0:55 left"


def test_elsewhere_a_line_is_printed_whole(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("sampling", 10, "samples") as progress:
        progress.update(10, "x" * 200)
    with Status() as waiting:
        waiting.note("serve: waiting")
        waiting.note("serve: ready")
    lines = capfd.readouterr().err.splitlines()
    assert [line.startswith("sampling ") for line in lines] == [True, True, False, False]
    assert lines[2:] == ["serve: waiting", "serve: ready"]


def test_what_stops_early_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    def fail_at_four() -> None:
        with Progress("sampling", 10, "samples") as progress:
            progress.update(4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_at_four()
    assert capfd.readouterr().err.splitlines()[-1] == "sampling 4/10 samples · stopped"


def test_a_table_that_is_too_wide_is_folded_but_for_what_is_copied() -> None:
    rows = [["0123456789abcdef", "word " * 30, "x" * 50], ["fedcba9876543210", "short", ""]]
    wide = table(rows, ["trial", "text", "log"])
    assert wide.splitlines()[0].split() == ["trial", "text", "log"]
    assert len(wide.splitlines()) == 4
    assert table(rows, ["trial", "text", "log"], 300) == wide
    folded = table(rows, ["trial", "text", "log"], 60).splitlines()
    assert max(map(len, folded)) <= 60
    assert [line.split()[0] for line in folded if line[:1] not in (" ", "")][2:] == [
        "0123456789abcdef",
        "fedcba9876543210",
    ]
    assert "".join(folded).count("word") == 30
    assert "".join(folded).count("x") == 50 + len("text") - 3


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert align([["a", "b", "c"], ["long", "", "d"]]) == ["a     b  c", "long     d"]
