"""Snapshots of a fine-tune: its state every so many minutes, from which it is resumed to the same loss curve.

A snapshot has the fp32 weights that are trained, the optimizer's moments and step count, every rank's random state, the curve so
far and the totals; each rank writes its share (`shards`) into a file of its own. It may be read by another number of ranks, under
another ZeRO stage. With the number and the layout as before, the resumed run has the bits of one that was never broken off;
with others, sums have another order, and with dropout the masks are others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from inoc_ray.config.identity import content_id, identity_fields
from inoc_ray.data.tokenize import EncodedRow, encoded_hash
from inoc_ray.errors import InputError, StorageError, TrialError
from inoc_ray.store import snapshots as stored
from inoc_ray.store.place import Place
from inoc_ray.store.snapshots import FileContent, Snapshot
from inoc_ray.train import process, tensor_file
from inoc_ray.train.export import export
from inoc_ray.train.measure import Sums
from inoc_ray.train.process import from_rank_0, gathered
from inoc_ray.train.shards import WEIGHT, Fragment, Shares, shares_of
from inoc_ray.train.spec import LoopSpec, Resumption, StepRecord

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

FORMAT = 3
"""Version of what is in a snapshot; one of another version is not read."""
LOOK_SECONDS = 1.0
"""About how often the ranks look for a notice together."""
_CURVE = "curve.jsonl"
_RANDOM = "random"
_LOOK, _TAKE = 1, 2
"""What is due after a step; both may be."""
_RECORDS, _SUMS = TypeAdapter(list[StepRecord]), TypeAdapter(Sums)


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run is, beside its weights and moments."""

    step: int
    """Optimizer steps that were taken."""
    records: Sequence[StepRecord]
    """One for each of them."""
    sums: Sums
    """Over the steps."""
    seconds: float
    """Since the start of the fine-tune; what was lost with a process does not count."""
    resumed: Sequence[Resumption]
    """How often the run was resumed so far."""
    followed: str = ""
    """Hash of the fixed responses whose log-probabilities are in the records; empty where nothing is followed."""


class Notice(enum.Enum):
    """What the ranks were told from outside."""

    NOTHING = 0
    TAKE = 1
    """Take a snapshot now: what comes may end the process."""
    LEAVE = 2
    """Take a snapshot now and, if that worked, end the run, which goes on later, perhaps on other ranks."""


class Left(Exception):
    """The run was left after a snapshot, as a notice asked; raised on all ranks."""


