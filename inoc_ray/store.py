"""The truth on disk: deterministic places, atomic commits, leases; the only module that knows paths.

A commit in four steps: (1) everything is written into a staging folder beside its final place, (2) COMMIT.json with
the size and SHA-256 of every file is written last and synced, (3) the folder is renamed, (4) the parent is synced.
A thing is done only if its COMMIT.json is there and agrees with the files.

Known trade-offs (accepted): `trial_done` compares sizes at every look, but hashes files above 16 MiB only when asked
(`verify=True`), since hashing the weights of a large study at each `inoc-ray plan` would cost more than it protects;
staging folders of killed runs stay until the same trial is committed a day or more later.
Scope: a POSIX folder, local or a shared mount whose rename is atomic (NFS, Lustre, CephFS).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.identity import file_hash, fsync_folder

COMMIT = "COMMIT.json"
LEASE_SECONDS = 60.0
"""A lease whose heartbeat is older than this is taken over; the heartbeat comes every quarter of it."""


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part."""
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with staging.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with sorted keys, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


_PART = re.compile(r"samples-(\d{6})-(\d{6})\.parquet")


def part_name(start: int, stop: int) -> str:
    """The file that holds samples start ≤ i < stop of a cell."""
    return f"samples-{start:06d}-{stop:06d}.parquet"


def list_parts(folder: Path) -> list[tuple[int, int, Path]]:
    """(from, to, path) of the parts that make one gapless run from 0, in order; what lies beyond a gap is not counted."""
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        if match := _PART.fullmatch(path.name):
            found.append((int(match[1]), int(match[2]), path))
    run: list[tuple[int, int, Path]] = []
    reached = 0
    for start, stop, path in sorted(found, key=lambda part: (part[0], -part[1])):
        if start == reached and stop > reached:
            run.append((start, stop, path))
            reached = stop
    return run


_DAMAGED = "the trial is damaged; delete this folder and run the study again"


STAGING_SECONDS = 86_400.0
"""A staging folder older than this belongs to a killed run."""
_HASHED_BYTES = 16 << 20
"""Files up to this size are hashed at every look; larger ones only when asked."""


class LeaseTaken(Exception):
    """Somebody else works on this at the moment; the message says who."""


