"""A bucket as a storage, on a real S3 server: what grows, what is published, what is copied to this machine."""

import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_store import SECRET

from inoc_ray.errors import StorageError
from inoc_ray.store import local_copies, object_lock
from inoc_ray.store.address import check_storage, is_bucket, open_filesystem
from inoc_ray.store.appended import PIECES, Appended
from inoc_ray.store.filesystem import LocalFilesystem
from inoc_ray.store.object_filesystem import ObjectFilesystem
from inoc_ray.store.object_lock import ObjectLock, locked
from inoc_ray.store.objects import GROWS, Bucket, Object
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store


@pytest.fixture
def filesystem(s3: str) -> ObjectFilesystem:
    return ObjectFilesystem(s3)


@pytest.fixture
def bucket(s3: str) -> Bucket:
    return Bucket(s3)


def read(filesystem: ObjectFilesystem, key: str) -> bytes:
    with filesystem.open(key) as stream:
        return stream.read()


def fill(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "is empty"),
        ("hdfs://host/x", "no storage"),
        ("s3:/bucket/x", "no storage"),
        ("s3://", "no storage"),
        ("$HOME/runs", "nothing is put in for a variable"),
        ("${SCRATCH}/runs", "nothing is put in for a variable"),
        ("/scratch/$USER/runs", "nothing is put in for a variable"),
        ("/scratch/runs-${USER}", "nothing is put in for a variable"),
        ("s3://$BUCKET/runs", "nothing is put in for a variable"),
        ("s3:bucket/x", "no storage; write 's3://bucket/x'"),
        ("gs:/bucket", "no storage; write 'gs://bucket'"),
        ("s3://my bucket/x", "neither has"),
        ("S3://bucket/x", "no storage; write 's3://bucket/x'"),
        ("Gs://bucket", "no storage; write 'gs://bucket'"),
        ("AZ://KEY@container/x", "no storage; write 'az://…@container/x'"),
        ("HDFS://host/x", "no storage"),
        ("s_3://bucket/x", "no storage"),
        ("File:///mnt/runs", "no storage"),
        ("s3:///x", "no storage"),
        ("https://bucket.s3.amazonaws.com/x", "no storage"),
        ("s3://KEY:SECRET@bucket/x", "credentials and endpoint belong in the environment"),
        ("s3://KEY:SEC/RET@bucket/x", "'s3://…@bucket/x': holds more than a bucket"),
        ("s3://bucket/KEY:SEC/RET@x//y", "'s3://…@x//y': a prefix has no empty parts"),
        ("s3://bucket/x?versionId=1", "credentials and endpoint belong in the environment"),
        ("s3://bucket/a//b", "no empty parts"),
        ("s3://bucket/../b", "no empty parts"),
    ],
)
def test_an_address_that_names_no_storage_is_refused(address, words):
    with pytest.raises(ValueError, match=words) as refused:
        check_storage(address)
    assert "RET" not in str(refused.value)


def test_a_folder_may_have_a_dollar_sign_and_one_that_is_there_may_be_called_as_a_variable_is(tmp_path, monkeypatch):
    """An earlier version made it."""
    monkeypatch.chdir(tmp_path)
    for address in ("/mnt/share$/runs", "/mnt/5$a/runs"):
        assert check_storage(address) == address
    (tmp_path / "$HOME" / "runs").mkdir(parents=True)
    for address in ("$HOME/runs", str(tmp_path / "$HOME" / "runs")):
        assert check_storage(address) == address


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/a/b", "gs://bucket/a", "az://container/a"])
def test_an_address_of_a_bucket_names_a_bucket(address):
    assert check_storage(address) == address
    assert is_bucket(address)
    # Nobody is asked, and nothing is needed from the environment.
    assert open_filesystem(f"{address}/").address == address


@pytest.mark.parametrize("address", ["runs", "./runs", "/mnt/runs", "~/runs", "C:runs", "s3/bucket", "./a://b"])
def test_the_rest_is_a_folder(address):
    assert not is_bucket(check_storage(address))
    assert isinstance(open_filesystem(address), LocalFilesystem)


def test_a_storage_travels_as_its_address(s3):
    store = Store(s3)
    store.check_writable()
    packed = pickle.dumps((store, store.trial("t")))
    assert SECRET.encode() not in packed
    again, place = pickle.loads(packed)  # noqa: S301 - packed above
    place.write_text("x")
    assert (again.address, str(place)) == (s3, f"{s3}/trials/t")
    assert store.trial("t").read_text() == "x"


