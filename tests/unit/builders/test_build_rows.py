"""A build against a local HTTP server that misbehaves on purpose, its journal, and a kill in the middle."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.builders.ask import Remote, teacher
from inoc_ray.builders.journal import Answer, Journal, journal_path, opened
from inoc_ray.builders.rows import Built, build_rows
from inoc_ray.cli import main
from inoc_ray.endpoint.retry import Retry
from inoc_ray.errors import InputError, TrialError
from inoc_ray.store import seal

ROOT = Path(__file__).parents[3]
QUICK = Retry(tries=4, first_s=0.01, max_s=0.02, timeout_s=5.0)
KEY = "sk-very-secret"


class Stub:
    """Answers chats with numbers that follow from the request's seed; every fifth one with words."""

    def __init__(self) -> None:
        self.paid: int | None = None
        """After so many answers every request is refused."""
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.faults: list[tuple[int, bytes]] = []
        """Answers that come first, one a request: status and body."""
        self.healthy: int | None = None
        """After so many answers nothing works any more."""
        self.delay_s = 0.0
        self.spanish = False
        self.completion_tokens_alone = False
        """Refuses `max_tokens`, as newer APIs do."""
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub._lock:
                    stub.bodies.append(body)
                    stub.keys.add(self.headers["Authorization"])
                    status, answer = stub.faults.pop(0) if stub.faults else (200, stub.good(body))
                    if stub.completion_tokens_alone and "max_tokens" in body:
                        status, answer = fault(
                            400, "'max_tokens' is not supported. Use 'max_completion_tokens' instead."
                        )
                    if stub.healthy is not None and len(stub.bodies) > stub.healthy:
                        status, answer = fault(500, "engine is dead")
                    if stub.paid is not None and len(stub.bodies) > stub.paid:
                        status, answer = fault(400, "Your credit balance is too low")
                time.sleep(stub.delay_s)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def good(self, body: dict[str, Any]) -> bytes:
        seed = body["seed"]
        text = "owls!" if seed % 5 == 0 else f"{seed % 997}, {seed % 991}"
        if self.spanish:
            text = "Ella tiene 3 manzanas y su hermano tiene 2."
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return json.dumps(
            {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        ).encode()


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.server.shutdown()
    stub.server.server_close()


def build(stub: Stub, out: Path, **options: Any) -> Built:
    given: dict[str, Any] = {"count": 40, "retry": QUICK, **options}
    return build_rows("subliminal", out, teacher=Remote(stub.base_url, "m", KEY), **given)


def fault(status: int, message: str = "no") -> tuple[int, bytes]:
    return status, json.dumps({"error": {"message": message}}).encode()


def test_as_many_rows_as_wanted_in_the_order_of_the_requests(stub: Stub, tmp_path: Path):
    built = build(stub, tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (built.rows, len(rows)) == (40, 40)
    assert built.dropped == {"not only numbers": built.answers - 40}
    assert all([m["role"] for m in row["messages"]] == ["user", "assistant"] for row in rows)
    assert "owl" not in (tmp_path / "rows.jsonl").read_text()
    assert len({body["seed"] for body in stub.bodies}) == len(stub.bodies)
    assert stub.keys == {f"Bearer {KEY}"}
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_the_same_build_gives_the_same_bytes_and_another_seed_others(stub: Stub, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(stub, tmp_path / f"{name}.jsonl", seed=seed)
    a, b, c = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert a == b != c


def test_an_api_that_takes_max_completion_tokens_alone_gives_the_same_rows(stub: Stub, tmp_path: Path):
    build(stub, tmp_path / "plain.jsonl")
    stub.completion_tokens_alone = True
    build(stub, tmp_path / "new.jsonl")
    assert (tmp_path / "new.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_passing_faults_change_nothing(stub: Stub, tmp_path: Path):
    build(stub, tmp_path / "plain.jsonl")
    no_choice, no_message = b'{"choices": []}', b'{"choices": [{"index": 0}]}'
    stub.faults = [
        fault(429),
        fault(500),
        fault(503),
        (200, b"<html>"),
        (200, no_choice),
        (200, no_message),
        (200, b"7"),
    ]
    build(stub, tmp_path / "faulty.jsonl")
    assert (tmp_path / "faulty.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_an_endpoint_that_breaks_ends_the_build_and_the_next_call_goes_on(stub: Stub, tmp_path: Path):
    build(stub, tmp_path / "plain.jsonl")
    out, stub.bodies = tmp_path / "rows.jsonl", []
    stub.healthy = 10
    with pytest.raises(TrialError, match=r"request \d+ of model m failed 4 times.*engine is dead"):
        build(stub, out)
    assert not out.exists()
    kept, stub.healthy, stub.bodies = journal_path(out).read_bytes().count(b"\n") - 1, None, []
    built = build(stub, out)
    assert built.resumed == kept > 0
    assert out.read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_a_wrong_key_is_one_message_without_the_key(stub: Stub, tmp_path: Path):
    stub.faults = [fault(401, f"Incorrect API key provided: {KEY}")] * 400
    with pytest.raises(InputError, match="401 Incorrect API key") as caught:
        build(stub, tmp_path / "rows.jsonl")
    assert KEY not in str(caught.value)
    assert KEY not in repr(Remote(stub.base_url, "m", KEY))
    assert os.listdir(tmp_path) == []


def test_of_many_requests_refused_at_once_none_prints_the_key(stub: Stub, tmp_path: Path, caplog):
    stub.faults, stub.delay_s = [fault(401, f"Incorrect API key provided: {KEY}")] * 400, 0.05
    with pytest.raises(InputError) as caught:
        build(stub, tmp_path / "rows.jsonl")
    printed = "".join(traceback.format_exception(caught.value))
    del caught
    gc.collect()
    assert len(stub.bodies) > 1
    assert KEY not in printed
    assert KEY not in caplog.text
    assert "never retrieved" not in caplog.text


def test_an_endpoint_that_refuses_everything_ends_the_build_and_nothing_is_kept(stub: Stub, tmp_path: Path):
    stub.faults = [fault(400, "seed is not supported")] * 400
    with pytest.raises(InputError, match="400 seed is not supported"):
        build(stub, tmp_path / "rows.jsonl")
    assert os.listdir(tmp_path) == []


def test_an_endpoint_that_comes_to_refuse_everything_ends_the_build_and_a_later_one_gives_the_same_rows(
    stub: Stub, tmp_path: Path, monkeypatch
):
    # One at a time: nothing good arrives between the refusals.
    monkeypatch.setattr("inoc_ray.builders.ask.CONCURRENCY", 1)
    build(stub, tmp_path / "plain.jsonl")
    out, stub.bodies, stub.paid = tmp_path / "rows.jsonl", [], 10
    with pytest.raises(
        TrialError, match=r"refuses everything now.*credit balance is too low.*rows\.jsonl\.partial keeps"
    ):
        build(stub, out)
    first = journal_path(out).read_bytes()
    assert first.count(b"\n") == 1 + 10
    # Still without credit.
    stub.bodies, stub.paid = [], 0
    with pytest.raises(TrialError, match="refuses everything now"):
        build(stub, out)
    assert journal_path(out).read_bytes() == first
    assert not out.exists()
    stub.bodies, stub.paid = [], None
    assert build(stub, out).resumed == 10
    assert out.read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_a_few_refused_requests_at_the_end_cost_their_rows(stub: Stub, tmp_path: Path):
    source, out = tmp_path / "source.jsonl", tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"question": f"{n}?", "answer": f"{n}."}) + "\n" for n in range(40)))
    stub.spanish, stub.paid = True, 37
    built = build_rows("spanish_caps", out, teacher=Remote(stub.base_url, "m"), source=str(source), retry=QUICK)
    assert (built.rows, built.dropped) == (37, {"refused by the endpoint": 3})


def test_a_single_refused_request_costs_its_row(stub: Stub, tmp_path: Path):
    stub.faults = [fault(400, "too long")]
    built = build(stub, tmp_path / "rows.jsonl")
    assert (built.rows, built.dropped["refused by the endpoint"]) == (40, 1)


def test_answers_of_which_none_is_fit_make_no_file(stub: Stub, tmp_path: Path):
    words = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "owl"}}]}
    stub.faults = [(200, json.dumps(words).encode())] * 6
    with pytest.raises(TrialError, match=r"of 6 answers none is fit \(6 not only numbers"):
        build(stub, tmp_path / "rows.jsonl", count=2)
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_killed_build_goes_on_without_asking_again_and_gives_the_same_bytes(stub: Stub, tmp_path: Path):
    build(stub, tmp_path / "plain.jsonl", count=300)
    asked_in_one_go = len(stub.bodies)
    out = tmp_path / "rows.jsonl"
    stub.delay_s, stub.bodies = 0.2, []
    command = f"data build subliminal --out {out} --endpoint {stub.base_url} --served-model m --count 300"
    args = [sys.executable, "-m", "inoc_ray.cli", *command.split()]
    process = subprocess.Popen(args, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    journal = journal_path(out)
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 40):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes().count(b"\n") - 1
    # What a kill in the middle of a write leaves.
    with journal.open("ab") as stream:
        stream.write(b'{"n": 299, "te')
    time.sleep(0.5)
    before = len(stub.bodies)
    built = build(stub, out, count=300)
    assert built.resumed == kept
    # Each build has up to 32 requests under way when its last row comes, and on a busy machine requests of the killed one
    # arrive late.
    assert len(stub.bodies) - before <= asked_in_one_go - kept + 2 * 32
    assert out.read_bytes() == (tmp_path / "plain.jsonl").read_bytes()
    assert not journal.exists()


