"""The truth on disk: deterministic places, atomic commits, leases; the only module that knows paths.

A trial is committed in four steps: (1) everything is written into a staging folder beside its final place, (2) COMMIT.json
with the size and SHA-256 of every file is written last and synced, (3) the folder is renamed, (4) the parent is synced.
A trial is done only if its COMMIT.json is there and agrees with the files. Every other file that is read again has its hash in
its name (samples, scores, judgments) or in itself: see `seal`.

What is *used* (served, gone on with, scored, logged) is hashed whole, every time. What is only *looked at* (plan, status) is
hashed up to 16 MiB a file; a larger one is hashed where it changed after its commit, and otherwise taken by its size.
Staging folders of killed runs stay until the same trial is committed a day or more later.
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
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from inoc_ray.config.identity import content_id, file_hash, fsync_folder
from inoc_ray.errors import InputError
from inoc_ray.store import seal

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


_PART = re.compile(r"samples-(\d{6})-(\d{6})(?:\.[0-9a-f]{16})?\.parquet")


class Part(NamedTuple):
    """A file with the samples start ≤ i < stop of a cell."""

    start: int
    stop: int
    path: Path


def part_name(start: int, stop: int) -> str:
    """The file that holds samples start ≤ i < stop of a cell."""
    return f"samples-{start:06d}-{stop:06d}.parquet"


def _parts(folder: Path) -> list[Part]:
    if not folder.is_dir():
        return []
    matches = ((path, _PART.fullmatch(path.name)) for path in folder.iterdir())
    return sorted(Part(int(match[1]), int(match[2]), path) for path, match in matches if match)


def list_parts(folder: Path) -> list[Part]:
    """The intact parts that make one gapless run from 0, in order; what lies beyond a gap is not counted.

    A part without a hash in its name is of an earlier version: it is taken as it is.
    """
    run: list[Part] = []
    reached = 0
    for part in sorted(_parts(folder), key=lambda p: (p.start, -p.stop)):
        if part.start == reached and part.stop > reached and _is_whole(part.path):
            run.append(part)
            reached = part.stop
    return run


def damaged_parts(folder: Path) -> list[Part]:
    """The parts that do not hold what was committed and that no intact part replaces."""
    reached = max((part.stop for part in list_parts(folder)), default=0)
    return [part for part in _parts(folder) if part.stop > reached and not _is_whole(part.path)]


def remove_damaged(folder: Path, stop: int) -> None:
    """Deletes damaged parts up to `stop`, which an intact part replaces."""
    for part in _parts(folder):
        if part.stop <= stop and not _is_whole(part.path):
            part.path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    return seal.seal_of(path) is None or seal.is_intact(path)


_DAMAGED = "the trial is damaged; delete this folder and run the study again"
_SET_ASIDE = "DAMAGED.json"
_WEIGHTS = "weights.json"


STAGING_SECONDS = 86_400.0
"""A staging folder older than this belongs to a killed run."""
_HASHED_BYTES = 16 << 20
"""Files up to this size are hashed at every look; larger ones where they changed after their commit, and at every use."""


class LeaseTaken(Exception):
    """Somebody else works on this at the moment; the message says who."""


class Lease:
    """A lease that this process holds, or has lost."""

    def __init__(self, name: str, path: Path, claims: Iterable[str]) -> None:
        self.name, self.path = name, path
        self.lost: dict[str, Any] | None = None
        """Who has it now, when this process gave no sign of life for too long."""
        self.holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "started": _started(os.getpid()),
            "token": uuid.uuid4().hex,
            "claims": sorted(claims),
        }

    def beat(self) -> None:
        """Gives a sign of life, unless somebody else has taken the lease over."""
        try:
            found = _read_holder(self.path, missing=self.holder)
            if found.get("token", self.holder["token"]) != self.holder["token"]:
                self.lost = found
            elif self.path.exists():
                os.utime(self.path)
            else:
                write_json(self.path, self.holder)
        except OSError:
            # A hiccup of the mount (ESTALE, EIO): the next beat may come through, and four may be missed.
            return

    def check(self) -> None:
        """Raises LeaseTaken when the lease was lost."""
        self.beat()
        if self.lost is not None:
            raise LeaseTaken(
                f"{self.name} was taken over by process {self.lost.get('pid')} on {self.lost.get('host')} while this one gave no "
                "sign of life. What this one committed is kept."
            )


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

    def parts(self, trial_id: str, evaluation_id: str) -> list[Part]:
        """The samples of a cell that are there; none where they came of other weights than the trial has now."""
        return [] if self._is_of_other_weights(trial_id) else list_parts(self.evaluation(trial_id, evaluation_id))

    def evaluated(self) -> set[str]:
        """Return the ids of all trials and bases of which the store holds samples."""
        folder = self.root / "evaluations"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def stored_samples(self, trial_id: str, evaluation_id: str) -> int:
        """How many samples of a cell are committed, counted from 0 without a gap."""
        parts = self.parts(trial_id, evaluation_id)
        return parts[-1].stop if parts else 0

    def damage(self, trial_ids: Iterable[str], cells: Iterable[tuple[str, str]]) -> list[str]:
        """What is there of these trials and cells but not as it was committed: a sentence each."""
        found = [
            f"trial {trial_id} is damaged and counts as missing: {fault} (in {self.trial(trial_id)})."
            for trial_id in trial_ids
            if (fault := self.trial_fault(trial_id)) is not None
        ]
        cells = list(cells)
        found += [
            f"the samples of trial {trial_id} count as missing: it was trained again, and other weights gave them."
            for trial_id in dict.fromkeys(trial_id for trial_id, _ in cells)
            if self._is_of_other_weights(trial_id)
        ]
        return found + [
            f"samples {part.start} to {part.stop - 1} of a cell are damaged and count as missing: {part.path} does not hold what "
            "its name says."
            for cell in cells
            for part in damaged_parts(self.evaluation(*cell))
        ]

    def weights(self, trial_id: str) -> str | None:
        """16 hex digits of the weights that a trial yielded, as its commit says; None where it has none."""
        try:
            files = json.loads((self.trial(trial_id) / COMMIT).read_text(encoding="utf-8"))["files"]
            return content_id({name: f["sha256"] for name, f in files.items() if name.startswith("adapter/")})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _is_of_other_weights(self, trial_id: str) -> bool:
        """True if the samples came of weights that are no longer those of the trial, which was trained again."""
        try:
            bound = json.loads((self.root / "evaluations" / trial_id / _WEIGHTS).read_text(encoding="utf-8"))
            answered, weights = str(bound["trial_id"]), str(bound["weights"])
        except (OSError, ValueError, KeyError, TypeError):
            # Samples of an earlier version or of an untouched model: nothing says otherwise.
            return False
        now = self.weights(answered)
        return seal.agrees(bound) and now is not None and now != weights

    def is_unbound(self, trial_id: str) -> bool:
        """True for samples of an earlier version, which do not say which weights gave them."""
        folder = self.root / "evaluations" / trial_id
        return folder.is_dir() and not (folder / _WEIGHTS).exists()

    def bind(self, trial_id: str, adapter_of: str | None) -> bool:
        """To be called before samples of `trial_id` are asked, which the weights of trial `adapter_of` answer, and for those of
        an earlier version before that trial is trained again.

        Notes which weights they are. Samples of other weights are set aside (the folder is renamed); returns True then.
        """
        folder = self.root / "evaluations" / trial_id
        set_aside = self._is_of_other_weights(trial_id)
        if set_aside:
            os.rename(folder, folder.with_name(f"{trial_id}.{uuid.uuid4().hex[:8]}.old"))
        weights = None if adapter_of is None else self.weights(adapter_of)
        if weights is not None:
            value = seal.sealed_json({"trial_id": adapter_of, "weights": weights})
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / _WEIGHTS, value)
        return set_aside

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
        """True if the trial is committed and its files are whole; `verify` hashes every file whole."""
        return commit_fault(self.trial(trial_id), verify=verify) is None

    def trial_fault(self, trial_id: str) -> str | None:
        """What is damaged in a trial that was committed; None for one that is whole or was never there."""
        folder = self.trial(trial_id)
        if not folder.is_dir():
            return None
        fault = commit_fault(folder)
        if fault is None:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            fault = str(json.loads((folder / _SET_ASIDE).read_text(encoding="utf-8"))["fault"])
        return fault

    def verify_trial(self, trial_id: str) -> str | None:
        """Hashes every file of a trial that is done; says what is damaged, and then the trial counts as not done."""
        folder = self.trial(trial_id)
        fault = commit_fault(folder, verify=True)
        if fault is not None and (folder / COMMIT).exists():
            write_json(folder / _SET_ASIDE, {"fault": fault, "commit": (folder / COMMIT).read_text(errors="replace")})
            (folder / COMMIT).unlink()
        return fault

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
            write_commit(staging)
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

    def committed_files(self, trial_id: str) -> dict[str, str]:
        """File (relative to the trial's folder) → SHA-256, as its commit says. Raises InputError when it is damaged."""
        try:
            files = json.loads((self.trial(trial_id) / COMMIT).read_text(encoding="utf-8"))["files"]
            return {name: str(expected["sha256"]) for name, expected in files.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.trial(trial_id)}: {_DAMAGED} ({type(error).__name__}: {error}).") from error

    # -- leases ---------------------------------------------------------------------------------------------

    def holder(self, name: str) -> dict[str, Any] | None:
        """Host and pid of the process that holds the lease `name`, or None."""
        holder = _living_holder(self.root / "leases" / f"{name}.json")
        return None if holder is None else {key: holder.get(key) for key in ("host", "pid")}

    @contextlib.contextmanager
    def lease(self, name: str, claims: Collection[str] = ()) -> Iterator[Lease]:
        """Holds `name`, and the things that are claimed under it, for this process while the block runs.

        Raises LeaseTaken when another process holds the name, or under another name one of the claims. A lease whose holder
        died is taken over: at once when it was a process of this machine (that this one can see: not of another container),
        otherwise after LEASE_SECONDS without a heartbeat.
        """
        folder = self.root / "leases"
        folder.mkdir(parents=True, exist_ok=True)
        lease = Lease(name, folder / f"{name}.json", claims)
        with (folder / "taking.lock").open("w") as guard:
            # Looking at the old leases and writing the new one must be one step: two takers could both see a dead holder.
            fcntl.flock(guard, fcntl.LOCK_EX)
            _refuse_if_alive(lease.path, name)
            _refuse_if_claimed(folder, name, set(claims))
            write_json(lease.path, lease.holder)
        stop = threading.Event()

        def beat() -> None:
            while lease.lost is None and not stop.wait(LEASE_SECONDS / 4):
                lease.beat()

        thread = threading.Thread(target=beat, daemon=True, name=f"lease-{name}")
        thread.start()
        try:
            yield lease
        finally:
            stop.set()
            thread.join()
            # Storage that has gone must not hide the error that ended the block.
            with contextlib.suppress(OSError):
                if _read_holder(lease.path).get("token") == lease.holder["token"]:
                    lease.path.unlink(missing_ok=True)


def _remove_old_staging(parent: Path, trial_id: str) -> None:
    """Staging folders of killed runs; a young one may be another process that is at the same trial now."""
    for leftover in parent.glob(f".{trial_id}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > STAGING_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _read_holder(path: Path, missing: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a lease says; {} where it cannot be read, `missing` where there is none. Raises OSError for a mount that fails."""
    try:
        value = json.loads(path.read_bytes())
        return value if isinstance(value, dict) else {}
    except (FileNotFoundError, NotADirectoryError):
        return dict(missing or {})
    except ValueError:
        return {}


def _machine() -> str:
    """Which machine, since which boot, in which container: where a process number means one process."""
    boot, namespace = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace}"


def _started(pid: object) -> str:
    """When a process of this machine began, in clock ticks; "" for none. Numbers of processes are used again."""
    try:
        # The name, in brackets, may hold spaces and brackets; the start is the 22nd field.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _living_holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lease and may still be at work; None for nobody."""
    try:
        age = time.time() - path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    if age > LEASE_SECONDS:
        return None
    holder: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        holder = _read_holder(path)
    if holder.get("machine") == _machine() and holder.get("started") != _started(holder.get("pid")):
        return None
    return {**holder, "age": age}


def _refuse_if_alive(path: Path, name: str) -> None:
    """Raises LeaseTaken when the lease's holder may still be at work."""
    holder = _living_holder(path)
    if holder is not None:
        raise LeaseTaken(f"{name} is being worked on by {_who(holder)}.")


def _refuse_if_claimed(folder: Path, name: str, claims: set[str]) -> None:
    """Raises LeaseTaken when a living process claims one of these things under another name."""
    for path in sorted(folder.glob("*.json")) if claims else ():
        holder = _living_holder(path)
        if path.stem == name or holder is None:
            continue
        shared = claims.intersection(holder.get("claims") or ())
        if shared:
            raise LeaseTaken(
                f"{len(shared)} of the trials and evaluations that {name} needs are being worked on by {path.stem} "
                f"({_who(holder)})."
            )


def _who(holder: Mapping[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}, last sign of life {holder['age']:.0f} s ago"


def write_commit(folder: Path) -> None:
    """COMMIT.json, with the size and SHA-256 of every file in the folder, last and synced."""
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
    write_json(folder / COMMIT, seal.sealed_json({"files": files, "committed_at": time.time()}))


def commit_fault(folder: Path, *, verify: bool = False) -> str | None:
    """What keeps a trial's folder from being whole, in words; None if nothing does.

    `verify` hashes every file, read anew; without it this is a look, as the head of this page says.
    """
    try:
        value = json.loads((folder / COMMIT).read_text(encoding="utf-8"))
        committed = (folder / COMMIT).stat().st_mtime_ns
        if not seal.agrees(value) or "trial.json" not in value["files"]:
            return f"{COMMIT} is damaged"
        for name, expected in value["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            stat = path.stat()
            if stat.st_size != expected["bytes"]:
                return f"{name} has {stat.st_size} bytes, and {expected['bytes']} were committed"
            if verify:
                found = file_hash(path)
            elif expected["bytes"] <= _HASHED_BYTES or stat.st_mtime_ns > committed:
                found = seal.looked_hash(path)
            else:
                continue
            if found != expected["sha256"]:
                return f"{name} does not have the bytes that were committed"
    except FileNotFoundError:
        return f"there is no {COMMIT}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{COMMIT} is damaged"
    return None