@pytest.mark.parametrize("name", ["a b", "é", "a+b,c~d", "x:y@z", "50%", "#1", "a&b=c", "(x)'!*"])
def test_names_may_have_what_the_names_of_settings_have(filesystem, name):
    filesystem.write(f"a/{name}/x", b"1")
    assert filesystem.list("a") == [name]
    assert read(filesystem, f"a/{name}/x") == b"1"
    assert filesystem.fetch(f"a/{name}").joinpath("x").read_bytes() == b"1"
    filesystem.delete_folder("a")
    assert not filesystem.is_folder("a")


def test_a_folder_does_not_have_the_files_of_one_whose_name_goes_on(filesystem):
    for key in ("a/x", "ab/x", "a.b/x"):
        filesystem.write(key, b"1")
    assert (filesystem.list("a"), sorted(filesystem.list(""))) == (["x"], ["a", "a.b", "ab"])
    filesystem.delete_folder("a")
    assert sorted(filesystem.list("")) == ["a.b", "ab"]
    filesystem.move_folder("ab", "c/d", "x")
    assert (read(filesystem, "c/d/x"), filesystem.is_folder("ab")) == (b"1", False)


# -- what grows -----------------------------------------------------------------------------------------------------


def test_what_was_flushed_is_there_in_order_and_shown_as_one_file(filesystem, bucket):
    with filesystem.append("s/log") as stream:
        for number in range(12):
            stream.write(f"{number}\n".encode())
            stream.flush()
            if number == 5:
                assert read(filesystem, "s/log") == b"0\n1\n2\n3\n4\n5\n"
        stream.write(b"end")
    whole = "".join(f"{number}\n" for number in range(12)).encode() + b"end"
    assert read(filesystem, "s/log") == whole
    stat = filesystem.stat("s/log")
    assert stat.size == len(whole)
    assert filesystem.list("s") == ["log"]
    assert filesystem.fetch("s/log").read_bytes() == whole
    with filesystem.append("s/log") as stream:
        stream.write(b"!")
    assert read(filesystem, "s/log") == whole + b"!"
    assert filesystem.stat("s/log").version != stat.version
    assert filesystem.fetch("s").joinpath("log").read_bytes() == whole + b"!"
    assert [path.name for path in filesystem.fetch("s").iterdir()] == ["log"]
    filesystem.delete("s/log")
    assert not list(bucket.below(""))


def test_a_writer_that_is_killed_leaves_what_it_flushed(filesystem):
    stream = filesystem.append("log")
    stream.write(b"flushed")
    stream.flush()
    stream.write(b"lost")
    # As a process that is killed: nothing is closed.
    stream._waiting.clear()
    with filesystem.append("log") as again:
        again.write(b" and on")
    assert read(filesystem, "log") == b"flushed and on"


def test_a_file_that_is_written_anew_has_nothing_of_what_was_appended(filesystem, bucket):
    for _ in range(2):
        with filesystem.append("log") as stream:
            for text in (b"a", b"b", b"c"):
                stream.write(text)
                stream.flush()
    # As a writer that dies before it deletes the pieces; even the same bytes as those of the first object.
    bucket.put("log", b"a")
    assert len(list(bucket.below(f"log{PIECES}"))) == 5
    assert (read(filesystem, "log"), filesystem.stat("log").size) == (b"a", 1)
    with filesystem.append("log") as stream:
        stream.write(b"z")
    assert read(filesystem, "log") == b"az"
    filesystem.write("log", b"new")
    assert read(filesystem, "log") == b"new"
    assert [found.key for found in bucket.below("")] == ["log"]


def test_many_pieces_become_one_object_when_the_file_is_closed(filesystem, bucket, monkeypatch):
    monkeypatch.setattr("inoc_ray.store.appended._JOINED", 4)
    stream = filesystem.append("log")
    for number in range(8):
        stream.write(f"{number}".encode())
        stream.flush()
    reader = filesystem.open("log")
    assert isinstance(stream, Appended)
    stream.close()
    assert (reader.read(), read(filesystem, "log")) == (b"01234567", b"01234567")
    assert [found.key for found in bucket.below("")] == ["log"]
    with filesystem.append("log") as again:
        again.write(b"8")
        again.flush()
        again.write(b"9")
    assert read(filesystem, "log") == b"0123456789"


