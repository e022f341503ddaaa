"""A command is stopped by the first signal where nothing is lost, and ended at once by the second, or when it does not end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import indent

import pytest

from inoc_ray.stopping import KEPT

HEAD = """
import sys, time
from inoc_ray import stopping
stopping.GRACE_SECONDS = {grace}
def end(message):
    "In one piece: two threads say something."
    sys.stderr.write(message + "\\n"); sys.stderr.flush()
def ready():
    print("ready", flush=True)
def stuck():
    "A call in which the main thread sees no signal: a lock that it waits for holds itself."
    import ctypes
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(256)
    libc.pthread_mutex_init(mutex, None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""
"""The beginning of each program."""
FOREGROUND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""These tests, too, may run in the background of a shell, which has the signal ignored by all that they start."""
TAIL = """
except KeyboardInterrupt:
    end(stopping.message())
    sys.exit(stopping.exit_code())
"""


@contextmanager
def program(body: str, grace: float = 9.0) -> Iterator[subprocess.Popen[str]]:
    """A program that stops as `body` says, from the time on when it is ready."""
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    source = f"{FOREGROUND}\n{HEAD.format(grace=grace)}\ntry:\n    with stopping.stoppable(end):\n{lines}\n{TAIL}"
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("signum", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_the_first_signal_ends_the_command_with_its_code_and_says_what_is_kept(signum: int, code: int, name: str):
    with program("stopping.keep_in_words('kept: 3 of 4', 'while training')\nready(); time.sleep(60)") as process:
        process.send_signal(signum)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == code
    assert said == f"stopped by {name} while training; kept: 3 of 4.\n"


def test_a_block_that_is_not_to_be_broken_off_comes_to_its_end_first():
    body = """
with stopping.deferred():
    with stopping.deferred():
        ready(); time.sleep(0.5)
    end("came to its end")
end("went on")
"""
    with program(body) as process:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 143
    assert "came to its end" in said
    assert "went on" not in said


LOST = """
class Thing:
    def __del__(self):
        ready(); time.sleep(60)
thing = Thing(); del thing
"""
"""The exception of the first signal is lost in a callback."""


@pytest.mark.parametrize(
    ("begins", "second"), [("ready()", signal.SIGTERM), (LOST, signal.SIGINT)], ids=["first raised", "first lost"]
)
def test_the_second_signal_ends_it_at_once_whatever_it_does(begins: str, second: int):
    body = indent(f"{begins}\ntime.sleep(60)", "    ")
    with program(f"try:\n{body}\nfinally:\n    stuck()") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(second)
        said = process.communicate(timeout=3)[1]
    assert process.returncode == 130
    assert said.endswith("The second signal ended it at once.\n")


def test_two_copies_of_one_signal_are_one():
    with program("try:\n    ready(); time.sleep(60)\nfinally:\n    time.sleep(2)\n    end('cleaned up')") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 130
    assert said.startswith("stopping … (a second signal ends it at once)\ncleaned up\n")


def test_a_command_whose_main_thread_sees_no_signal_is_broken_off_in_time():
    with program("ready(); stuck()", grace=1.0) as process:
        time.sleep(0.7)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 143
    assert time.monotonic() - began < 3
    assert "did not end within 1 s and was broken off" in said


def test_a_stop_that_a_library_swallowed_is_seen_at_the_next_check():
    body = """
try:
    ready(); time.sleep(60)
except BaseException:
    end("went on")
stopping.check()
end("never")
"""
    with program(body) as process:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 143
    assert "went on" in said
    assert "never" not in said


CALLBACKS = {
    "finalizer": "class Thing:\n    __del__ = callback\nthing = Thing(); del thing",
    "weak reference": "import weakref\nthing = set(); ref = weakref.ref(thing, callback); del thing",
    "garbage collector": "import gc\ngc.callbacks.append(callback); gc.collect()",
    "ctypes": "import ctypes\nctypes.CFUNCTYPE(None)(callback)()",
}
"""From these Python lets no exception out."""


@pytest.mark.parametrize("deferred", [False, True], ids=["at once", "deferred"])
@pytest.mark.parametrize("calls", CALLBACKS.values(), ids=list(CALLBACKS))
def test_a_stop_that_comes_in_a_callback_is_raised_behind_it(calls: str, deferred: bool):
    block = ""
    if deferred:
        block = "with stopping.deferred():\n    time.sleep(0.6); end('a block')"
    body = f"""
import gc, threading
gc.disable()
done = []
def callback(*_):
    if not done:
        done.append(1); ready(); time.sleep(60); end("not broken off")
{calls}
{block}
threading.Event().wait(60)
"""
    with program(body) as process:
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 143
    assert time.monotonic() - began < 5
    assert "a block" in said or not deferred
    assert said.endswith(f"stopped by SIGTERM; {KEPT}.\n")
    for never in ("not broken off", "Traceback", "Exception ignored", "ended it at once", "did not end"):
        assert never not in said


LOSES = """
import os, signal, threading
class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)
"""
"""What has a stop come, and its exception lost, at a known moment."""
ONCE_MORE = {
    "a check comes first": """