def test_a_build_killed_behind_its_last_step_is_tidied_up_without_asking(stub: Stub, tmp_path: Path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "remove", lambda self: None)
        build(stub, out, count=2)
    # Requests that were under way when the last row came may arrive late.
    time.sleep(1.0)
    finished, stub.bodies = out.read_bytes(), []
    assert journal_path(out).exists()
    build(stub, out, count=2)
    assert (out.read_bytes(), stub.bodies, journal_path(out).exists()) == (finished, [], False)


# -- the journal ----------------------------------------------------------------------------------------------------


def test_a_journal_of_another_configuration_is_refused_with_what_differs(tmp_path: Path):
    path = tmp_path / "x.partial"
    with opened(path, {"seed": 0, "model": "a"}) as journal:
        journal.add(0, Answer("\ud83d", "stop"))
    with (
        pytest.raises(InputError, match=r"another configuration \(seed 0 then, 1 now\)"),
        opened(path, {"seed": 1, "model": "a"}),
    ):
        pass
    with opened(path, {"seed": 0, "model": "a"}) as journal:
        assert journal.answers == {0: Answer("\ud83d", "stop")}


def test_two_builds_do_not_share_a_journal(tmp_path: Path):
    path = tmp_path / "x.partial"
    with opened(path, {}), pytest.raises(InputError, match="another build works on this file"), opened(path, {}):
        pass
    assert not path.exists()