@pytest.mark.parametrize("seen", ["before they are listed", "before they are read"])
@pytest.mark.parametrize("ends", ["joined", "replaced"])
def test_a_reader_of_a_file_whose_pieces_go_meanwhile_sees_all_of_it(filesystem, monkeypatch, seen, ends):
    monkeypatch.setattr("inoc_ray.store.appended._JOINED", 4)
    stream = filesystem.append("log")
    for _ in range(8):
        stream.write(b"a")
        stream.flush()
    below = Bucket.below
    happens = [stream.close if ends == "joined" else lambda: filesystem.write("log", b"a")]

    def meanwhile(self: Bucket, key: str) -> Iterator[Object]:
        found = list(below(self, key)) if seen == "before they are read" else None
        if happens:
            happens.pop()()
        return iter(found) if found is not None else below(self, key)

    monkeypatch.setattr(Bucket, "below", meanwhile)
    assert read(filesystem, "log") == (b"a" * 8 if ends == "joined" else b"a")
    assert not happens


def test_a_file_that_is_replaced_whenever_it_is_read_is_given_up(filesystem, bucket, monkeypatch):
    with filesystem.append("log") as stream:
        stream.write(b"a")
    monkeypatch.setattr(Bucket, "below", lambda self, key: iter([bucket.put("log", os.urandom(8), {GROWS: "x"})] * 0))
    with pytest.raises(StorageError, match="written anew 10 times"):
        filesystem.open("log")


def test_of_two_that_append_at_the_same_time_neither_loses_a_line(filesystem):
    with filesystem.append("log") as one, filesystem.append("log") as other:
        for number in range(6):
            for stream, name in ((one, "a"), (other, "b")):
                stream.write(f"{name}{number}\n".encode())
                stream.flush()
    lines = read(filesystem, "log").decode().split()
    assert sorted(lines) == sorted(f"{name}{number}" for name in "ab" for number in range(6))
    assert [line for line in lines if line[0] == "a"] == [f"a{number}" for number in range(6)]


def test_a_plain_file_costs_no_further_request(filesystem, bucket):
    bucket.put("a/x", b"1")
    assert GROWS not in bucket.head("a/x").notes


# -- publishing -----------------------------------------------------------------------------------------------------


def test_a_folder_is_published_once(filesystem):
    for content, taken in (("first", False), ("second", True)):
        with filesystem.staging("trials/t") as folder:
            fill(folder, a=content, b__c=content, COMMIT=content)
            if taken:
                with pytest.raises(FileExistsError):
                    filesystem.publish(folder, "trials/t", "COMMIT")
            else:
                filesystem.publish(folder, "trials/t", "COMMIT")
        assert not folder.exists()
    assert sorted(filesystem.list("trials/t")) == ["COMMIT", "a", "b"]
    assert {read(filesystem, f"trials/t/{name}") for name in ("a", "b/c", "COMMIT")} == {b"first"}


def test_what_a_killed_process_published_in_part_gives_way(filesystem):
    filesystem.write("trials/t/a", b"of a dead process")
    filesystem.write("trials/t/only-there", b"of a dead process")
    with filesystem.staging("trials/t") as folder:
        fill(folder, a="mine", COMMIT="mine")
        filesystem.publish(folder, "trials/t", "COMMIT")
    assert (sorted(filesystem.list("trials/t")), read(filesystem, "trials/t/a")) == (["COMMIT", "a"], b"mine")