class Snapshots:
    """The snapshots of one fine-tune; every rank has one of these objects and calls its methods at the same points.

    folder: of this trial alone, which every rank can read and write.
    of: what the trial is beside what `train` is given: its id.
    minutes: between two snapshots; None takes one only on notice.
    notice: called on all ranks at the same steps, about every LOOK_SECONDS, and returns the same on all.
    say: called on rank 0 with a line for people.
    """

    def __init__(
        self,
        folder: Place,
        *,
        of: str,
        minutes: float | None,
        notice: Callable[[], Notice] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.folder, self.of, self.notice = folder, of, notice
        self.say = say or log.warning
        self.interval = float("inf") if minutes is None else 60.0 * minutes
        self.taken = self.looked = time.perf_counter()
        self.unused: set[str] = set()
        """The names of the snapshots that were passed over."""
        self.seconds = 0.0
        """Spent on taking snapshots, by this process."""

    # -- taking ---------------------------------------------------------------------------------------------

    def begin(self, engine: Any, spec: LoopSpec, rows: Sequence[EncodedRow], steps: int) -> None:
        """Set what is trained, in how many steps; the interval starts."""
        import torch.distributed as dist

        self.engine, self.spec = engine, spec
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.identity = content_id([FORMAT, self.of, identity_of(spec), encoded_hash(rows)])
        self.kept_steps = spec.resources.checkpoint_steps(steps)
        self.taken = self.looked = time.perf_counter()

    def after_step(self, position: Callable[[], Position]) -> None:
        """Take a snapshot if it is time, or if there is a notice. Raises Left when that says so."""
        due = self._agree(self._due() if self.rank == 0 else 0)
        told = Notice.NOTHING
        if due & _LOOK and self.notice is not None:
            told = self.notice()
            self.looked = time.perf_counter()
        if due & _TAKE or told is not Notice.NOTHING:
            taken = self.take(position())
            if taken and told is Notice.LEAVE:
                raise Left

    def _due(self) -> int:
        # A step may take longer than LOOK_SECONDS, so that there is a look after each: it takes no snapshot's place.
        now = time.perf_counter()
        looks = self.notice is not None and now - self.looked >= LOOK_SECONDS
        return looks * _LOOK | (now - self.taken >= self.interval) * _TAKE

    def _agree(self, due: int) -> int:
        """Return rank 0's decision on all ranks: their clocks differ, and taking a snapshot is for all together."""
        if self.world_size == 1:
            return due
        import torch
        import torch.distributed as dist

        box = torch.tensor([due], device=self.engine.device)
        dist.broadcast(box, src=0)
        return int(box.item())

    def take(self, position: Position) -> bool:
        """Write a snapshot and return whether that worked; a failure is said and costs nothing but the snapshot.

        To be called on all ranks.
        """
        started = self.taken = time.perf_counter()
        place = self.folder / from_rank_0(stored.new_name(position.step))
        shares = shares_of(self.engine)
        written = gathered(self._write_share(place, shares, position))
        errors = [result for result in written if isinstance(result, str)]
        if self.rank == 0:
            try:
                if not errors:
                    stored.commit(place, [file for files in written for file in files], self._about(shares, position))
                    self._prune()
            except (OSError, StorageError) as error:
                errors.append(_reason(error, place))
            if errors:
                self.say(f"no snapshot after step {position.step}: {errors[0]}")
        self.seconds += time.perf_counter() - started
        return not from_rank_0(errors)

    def _prune(self) -> None:
        """Delete old snapshots. A failure, such as another node still reading one, does not concern the new snapshot."""
        try:
            stored.prune(self.folder, self.unused)
        except (OSError, StorageError) as error:
            self.say(f"old snapshots are still there: {_reason(error, self.folder)}")

    def _write_share(self, place: Place, shares: Shares, position: Position) -> list[FileContent] | str:
        """Write this rank's file, and rank 0 the curve; return what was written, or why it could not be."""
        try:
            name = stored.shard_name(self.rank)
            with place.folder() as folder:
                entries = [*map(_entry, self._own(shares)), *_random_entries(self.engine.device)]
                size, sha256 = tensor_file.write(folder / name, entries)
            files = [FileContent(name=name, bytes=size, sha256=sha256)]
            if self.rank == 0:
                lines = "".join(f"{json.dumps(dataclasses.asdict(record))}\n" for record in position.records).encode()
                (place / _CURVE).write_bytes(lines)
                digest = hashlib.sha256(lines).hexdigest()
                files.append(FileContent(name=_CURVE, bytes=len(lines), sha256=digest))
        except (OSError, StorageError) as error:
            return _reason(error, place)
        return files

    def _own(self, shares: Shares) -> Iterator[Fragment]:
        """Yield the fragments that this rank writes: without ZeRO all ranks have all, and each writes every n-th."""
        for number, fragment in enumerate(shares.fragments()):
            if shares.is_cut or number % self.world_size == self.rank:
                yield fragment

    def _about(self, shares: Shares, position: Position) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "identity": self.identity,
            "step": position.step,
            "optimizer_steps": shares.steps_taken(),
            "sizes": shares.sizes(),
            "moments": shares.moments(),
            "world_size": self.world_size,
            "totals": dataclasses.asdict(position.sums),
            "seconds": position.seconds,
            "resumed": [dataclasses.asdict(one) for one in position.resumed],
            "followed": position.followed,
            "written_at": time.time(),
        }

    def keep(self, step: int) -> None:
        """Write the weights of this step to where they stay, if it is one of `resources.checkpoints`.

        To be called on all ranks, after every step. Raises TrialError on all when they are not usable, InputError when they
        cannot be written: a curve of checkpoints with a hole would look like one without.
        """
        if step not in self.kept_steps:
            return
        place = stored.checkpoint(self.folder, step)
        fault: TrialError | InputError | None = None
        exported = False
        files: list[FileContent] = []
        try:
            with contextlib.ExitStack() as stack:
                folder = None
                if self.rank == 0:
                    place.filesystem.delete_folder(place.key)
                    folder = stack.enter_context(place.folder())
                exported = True
                export(self.engine, self.spec, folder)
                if folder is not None:
                    files = stored.contents(folder)
            if self.rank == 0:
                # Only now is every file in its place.
                stored.commit(place, files, {"identity": self.identity})
        except TrialError as error:
            fault = error
        except (OSError, StorageError) as error:
            if not exported:
                # The other ranks are about to gather the weights, which they do with this one or not at all.
                export(self.engine, self.spec, None)
            fault = InputError(f"the weights after step {step} cannot be kept: {_reason(error, place)}.")
        fault = from_rank_0(fault)
        if fault is not None:
            raise fault

    # -- resuming -------------------------------------------------------------------------------------------

    def resume(self) -> Position | None:
        """Give the engine the state of the latest intact snapshot of this very fine-tune, and return its position.

        None if there is none. One that is damaged, or of something else, is said and passed over. To be called on all ranks,
        before the first step.
        """
        for snapshot in self._candidates():
            position, fault = self._check(snapshot)
            faults = [one for one in gathered(fault) if one is not None]
            if faults:
                self._pass_over(snapshot.place, faults[0])
                continue
            assert position is not None
            self._restore(snapshot)
            return position
        return None

    def _pass_over(self, place: Place, fault: str) -> None:
        self.unused.add(place.name)
        if self.rank == 0:
            self.say(f"snapshot {place.name} is not used: {fault}")

    def _candidates(self) -> Iterator[Snapshot]:
        """Yield this trial's snapshots, latest first, the same on all ranks; rank 0 reads for all."""
        names = from_rank_0([place.name for place in stored.committed(self.folder)] if self.rank == 0 else None)
        for name in names:
            place = self.folder / name
            value: tuple[tuple[FileContent, ...], Mapping[str, Any]] | str | None = None
            if self.rank == 0:
                try:
                    snapshot = stored.read(place)
                    value = self._foreign(snapshot.about) or (snapshot.files, snapshot.about)
                except ValueError as error:
                    value = f"{error}."
            value = from_rank_0(value)
            if isinstance(value, str):
                self._pass_over(place, value)
            else:
                files, about = value
                yield Snapshot(place=place, files=files, about=about)

    def _foreign(self, about: Mapping[str, Any]) -> str | None:
        """Return why the snapshot is not one of this fine-tune, or None."""
        if about.get("format") != FORMAT:
            return f"it has the format {about.get('format')} of another version of inoc_ray, not {FORMAT}."
        if about.get("identity") != self.identity:
            return "it is of another trial, recipe or rows."
        if about.get("sizes") != shares_of(self.engine).sizes():
            return "it is of other parameters."
        return None

    def _check(self, snapshot: Snapshot) -> tuple[Position | None, str | None]:
        """Hash this rank's part of the files, and look whether they are complete; return the position or the fault."""
        try:
            # With as many ranks as had taken it, each reads the file that it wrote, which it is going to need.
            files = sorted(snapshot.files, key=lambda file: (file.name == _CURVE, file.name))
            for file in files[self.rank :: self.world_size]:
                if (fault := stored.file_fault(snapshot.place, file, fetched=True)) is not None:
                    return None, f"{fault}."
            _Pieces(snapshot).check(snapshot.about)
            # Whatever `_restore` reads must be there, since it changes the engine.
            int(snapshot.about["optimizer_steps"])
            for step in [one for one in self.kept_steps if one <= snapshot.about["step"]] if self.rank == 0 else ():
                fault = stored.fault(stored.checkpoint(self.folder, step), {"identity": self.identity})
                if fault is not None:
                    return None, f"the checkpoint after step {step}, which is to be kept, is not there: {fault}."
            return _position(snapshot, self.world_size), None
        except ValidationError as error:
            wrong = error.errors()[0]
            return None, f"it cannot be read ({'.'.join(map(str, wrong['loc']))}: {wrong['msg']})."
        except (OSError, ValueError, KeyError, TypeError) as error:
            return None, f"it cannot be read ({type(error).__name__}: {error})."

    def _restore(self, snapshot: Snapshot) -> None:
        shares = shares_of(self.engine)
        shares.prepare()
        pieces = _Pieces(snapshot)
        for fragment in shares.fragments():
            fragment.set(pieces.read(fragment.name, fragment.kind, fragment.start, fragment.length))
        shares.set_steps_taken(int(snapshot.about["optimizer_steps"]))
        shares.publish()
        if snapshot.about["world_size"] == self.world_size:
            _set_random(pieces, self.rank, self.engine.device)
        else:
            # The states belong to other ranks; the seed must not be that of step 1 either.
            process.seed_everything(self.spec.seed + 1_000_003 * (self.rank + 1) + 7_919 * int(snapshot.about["step"]))