class Store:
    """The results under one storage folder."""

    def __init__(self, root: Path | str) -> None:
        # The function leaves `~nobody` as it stands, where the method raises.
        self.root = Path(os.path.expanduser(root)).absolute()

    # -- places ---------------------------------------------------------------------------------------------

    def trials(self) -> Path:
        """The folder of all trials; a served engine finds adapters in it by trial id."""
        return self.root / "trials"

    def trial(self, trial_id: str) -> Path:
        return self.trials() / trial_id

    def adapter(self, trial_id: str) -> Path:
        """The folder with the weights that a trial yielded (an adapter, or a whole model for a full fine-tune)."""
        return self.trial(trial_id) / "adapter"

    def trial_log(self, trial_id: str) -> Path:
        """Where the traceback of a failed trial is kept."""
        return self.root / "logs" / f"{trial_id}.log"

    def evaluation(self, trial_id: str, evaluation_id: str) -> Path:
        return self.root / "evaluations" / trial_id / evaluation_id

    def judgments(self, judge_id: str) -> Path:
        """Everything that a judge has ever answered, by what it was asked."""
        return self.root / "judgments" / judge_id

    def stored_samples(self, trial_id: str, evaluation_id: str) -> int:
        """How many samples of a cell are committed, counted from 0 without a gap."""
        parts = list_parts(self.evaluation(trial_id, evaluation_id))
        return parts[-1][1] if parts else 0

    def capability(self, weights_id: str, capability_id: str) -> Path:
        """What the harness said about a capability of a model: samples.jsonl.gz and, written last, scores.json."""
        return self.root / "capabilities" / weights_id / capability_id

    def study(self, name: str) -> Path:
        return self.root / "studies" / name

    def mlflow(self) -> Path:
        return self.root / "mlflow"

    def ray(self) -> Path:
        """Scratch space of Ray Train and Ray Tune; safe to delete when nothing runs."""
        return self.root / "ray"

    def rows(self, dataset_hash: str) -> Path:
        """Training rows as they were when a trial ran, by content hash."""
        return self.root / "rows" / f"{dataset_hash}.jsonl"

    # -- preflight ------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Creates the folder and writes a probe. Raises InputError when that fails."""
        probe = self.root / f".probe-{uuid.uuid4().hex[:8]}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"probe")
            if probe.read_bytes() != b"probe":
                raise InputError(
                    f"storage: {self.root} gives back other bytes than were written; choose another folder."
                )
        except OSError as error:
            raise InputError(
                f"storage: {self.root} cannot be written ({error.strerror}); choose another folder or mend its permissions."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    # -- trials ---------------------------------------------------------------------------------------------

    def trial_done(self, trial_id: str, *, verify: bool = False) -> bool:
        """True if the trial is committed and its files are whole; `verify` hashes the large ones, too."""
        return _commit_agrees(self.trial(trial_id), verify=verify)

    @contextlib.contextmanager
    def stage_trial(self, trial_id: str) -> Iterator[Path]:
        """A folder to fill; it becomes the trial's place when the block ends without an exception.

        The adapter goes to `<folder>/adapter`. If another process committed the same trial meanwhile its commit is
        kept, since both hold the same content by construction of the id.
        """
        final = self.trial(trial_id)
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = final.with_name(f".{trial_id}.{uuid.uuid4().hex[:8]}.tmp")
        staging.mkdir()
        try:
            yield staging
            if self.trial_done(trial_id):
                return
            _write_commit(staging)
            if final.exists():
                # A half-written or damaged place from a crash of the machine: never done, so it may go.
                shutil.rmtree(final)
            try:
                os.rename(staging, final)
            except OSError:
                # Linux says ENOTEMPTY, not EEXIST, when another process was quicker by a moment.
                if not self.trial_done(trial_id):
                    raise
            fsync_folder(final.parent)
            self.trial_log(trial_id).unlink(missing_ok=True)
            _remove_old_staging(final.parent, trial_id)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def read_trial(self, trial_id: str) -> dict[str, Any]:
        """trial.json of a committed trial, with `committed_at` (epoch seconds) added. Raises InputError when it is damaged."""
        folder = self.trial(trial_id)
        try:
            value: dict[str, Any] = {**json.loads((folder / "trial.json").read_text(encoding="utf-8"))}
            value["committed_at"] = float(json.loads((folder / COMMIT).read_text(encoding="utf-8"))["committed_at"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: {_DAMAGED} ({type(error).__name__}: {error}).") from error
        return value

    def read_curves(self, trial_id: str) -> list[dict[str, Any]]:
        """The training curve of a committed trial: one record per optimizer step; empty when none was kept."""
        path = self.trial(trial_id) / "curves.jsonl"
        if not path.exists():
            return []
        try:
            return [{**json.loads(line)} for line in path.read_text(encoding="utf-8").splitlines() if line]
        except (ValueError, TypeError) as error:
            raise InputError(f"{path.parent}: {_DAMAGED} ({path.name}: {error}).") from error

    # -- leases ---------------------------------------------------------------------------------------------

    def holder(self, name: str) -> dict[str, Any] | None:
        """Host and pid of the process that holds the lease `name`, or None."""
        path = self.root / "leases" / f"{name}.json"
        try:
            _refuse_if_alive(path, name)
        except LeaseTaken:
            return _read_holder(path)
        return None

    @contextlib.contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """Holds `name` for this process while the block runs. Raises LeaseTaken when another process holds it.

        A lease whose holder died is taken over: at once when it was a process of this machine, otherwise after
        LEASE_SECONDS without a heartbeat.
        """
        path = self.root / "leases" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        with path.with_suffix(".lock").open("w") as guard:
            # Looking at the old lease and writing the new one must be one step: two takers could both see a dead holder.
            fcntl.flock(guard, fcntl.LOCK_EX)
            _refuse_if_alive(path, name)
            write_json(path, holder)
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(LEASE_SECONDS / 4):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path)

        thread = threading.Thread(target=beat, daemon=True, name=f"lease-{name}")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if _read_holder(path).get("token") == holder["token"]:
                path.unlink(missing_ok=True)


def _remove_old_staging(parent: Path, trial_id: str) -> None:
    """Staging folders of killed runs; a young one may be another process that is at the same trial now."""
    for leftover in parent.glob(f".{trial_id}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > STAGING_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _read_holder(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
        return value if isinstance(value, dict) else {}
    except (OSError, json.JSONDecodeError):
        return {}


def _refuse_if_alive(path: Path, name: str) -> None:
    """Raises LeaseTaken when the lease's holder may still be at work."""
    holder = _read_holder(path)
    try:
        age = time.time() - path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return
    if age > LEASE_SECONDS:
        return
    if holder.get("host") == socket.gethostname() and not Path(f"/proc/{holder.get('pid')}").exists():
        return
    raise LeaseTaken(
        f"{name} is being worked on by process {holder.get('pid')} on {holder.get('host')} (last sign of life {age:.0f} s ago)."
    )


def _write_commit(folder: Path) -> None:
    for path in folder.rglob("*"):
        # A crash of the machine must not leave a commit over files that never reached the disk.
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            fsync_folder(path)
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / COMMIT, {"files": files, "committed_at": time.time()})


def _commit_agrees(folder: Path, *, verify: bool) -> bool:
    try:
        files = json.loads((folder / COMMIT).read_text(encoding="utf-8"))["files"]
        if "trial.json" not in files:
            return False
        for name, expected in files.items():
            path = folder / name
            if path.stat().st_size != expected["bytes"]:
                return False
            if (verify or expected["bytes"] <= _HASHED_BYTES) and file_hash(path) != expected["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True