@pytest.mark.parametrize(("large", "noticed"), [(False, False), (False, True), (True, True)])
def test_a_process_that_slept_while_another_one_published_changes_nothing_of_that(
    filesystem, bucket, monkeypatch, large, noticed
):
    if large:
        monkeypatch.setattr("inoc_ray.store.objects._SINGLE_BYTES", 2)
    put = ObjectFilesystem._put_new
    asleep: list[Callable[[], None]] = []

    def sleeping(self: ObjectFilesystem, path: Path, key: str) -> bool:
        while asleep:
            asleep.pop()()
        return put(self, path, key)

    monkeypatch.setattr(ObjectFilesystem, "_put_new", sleeping)

    def other() -> None:
        # The sleeper's lock has expired.
        bucket.put("trials/t/.publishing", b'{"holder": null}')
        with filesystem.staging("trials/t") as folder:
            fill(folder, a="other", b="other", COMMIT="other")
            filesystem.publish(folder, "trials/t", "COMMIT")
        if noticed:
            monkeypatch.setattr(object_lock, "EXPIRY_SECONDS", 0.0)

    with filesystem.staging("trials/t") as folder:
        fill(folder, a="sleeper", b="sleeper", COMMIT="sleeper")
        asleep.append(other)
        with pytest.raises(FileExistsError):
            filesystem.publish(folder, "trials/t", "COMMIT")
    assert {read(filesystem, f"trials/t/{name}") for name in ("b", "COMMIT")} == {b"other"}
    # A large file that was on its way when the sleeper fell asleep is the one that cannot be called back.
    assert large or read(filesystem, "trials/t/a") == b"other"


def in_the_middle(monkeypatch: pytest.MonkeyPatch, happens: list[Callable[[], None]]) -> None:
    """Let something happen before each file that is published."""
    put = ObjectFilesystem._put_new

    def interrupted(self: ObjectFilesystem, path: Path, key: str) -> bool:
        done = put(self, path, key)
        if happens:
            happens.pop(0)()
        return done

    monkeypatch.setattr(ObjectFilesystem, "_put_new", interrupted)


def test_who_could_not_write_its_lock_for_a_while_and_lost_it_to_nobody_goes_on(filesystem, monkeypatch):
    # All the time is too long ago, and nobody else asks for the lock; its own beats come in between.
    locks: list[ObjectLock] = []
    acquire = ObjectLock.acquire
    monkeypatch.setattr(ObjectLock, "acquire", lambda self, timeout: (locks.append(self), acquire(self, timeout))[1])

    def away() -> None:
        locks[-1]._last -= 1000.0

    in_the_middle(monkeypatch, [away, away, away])
    with filesystem.staging("trials/t") as folder:
        fill(folder, a="1", b="2", c="3", COMMIT="4")
        filesystem.publish(folder, "trials/t", "COMMIT")
    assert [read(filesystem, f"trials/t/{name}") for name in ("a", "b", "c", "COMMIT")] == [b"1", b"2", b"3", b"4"]
    assert (len(locks), filesystem.list("trials/t")) == (1, ["COMMIT", "a", "b", "c"])


@pytest.mark.parametrize("after", [0, 1], ids=["in the middle", "before the last"])
def test_who_lost_its_lock_to_one_that_died_publishes_anew(filesystem, bucket, monkeypatch, after):
    def other() -> None:
        # Deletes what it finds, puts a file and dies.
        bucket.put("trials/t/.publishing", b'{"holder": null}')
        bucket.delete(["trials/t/a"])
        bucket.put("trials/t/z", b"of a dead process")
        monkeypatch.setattr(object_lock, "EXPIRY_SECONDS", 0.3)

    in_the_middle(monkeypatch, [*([lambda: None] * after), lambda: (other(), time.sleep(0.3))[0]])
    with filesystem.staging("trials/t") as folder:
        fill(folder, a="1", b="2", COMMIT="3")
        filesystem.publish(folder, "trials/t", "COMMIT")
    assert (filesystem.list("trials/t"), read(filesystem, "trials/t/a")) == (["COMMIT", "a", "b"], b"1")


def test_beats_at_the_same_time_are_no_loss(filesystem):
    with locked(filesystem, "x.lock", 5) as lock:
        beats = [threading.Thread(target=lock.beat) for _ in range(6)]
        for beat in beats:
            beat.start()
        for beat in beats:
            beat.join()
        assert not lock.lost


# -- copies on this machine -----------------------------------------------------------------------------------------


def test_a_copy_is_made_once_and_again_when_the_file_has_changed(filesystem, bucket, monkeypatch):
    for name in ("a", "b/c"):
        filesystem.write(f"t/{name}", name.encode())
    opened: list[str] = []
    get = Bucket.get
    monkeypatch.setattr(Bucket, "get", lambda self, key: (opened.append(key), get(self, key))[1])
    folder = filesystem.fetch("t")
    assert {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()} == {
        "a": "a",
        "b/c": "b/c",
    }
    assert sorted(opened) == ["t/a", "t/b/c"]
    assert filesystem.fetch("t") == folder
    assert len(opened) == 2
    filesystem.write("t/a", b"A")
    filesystem.delete("t/b/c")
    filesystem.fetch("t")
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["a"]
    assert ((folder / "a").read_text(), opened[2:]) == ("A", ["t/a"])
    assert filesystem.fetch("t/a") == folder / "a"