def identity_of(spec: LoopSpec) -> dict[str, Any]:
    """Return what a snapshot must have in common with the fine-tune that it resumes; the resources may be others."""
    return {
        "seed": spec.seed,
        "recipe": identity_fields(spec.recipe),
        "enable_thinking": spec.enable_thinking,
        "starts": spec.start is not None,
    }


class _Pieces:
    """The tensors in all files of a snapshot. A file is fetched when a tensor of it is asked for: a rank needs few of them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.place = snapshot.place
        self.opened: dict[str, Any] = {}
        self.found: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for file in snapshot.files:
            if not file.name.endswith(".safetensors"):
                continue
            with (self.place / file.name).open() as stream:
                shapes = tensor_file.shapes(stream)
            for key, shape in shapes.items():
                name, _, rest = key.partition("|")
                kind, _, start = rest.partition("|")
                if name != _RANDOM:
                    (length,) = shape
                    self.found.setdefault((name, kind), []).append((int(start), length, file.name))

    def _file(self, name: str) -> Any:
        from safetensors import safe_open

        if name not in self.opened:
            self.opened[name] = safe_open((self.place / name).fetch(), framework="pt")
        return self.opened[name]

    def check(self, about: Mapping[str, Any]) -> None:
        """Raise ValueError unless every parameter and moment is there from its first element to its last."""
        for name, size in about["sizes"].items():
            for kind in (WEIGHT, *about["moments"]):
                end = 0
                for start, length, _ in sorted(self.found.get((name, kind), [])):
                    end = max(end, start + length) if start <= end else end
                if end != size:
                    raise ValueError(f"{kind} of {name} ends at element {end} of {size}")

    def read(self, name: str, kind: str, start: int, length: int) -> torch.Tensor:
        """Return elements start ≤ i < start + length of a parameter's weight or moment, fp32."""
        import torch

        out = torch.empty(length)
        for first, count, file in self.found[name, kind]:
            low, high = max(start, first), min(start + length, first + count)
            if low < high:
                piece = self._file(file).get_slice(_key(name, kind, first))[low - first : high - first]
                out[low - start : high - start] = piece
        return out

    def random(self, rank: int, what: str) -> torch.Tensor | None:
        """Return a random state of a rank, or None if it wrote none."""
        file = self._file(stored.shard_name(rank))
        key = f"{_RANDOM}|{what}|0"
        return file.get_tensor(key) if key in file.keys() else None  # noqa: SIM118 - it is no mapping