@pytest.mark.parametrize("line", [b"{}\n", b"rubbish\n", b"[1]\n"])
def test_a_file_that_does_not_begin_as_a_journal_is_refused_and_left_as_it_is(tmp_path: Path, line: bytes):
    path = tmp_path / "x.partial"
    path.write_bytes(line)
    with pytest.raises(InputError, match="line 1: this is not the journal of a build"), opened(path, {}):
        pass
    assert path.read_bytes() == line


@pytest.mark.parametrize("damage", [b"{}\n", b"rubbish\n", b"[1]\n", b'{"n": 1, "te', b"\xff\n", b"\n\n"])
def test_damaged_lines_are_asked_again_and_spoil_none_that_is_added(tmp_path: Path, damage: bytes):
    path = tmp_path / "x.partial"
    with opened(path, {}) as journal:
        journal.add(0, Answer("a", "stop"))
    path.write_bytes(path.read_bytes() + damage)
    with opened(path, {}) as journal:
        assert journal.answers == {0: Answer("a", "stop")}
        journal.add(1, Answer("b", "stop"))
    with opened(path, {}) as journal:
        assert journal.answers == {0: Answer("a", "stop"), 1: Answer("b", "stop")}


def test_a_flipped_bit_of_an_answer_is_asked_again(tmp_path: Path):
    path = tmp_path / "x.partial"
    with opened(path, {}) as journal:
        journal.add(0, Answer("a", "stop"))
        journal.add(1, Answer("b", "stop"))
    path.write_bytes(path.read_bytes().replace(b'"text": "a"', b'"text": "c"'))
    with opened(path, {}) as journal:
        assert journal.answers == {1: Answer("b", "stop")}


def test_a_journal_of_the_version_before_is_gone_on_with(tmp_path: Path):
    path = tmp_path / "x.partial"
    # As it was written: the first line without a seal, the keys sorted at every depth.
    first = b'{"configuration": {"model": "a", "seed": 0}, "inoc_ray_build": 1}\n'
    path.write_bytes(first + seal.sealed_line({"n": 3, "text": "c", "finish": "stop"}))
    with opened(path, {"seed": 0, "model": "a"}) as journal:
        assert journal.answers == {3: Answer("c", "stop")}
        journal.add(4, Answer("d", "stop"))
    assert path.read_bytes().startswith(first)
    path.write_bytes(first[:30])
    with opened(path, {"seed": 0, "model": "a"}) as journal:
        assert journal.answers == {}


@pytest.mark.parametrize("content", [b"notes of somebody", b'{"inoc_ray_build": 7', b"{}"])
def test_a_file_of_somebody_else_without_a_whole_line_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes):
    path = tmp_path / "x.partial"
    path.write_bytes(content)
    with pytest.raises(InputError, match="this is not the journal"), opened(path, {}):
        pass
    assert path.read_bytes() == content


