"""A bucket that fails: one message for each way before a run, a bounded wait during one, nothing taken for damage."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from object_store import KEY, SECRET, ObjectStore, Wire, object_store

from inoc_ray.errors import InputError, StorageError
from inoc_ray.store import connection
from inoc_ray.store.commit import write_trial
from inoc_ray.store.journal import Journal
from inoc_ray.store.lease import LeaseTaken
from inoc_ray.store.object_filesystem import ObjectFilesystem
from inoc_ray.store.objects import Bucket
from inoc_ray.store.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def address(line: Wire, s3_server: ObjectStore) -> str:
    return f"s3://{s3_server.new_bucket()}/runs"


def refusal(address: str) -> str:
    """What a command says that cannot begin."""
    with pytest.raises(InputError) as error:
        Store(address).check_writable()
    assert SECRET not in str(error.value)
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_bucket_that_is_not_there_is_said(line, s3_server):
    before = time.monotonic()
    assert refusal("s3://there-is-no-such/x") == (
        "storage: s3://there-is-no-such/x: there is no such bucket; create it or correct the address."
    )
    # Also by a command that only reads: it is no empty storage.
    with pytest.raises(StorageError, match="no such bucket"):
        Store("s3://there-is-no-such/y").trial_done("t")
    assert time.monotonic() - before < 10


def test_a_bucket_that_may_only_be_read_is_said_and_can_be_read(line, address):
    Store(address).study("s").write_text("x")
    line.refuse_writes = True
    assert "may not write" in refusal(address)
    store = Store(address)
    assert store.study("s").read_text() == "x"
    # Nobody may ask the time there by writing.
    assert store.holder("study-s") is None


def test_missing_credentials_are_said(line, address, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Nothing of a cloud answers here; on a machine of a cloud its role is asked.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    before = time.monotonic()
    assert "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(f"{address}/a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    assert "no credentials were found" in refusal(f"{address}/b")
    assert time.monotonic() - before < 30


def test_a_storage_without_conditional_writes_is_said(line, address):
    line.ignore_conditions = True
    assert "takes no notice of the conditions If-Match and If-None-Match" in refusal(address)


def test_an_address_where_nobody_answers_is_said_at_once(line, address):
    line.gone = True
    before = time.monotonic()
    message = refusal(address)
    assert f"{line.url.removeprefix('http://')} does not answer" in message
    assert time.monotonic() - before < 15


def test_a_storage_that_takes_connections_and_says_nothing_is_given_up(line, address, monkeypatch):
    monkeypatch.setattr(connection, "SILENT_SECONDS", 1)
    line.silent = True
    before = time.monotonic()
    assert "does not answer in time" in refusal(address)
    assert time.monotonic() - before < 15


def test_what_is_sent_slowly_arrives(line, address, monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "SILENT_SECONDS", 1)
    monkeypatch.setattr(connection, "WAIT_SECONDS", 0.0)
    filesystem = ObjectFilesystem(address)
    filesystem.write("x", b"")
    line.upload = 2 << 20
    line.requests.clear()
    data = os.urandom(5 << 20)
    assert filesystem.write_if("new", data, None)
    (tmp_path / "file").write_bytes(data)
    Bucket(address).put_file("file", tmp_path / "file")
    line.upload = 0
    assert filesystem.open("new").read() == filesystem.open("file").read() == data
    assert len([request for request in line.requests if request.startswith("PUT")]) == 2


def test_a_large_file_that_is_written_goes_in_parts(line, address, monkeypatch):
    monkeypatch.setattr("inoc_ray.store.objects._SINGLE_BYTES", 6 << 20)
    filesystem = ObjectFilesystem(address)
    with filesystem.append("x") as stream:
        for _ in range(2):
            stream.write(b"a")
            stream.flush()
    data = os.urandom(11 << 20)
    line.requests.clear()
    filesystem.write("x", data)
    assert [request for request in line.requests if "partNumber=3" in request]
    assert filesystem.open("x").read() == data
    assert sorted(filesystem.list("")) == ["x"]


STUDY = """
name: s
settings: [miniature/harmful_advice]
arms: [baseline]
recipes: {lora: {learning_rate: 1.0e-3, steps: 10}}
evaluation: {samples: 2}
"""


@pytest.mark.parametrize("command", ["plan", "status", "compare", "run", "evaluate", "report"])
@pytest.mark.parametrize("as_json", [False, True])
def test_every_command_says_in_a_line_that_the_storage_is_not_there(line, inoc_ray, tmp_path, command, as_json):
    (tmp_path / "study.yaml").write_text(f"{STUDY}storage: s3://there-is-no-such/x\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = inoc_ray(command, "study.yaml", *(["--json"] if as_json else []))
    message = "storage: s3://there-is-no-such/x: there is no such bucket; create it or correct the address."
    assert (code, err) == (2, f"inoc-ray: {message}\n")
    assert (json.loads(out) if as_json else out) == ({"error": message} if as_json else "")
    assert sorted(tmp_path.rglob("*")) == before


def test_who_may_only_read_plans_and_sees_the_state_and_is_refused_a_run(line, address, inoc_ray, tmp_path):
    (tmp_path / "study.yaml").write_text(f"{STUDY}storage: {address}\n")
    line.refuse_writes = True
    for command in ("plan", "status"):
        code, out, err = inoc_ray(command, "study.yaml")
        assert (code, err) == (0, ""), command
        assert "new" in out
    assert not [request for request in line.requests if not request.startswith(("GET", "HEAD"))]
    code, _, err = inoc_ray("run", "study.yaml")
    assert code == 2
    assert "these credentials may not write" in err


HANGS = """
import signal, sys
# A shell's background job ignores it, and so does what that starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
from inoc_ray.store.store import Store
try:
    Store(sys.argv[1]).trial_done("t")
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_a_command_that_waits_for_a_silent_storage_can_be_stopped(line, address):
    line.silent = True
    process = subprocess.Popen([sys.executable, "-c", HANGS, address], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not line.requests:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "stopped\n"
        assert time.monotonic() - before < 5
    finally:
        process.kill()
        process.wait()


def test_a_slow_storage_works(line, address):
    line.slow = 0.1
    store = Store(address)
    store.check_writable()
    with store.lease("study-s") as lease:
        lease.check()


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (403, "RequestTimeTooSkewed", "this machine's clock differs"),
        (400, "ExpiredToken", "the credentials have expired"),
        (403, "InvalidAccessKeyId", "the credentials are not accepted"),
        (403, "SignatureDoesNotMatch", "the credentials are not accepted"),
        (301, "PermanentRedirect", "set AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", "set AWS_REGION"),
        (501, "NotImplemented", "does not support what inoc-ray needs"),
        (503, "SlowDown", "asks for fewer requests"),
        (500, "InternalError", "fails (Generic S3 error"),
        (418, "Teapot", "418"),
    ],
)
def test_each_refusal_of_the_storage_has_its_message(line, address, code, body, words):
    line.answer = (code, body)
    before = time.monotonic()
    assert words in refusal(address)
    assert time.monotonic() - before < 15