def _key(name: str, kind: str, start: int) -> str:
    return f"{name}|{kind}|{start}"


def _entry(fragment: Fragment) -> tensor_file.Entry:
    import torch

    return tensor_file.Entry(
        name=_key(fragment.name, fragment.kind, fragment.start),
        shape=(fragment.length,),
        dtype=torch.float32,
        get=fragment.get,
    )


def _random_entries(device: torch.device) -> Iterator[tensor_file.Entry]:
    """Yield torch's random states, which dropout draws from: the CPU's, and that of a GPU."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    for what, state in states.items():
        yield tensor_file.Entry(
            name=f"{_RANDOM}|{what}|0", shape=tuple(state.shape), dtype=state.dtype, get=functools.partial(_same, state)
        )


def _same(state: torch.Tensor) -> torch.Tensor:
    return state


def _set_random(pieces: _Pieces, rank: int, device: torch.device) -> None:
    import torch

    if (state := pieces.random(rank, "cpu")) is not None:
        torch.set_rng_state(state)
    if device.type == "cuda" and (state := pieces.random(rank, "device")) is not None:
        torch.cuda.set_rng_state(state, device)


def _position(snapshot: Snapshot, world_size: int) -> Position:
    """Read where the run was. Raises ValueError when curve or totals are not complete or have not today's form."""
    about = snapshot.about
    lines = (snapshot.place / _CURVE).read_text().splitlines()
    records = _RECORDS.validate_python([json.loads(line) for line in lines])
    step = int(about["step"])
    if [record.step for record in records] != list(range(1, step + 1)):
        raise ValueError(f"its curve has not the steps 1 to {step}")
    sums = _SUMS.validate_python(about["totals"])
    if dataclasses.asdict(sums) != about["totals"]:
        raise ValueError("its totals are not complete")
    earlier = [Resumption(**one) for one in about["resumed"]]
    now = Resumption(
        after_step=step,
        world_size=world_size,
        earlier_world_size=int(about["world_size"]),
        snapshot_age=max(0.0, time.time() - float(about["written_at"])),
    )
    return Position(
        step=step,
        records=records,
        sums=sums,
        seconds=float(about["seconds"]),
        resumed=(*earlier, now),
        followed=str(about["followed"]),
    )


def _reason(error: OSError | StorageError, place: Place) -> str:
    if isinstance(error, StorageError):
        return str(error).rstrip(".")
    return f"{error.strerror or type(error).__name__} ({place})"