def test_a_copy_that_somebody_changed_is_made_again(filesystem):
    filesystem.write("t/a", b"right")
    path = filesystem.fetch("t") / "a"
    times = path.stat()
    path.write_bytes(b"wrong")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert filesystem.fetch("t").joinpath("a").read_bytes() == b"right"
    path.unlink()
    assert filesystem.fetch("t/a").read_bytes() == b"right"


def test_an_object_that_does_not_have_the_bytes_that_were_written_is_no_copy(filesystem, bucket, s3):
    import obstore

    filesystem.write("t/a", b"right")
    sha = bucket.head("t/a").notes["inocraysha256"]
    obstore.put(bucket._connection.store, "t/a", b"wrong", attributes={"inocraysha256": sha})
    with pytest.raises(StorageError, match="does not have the bytes that were written"):
        filesystem.fetch("t")
    assert not [p for p in local_copies.folder_of(s3).rglob("*") if p.is_file() and p.parent.name != "locks"]


def test_copies_that_nobody_asks_for_go_when_a_new_one_comes(filesystem, monkeypatch):
    filesystem.write("a", b"1")
    filesystem.write("b", b"2")
    old = filesystem.fetch("a")
    [note] = old.parent.parent.rglob("a.json")
    long_ago = time.time() - local_copies.KEPT_SECONDS - 60
    os.utime(note, (long_ago, long_ago))
    filesystem.fetch("b")
    assert (old.exists(), note.exists()) == (False, False)
    assert filesystem.fetch("a").read_bytes() == b"1"


def test_folders_to_fill_of_dead_processes_are_deleted(filesystem):
    with filesystem.staging("trials/t") as living:
        with filesystem.staging("trials/u") as folder:
            owner = folder.with_name(f"{folder.name}.json")
            who = json.loads(owner.read_text())
            owner.write_text(json.dumps({**who, "started": "1"}))
            filesystem.sweep("trials/t", 86_400)
            assert (folder.exists(), owner.exists()) == (False, False)
        assert living.exists()


def test_a_folder_to_write_into_goes_to_the_bucket_at_its_end(filesystem):
    with Place(filesystem, "studies/s").folder() as folder:
        fill(folder, report="r", figures__a="f")
        assert not filesystem.is_folder("studies")
    assert read(filesystem, "studies/s/figures/a") == b"f"

    def fail() -> None:
        with Place(filesystem, "studies/t").folder() as folder:
            fill(folder, report="half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not filesystem.is_folder("studies/t")


# -- the lock -------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_and_let_go(filesystem):
    with locked(filesystem, "x.lock", 5) as lock:
        assert lock.is_held()
        with pytest.raises(TimeoutError, match="is locked by another process"), filesystem.exclusive("x.lock", 0.3):
            pass
        lock.beat()
        assert lock.is_held()
    with filesystem.exclusive("x.lock", 0):
        pass


def test_the_lock_of_a_dead_process_of_this_machine_is_free(filesystem):
    lock = ObjectLock(filesystem, "x.lock")
    lock._mine["started"] = "1"
    lock.acquire(0)
    with filesystem.exclusive("x.lock", 0):
        lock.beat()
        assert lock.lost


def test_a_lock_that_is_not_written_any_more_is_free(filesystem, monkeypatch):
    lock = ObjectLock(filesystem, "x.lock")
    lock._mine["machine"] = "another"
    lock.acquire(0)
    with pytest.raises(TimeoutError), filesystem.exclusive("x.lock", 0.2):
        pass
    monkeypatch.setattr(object_lock, "EXPIRY_SECONDS", 1.0)
    before = time.monotonic()
    with filesystem.exclusive("x.lock", 10):
        assert time.monotonic() - before < 8


def test_who_lets_go_late_takes_the_lock_from_nobody(filesystem):
    lock = ObjectLock(filesystem, "x.lock")
    lock._mine["started"] = "1"
    lock.acquire(0)
    with locked(filesystem, "x.lock", 0) as mine:
        lock.release()
        mine.beat()
        assert not mine.lost