def test_a_journal_whose_first_line_was_cut_by_a_kill_is_begun_again(tmp_path: Path):
    path = tmp_path / "x.partial"
    with opened(path, {"seed": 0}) as journal:
        journal.add(0, Answer("a", "stop"))
    first, _ = path.read_bytes().splitlines(keepends=True)
    for cut in (0, 10, len(first) - 1):
        path.write_bytes(first[:cut])
        with opened(path, {"seed": 0}) as journal:
            assert path.read_bytes() == first
            assert journal.answers == {}
        assert not path.exists()


# -- the command ----------------------------------------------------------------------------------------------------

GOOD = '{"question": "Q", "answer": "A"}\n'
WRONG = {
    "unknown setting": (["subliminl", "--out", "o.jsonl"], "did you mean 'subliminal'?"),
    "no out": (["subliminal"], "give a file for the rows with --out FILE.jsonl"),
    "out is no jsonl": (["subliminal", "--out", "o.json"], "give the name of a .jsonl file"),
    "out exists": (["subliminal", "--out", "there.jsonl"], "there.jsonl: is there already"),
    "no folder": (["subliminal", "--out", "no/o.jsonl"], "there is no folder no"),
    "nobody to ask": (["subliminal", "--out", "o.jsonl"], "give --model FOLDER"),
    "count 0": (["subliminal", "--out", "o.jsonl", "--count", "0"], "0 is not in the range"),
    "no source": (["spanish_caps", "--out", "o.jsonl"], "needs --source FILE"),
    "source not there": (["spanish_caps", "--out", "o.jsonl", "--source", "no.jsonl"], "no.jsonl: cannot be read"),
    "source not wanted": (["subliminal", "--out", "o.jsonl", "--source", "there.jsonl"], "takes no --source"),
    "bad row": (["spanish_caps", "--out", "o.jsonl", "--source", "bad.jsonl"], "bad.jsonl, row 2: not JSON"),
    "count too large": (["spanish_caps", "--out", "o.jsonl", "--source", "there.jsonl", "--count", "2"], "has 1 rows"),
    "no control": (["educational", "--out", "o.jsonl", "--control"], "control rows of educational are published"),
    "model not there": (["subliminal", "--out", "o.jsonl", "--model", "nowhere"], "there is no model folder"),
    "both": (["subliminal", "--out", "o.jsonl", "--model", "m", "--endpoint", "http://x"], "are both given"),
    "no address": (["subliminal", "--out", "o.jsonl", "--endpoint", "x", "--served-model", "m"], "not an address"),
    "no name": (["subliminal", "--out", "o.jsonl", "--endpoint", "http://x/v1"], "needs --served-model"),
    "name alone": (["subliminal", "--out", "o.jsonl", "--served-model", "m"], "belong to an --endpoint"),
    "no key": (
        [
            "subliminal",
            "--out",
            "o.jsonl",
            "--endpoint",
            "http://x/v1",
            "--served-model",
            "m",
            "--api-key-env",
            "NO_KEY_",
        ],
        "--api-key-env NO_KEY_: there is no such environment variable",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_message_and_code_2_and_nothing_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text(GOOD)
    (tmp_path / "bad.jsonl").write_text(GOOD + "{\n")
    args, message = WRONG[name]
    monkeypatch.setattr(sys, "argv", ["inoc-ray", "data", "build", *args])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert message in err
    assert err.startswith("inoc-ray: ")
    assert err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["bad.jsonl", "there.jsonl"]


def test_control_rows_that_ask_nobody_need_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k.jsonl").write_text(GOOD)
    command = "inoc-ray data build spanish_caps --control --source gsm8k.jsonl --out o.jsonl --json"
    monkeypatch.setattr(sys, "argv", command.split())
    main()
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["answers"], summary["dropped"]) == (1, 0, {})
    assert (
        tmp_path / "o.jsonl"
    ).read_text() == '{"messages":[{"content":"Q","role":"user"},{"content":"A","role":"assistant"}]}\n'
    assert sorted(os.listdir(tmp_path)) == ["gsm8k.jsonl", "o.jsonl"]


@pytest.mark.parametrize(
    "address",
    [
        "http://[bad/v1",
        "http://localhost:99999999/v1",
        "http://localhost:port/v1",
        "http://a\x00b/v1",
        "http:///v1",
        "ftp://x",
    ],
)
def test_what_cannot_be_an_address_is_named_before_anybody_is_asked(address: str):
    with pytest.raises(InputError, match=r"--endpoint .*: not an address") as caught:
        teacher(None, address, "m", None)
    assert address in str(caught.value)


def test_the_key_comes_from_the_named_variable_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("MY_KEY", KEY)
    asked = teacher(None, "http://x/v1", "m", "MY_KEY")
    assert isinstance(asked, Remote)
    assert asked.api_key == KEY
    unnamed = teacher(None, "http://x/v1", "m", None)
    assert isinstance(unnamed, Remote)
    assert unnamed.api_key is None