try:
    thing = Thing(); del thing
    stopping.check()
finally:
    time.sleep(0.3); end("cleaned up")
""",
    "other threads are busy": """
def busy():
    until = time.monotonic() + 0.8
    while time.monotonic() < until:
        pass
for _ in range(4):
    threading.Thread(target=busy, daemon=True).start()
try:
    thing = Thing(); del thing
    time.sleep(60)
finally:
    time.sleep(0.3); end("cleaned up")
""",
    "a check in another thread is lost": """
class Checks:
    def __del__(self):
        stopping.check()
def work():
    time.sleep(0.3); checks = Checks(); del checks
try:
    threading.Thread(target=work, daemon=True).start()
    thing = Thing(); del thing
    time.sleep(60)
finally:
    time.sleep(0.6); end("cleaned up")
""",
    "another handler stands there for a moment": """
ours = signal.getsignal(signal.SIGTERM)
try:
    thing = Thing(); signal.signal(signal.SIGTERM, ours); del thing
    signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(0.3); stopping.install()
    time.sleep(60)
finally:
    time.sleep(0.3); end("cleaned up")
""",
}


@pytest.mark.parametrize("body", ONCE_MORE.values(), ids=list(ONCE_MORE))
def test_what_was_lost_is_raised_once_more_and_breaks_off_no_clean_up(body: str):
    with program(f"{LOSES}\nready()\n{body}") as process:
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 143, said
    assert "cleaned up" in said
    assert said.endswith(f"stopped by SIGTERM; {KEPT}.\n")
    assert "did not end" not in said


def test_nothing_is_raised_behind_the_end_of_what_may_be_stopped():
    source = f"""{FOREGROUND}
{HEAD.format(grace=9)}
{LOSES}
with stopping.stoppable(end):
    thing = Thing(); del thing
end("the result"); time.sleep(0.5); end("the end")
"""
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=10, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "the result" in ended.stderr
    assert "the end" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_handlers_that_a_library_puts_in_their_place_are_put_back():
    body = """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
stopping.install()
ready(); time.sleep(60)
"""
    with program(body) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 143


def test_a_command_in_the_background_of_a_script_goes_on_ignoring_ctrl_c():
    source = f"{HEAD.format(grace=9)}\nwith stopping.stoppable(end):\n    ready(); time.sleep(0.5)\nprint('done')"
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "done\n"


def test_a_command_that_was_not_stopped_leaves_the_handlers_as_they_were():
    from inoc_ray import stopping

    before = [signal.getsignal(signum) for signum in stopping.SIGNALS]
    with stopping.stoppable(print):
        assert [signal.getsignal(signum) for signum in stopping.SIGNALS] != before
    assert [signal.getsignal(signum) for signum in stopping.SIGNALS] == before
    assert not stopping.requested()


def test_in_a_job_of_ray_there_is_only_the_time_that_ray_gives(monkeypatch: pytest.MonkeyPatch):
    from inoc_ray import stopping

    alone = stopping.seconds_left()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert stopping.seconds_left() == 2.5
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "5")
    assert stopping.seconds_left() == 4.5
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "600")
    assert stopping.seconds_left() == alone == 8.5