def test_a_run_waits_for_a_storage_that_is_away_and_no_longer_than_it_says(line, address, monkeypatch, capsys):
    store = Store(address)
    store.check_writable()
    store.study("s").write_text("x")
    line.gone = True
    back = threading.Timer(3, lambda: setattr(line, "gone", False))
    back.start()
    assert store.study("s").read_text() == "x"
    assert capsys.readouterr().err.count("Waiting up to 120 s for it") == 1
    back.join()
    monkeypatch.setattr(connection, "WAIT_SECONDS", 2.0)
    line.gone = True
    before = time.monotonic()
    with pytest.raises(StorageError, match="does not answer"):
        store.study("s").read_text()
    assert 1 < time.monotonic() - before < 15


def test_a_storage_that_is_away_is_no_damage(line, address, monkeypatch):
    """What cannot be read now is neither missing nor damaged: nothing is deleted, trained or asked again."""
    store = Store(address)
    with store.stage_trial("t") as folder:
        write_trial(folder, {"a": 1}, [])
    monkeypatch.setattr(connection, "WAIT_SECONDS", 0.0)
    line.gone = True
    for look in (
        lambda: store.trial_done("t"),
        lambda: store.trial_fault("t"),
        lambda: store.weights("t"),
        lambda: store.read_trial("t"),
        lambda: store.parts("t", "e"),
        lambda: store.is_unbound("t"),
        lambda: store.read_study("s"),
        lambda: store.holder("study-s"),
        lambda: store.trials().is_dir(),
    ):
        with pytest.raises(StorageError):
            look()
    line.gone = False
    assert store.trial_done("t", verify=True)


def test_an_answer_that_is_lost_makes_no_write_fail_and_none_count_twice(line, address):
    filesystem = ObjectFilesystem(address)
    filesystem.check()
    for version in (None, "now"):
        stat = filesystem.stat("x")
        line.lose_answers = 1
        assert filesystem.write_if("x", f"{version}".encode(), None if version is None else stat.version)
        assert line.lose_answers == 0
    with filesystem.append("log") as stream:
        for number in range(3):
            line.lose_answers = 1
            stream.write(f"{number}\n".encode())
            stream.flush()
    assert filesystem.open("log").read() == b"0\n1\n2\n"
    with filesystem.staging("t") as folder:
        (folder / "a").write_text("1")
        (folder / "COMMIT").write_text("2")
        line.lose_answers = 5
        filesystem.publish(folder, "t", "COMMIT")
    assert sorted(filesystem.list("t")) == ["COMMIT", "a"]


def test_a_journal_keeps_its_lines_while_the_storage_is_away_and_says_that_it_is(line, address, monkeypatch):
    monkeypatch.setattr(connection, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr("inoc_ray.store.journal.GATHER_SECONDS", 0.1)
    store = Store(address)
    store.check_writable()
    place = store.under_way("s")
    with Journal(place) as journal:
        journal.add([1])
        line.gone = True
        said, number = "", 1
        while not said and number < 100:
            number += 1
            time.sleep(0.3)
            try:
                journal.add([number])
            except StorageError as error:
                said = str(error)
        assert "does not answer" in said
        line.gone = False
        journal.add(["back"])
    values, damaged = Journal(place).lines()
    assert (values[-1], damaged) == ("back", 0)
    assert values[:-1] == list(range(1, number + 1))


def test_a_connection_that_breaks_in_the_middle_of_a_file_goes_on_behind_it(line, address):
    filesystem = ObjectFilesystem(address)
    whole = bytes(range(256)) * 4096 * 12
    filesystem.write("x", whole)
    for cut in (1_000_000, 9_000_000):
        line.cut_after = cut
        assert filesystem.open("x").read() == whole
        assert line.cut_after == 0
    line.cut_after = 2_000_000
    assert filesystem.fetch("x").read_bytes() == whole
    line.cut_after = 2_000_000
    assert Bucket(address).read("x") == whole


# -- two that want the same ----------------------------------------------------------------------------------------------

CONTENDER = """
import sys, time
from inoc_ray.store.lease import LeaseTaken
from inoc_ray.store.store import Store
store, me = Store(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    sys.stdin.readline()
    try:
        with store.lease(f"study-{number}", [f"train {number}"]):
            print("held", flush=True)
            sys.stdin.readline()
    except LeaseTaken as error:
        print(f"taken {error}", flush=True)
        sys.stdin.readline()
"""


def test_of_two_clients_that_race_for_a_lease_one_gets_it(s3):
    rounds = 5
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, s3, name, str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]

    def each(text: str) -> None:
        for process in pair:
            assert process.stdin is not None
            process.stdin.write(text)
            process.stdin.flush()

    def answers() -> list[str]:
        return [process.stdout.readline().split(" ")[0].strip() for process in pair if process.stdout is not None]

    try:
        assert answers() == ["ready", "ready"]
        for _ in range(rounds):
            each("go\n")
            assert sorted(answers()) == ["held", "taken"]
            each("end\n")
        assert [process.wait(60) for process in pair] == [0, 0]
    finally:
        for process in pair:
            process.kill()
            process.wait()


COUNTER = """
import sys
from inoc_ray.store.object_filesystem import ObjectFilesystem
filesystem = ObjectFilesystem(sys.argv[1])
for _ in range(10):
    with filesystem.exclusive("count.lock", 60):
        count = int(filesystem.open("count").read()) if filesystem.stat("count") else 0
        filesystem.write("count", str(count + 1).encode())
"""


def test_what_is_done_under_a_lock_is_done_by_one_at_a_time(s3):
    processes = [subprocess.Popen([sys.executable, "-c", COUNTER, s3]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert ObjectFilesystem(s3).open("count").read() == b"30"


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
def test_a_lease_lives_by_the_clock_of_the_storage_whatever_this_machine_says(ahead, monkeypatch, tmp_path):
    with object_store(ahead) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        address = f"s3://{server.new_bucket()}/runs"
        store = Store(address)
        with store.lease("study-s") as lease:
            # As a process on another machine, of which nobody knows whether it lives.
            lease.holder["machine"] = "another"
            lease.check()
            with pytest.raises(LeaseTaken, match=r"last sign of life [0-9] s ago"), Store(address).lease("study-s"):
                pass
            assert store.holder("study-s") is not None
            monkeypatch.setattr("inoc_ray.store.lease.LEASE_SECONDS", 1.0)
            time.sleep(3)
            assert store.holder("study-s") is None
