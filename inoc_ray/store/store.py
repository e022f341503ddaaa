"""The results under one storage: the place of everything, atomic commits of trials, and which weights gave which samples.

A trial is committed in four steps: (1) everything is written into a staging folder, (2) COMMIT.json with the size and SHA-256 of
every file is written, (3) the folder is published as a whole (locally by one rename), COMMIT.json last, (4) the parent is synced:
see `commit`. Every other file that is read again has its hash in its name (samples, scores, judgments) or in itself: see `seal`.
Staging folders of killed runs remain until the same trial is committed a day or more later.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from inoc_ray.config.identity import content_id
from inoc_ray.errors import InputError, StorageError, writing
from inoc_ray.store import commit, layout, lease, seal
from inoc_ray.store.address import open_filesystem
from inoc_ray.store.filesystem import Filesystem
from inoc_ray.store.place import Place
from inoc_ray.store.samples import Part, damaged_parts, list_parts

STAGING_SECONDS = 86_400.0
"""A staging folder older than this belongs to a killed run."""


def tracking_files(folder: Path) -> tuple[Path, Path]:
    """Return the database and the artifact folder, below `Store.mlflow`, of the tracking store that needs no server."""
    return folder / layout.MLFLOW_DATABASE, folder / layout.MLFLOW_ARTIFACTS


class Store:
    """The results under one storage.

    storage: a folder (`~` is expanded), an address such as s3://bucket/prefix, or a file system. A store can be pickled: it is
    nothing but its address.
    """

    def __init__(self, storage: Path | str | Filesystem) -> None:
        self._filesystem = storage if isinstance(storage, Filesystem) else open_filesystem(storage)
        self._top = Place(self._filesystem, "")

    @property
    def address(self) -> str:
        """What a study names as its storage: a folder, or a URI."""
        return self._filesystem.address

    @property
    def is_bucket(self) -> bool:
        """Whether it is a bucket, where each question is a request."""
        return self._filesystem.is_bucket

    @property
    def root(self) -> Path:
        """The storage as a folder on this machine, for reading."""
        return self._top.fetch()

    # -- places ---------------------------------------------------------------------------------------------

    def trials(self) -> Place:
        """Return the folder of all trials, in which an engine finds adapters by trial id."""
        return self._top / layout.TRIALS

    def trial(self, trial_id: str) -> Place:
        """Return the folder of a trial."""
        return self.trials() / trial_id

    def weights_place(self, trial_id: str) -> Place:
        """Return the place of a trial's weights: an adapter, or the model of a full fine-tune."""
        return self.trial(trial_id) / layout.ADAPTER

    def adapter(self, trial_id: str) -> Path:
        """Return the folder, on this machine, with the weights of a trial, unchecked; see `commit.fetch_weights`."""
        return self.weights_place(trial_id).fetch()

    def snapshots(self, trial_id: str) -> Place:
        """Return the folder of the snapshots from which a trial in training is resumed."""
        return self._top / layout.SNAPSHOTS / trial_id

    def snapshot_request(self, trial_id: str) -> Place:
        """Return the file that asks the workers of a trial for a snapshot now; they delete it when they have seen it."""
        return self._top / layout.SNAPSHOTS / layout.request_name(trial_id)

    def delete_snapshots(self, trial_id: str) -> None:
        """Delete the snapshots of a trial that needs them no more, if there are any."""
        self._filesystem.delete_folder(self.snapshots(trial_id).key)
        self.snapshot_request(trial_id).unlink(missing_ok=True)

    def logs(self) -> Place:
        """Return the folder of the trials' logs."""
        return self._top / layout.LOGS

    def trial_log(self, trial_id: str) -> Place:
        """Return the file for the traceback of a failed trial."""
        return self.logs() / layout.log_name(trial_id)

    def rows(self, dataset_hash: str) -> Place:
        """Return the file for training rows, by their content hash."""
        return self._top / layout.ROWS / f"{dataset_hash}.jsonl"

    def evaluation(self, trial_id: str, evaluation_id: str) -> Place:
        """Return the folder of a cell: its samples, and the files derived from them."""
        return self._evaluations(trial_id) / evaluation_id

    def _evaluations(self, trial_id: str) -> Place:
        return self._top / layout.EVALUATIONS / trial_id

    def judgments(self, judge_id: str) -> Place:
        """Return the folder of all answers of a judge, keyed by its prompts."""
        return self._top / layout.JUDGMENTS / judge_id

    def capability(self, weights_id: str, capability_id: str) -> Place:
        """Return the folder of a model's capability scores: see `capabilities`."""
        return self._top / layout.CAPABILITIES / weights_id / capability_id

    def study(self, name: str) -> Place:
        """Return the folder of a study."""
        return self._top / layout.STUDIES / name

    def mlflow(self) -> Path:
        """Return the folder of the tracking store that needs no server; of a bucket's, every machine has one of its own."""
        return self._filesystem.machine_folder(layout.MLFLOW)

    def artifacts(self) -> str:
        """Return the URI of the folder for the files of MLflow's runs, where MLflow has no place of its own for them."""
        top = self._top / layout.MLFLOW / layout.MLFLOW_ARTIFACTS
        return str(top) if self.is_bucket else tracking_files(self.mlflow().resolve())[1].as_uri()

    def sync_lock(self) -> Place:
        """Return the file that is locked during a sync to MLflow."""
        return self._top / layout.MLFLOW / layout.SYNC_LOCK

    def ray(self) -> Place:
        """Return the folder of what groups of workers and their driver tell each other; safe to delete when nothing runs."""
        return self._top / layout.RAY

    def attempts(self, run_name: str) -> Place:
        """Return the folder in which a Ray Train run marks the trials that it has started."""
        return self.ray() / run_name / layout.ATTEMPTS

    def grow_mark(self, run_name: str) -> Place:
        """Return the file that asks a Ray Train run with fewer workers to end, since there is room for more."""
        return self.ray() / run_name / layout.GROW

    def room_of(self, run_name: str) -> Place:
        """Return the file with the id of the placement group that a Ray Train run's workers hold."""
        return self.ray() / run_name / layout.ROOM

    def sign_of_life(self, sweep: str) -> Place:
        """Return the file that is written while fine-tunes of a sweep go on."""
        return self.ray() / sweep / layout.SIGN_OF_LIFE

    def stop_mark(self, sweep: str) -> Place:
        """Return the file that is there when the command of a sweep was told to stop."""
        return self.ray() / sweep / layout.STOPPED

    # -- preflight ------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Write and read a probe, and try what else the storage must keep to. Raises `InputError` if that fails."""
        try:
            self._filesystem.check()
        except StorageError as error:
            raise InputError(str(error)) from error
        except OSError as error:
            raise InputError(
                f"storage: {self.address} cannot be written ({error.strerror}); choose another folder or fix its permissions."
            ) from error

    def glance(self, trial_ids: Iterable[str], *, reads: bool = False) -> AbstractContextManager[None]:
        """Look at what is stored of some trials and bases at once, for the many questions of a plan in the block.

        In a bucket what other processes write meanwhile may not be seen. reads: the block reads samples and scores, and not only
        what says whether trials and cells are done.
        """
        around = [(layout.TRIALS, trial_id) for trial_id in trial_ids]
        around += [(layout.EVALUATIONS, trial_id) for _, trial_id in around]
        early = layout.is_no_weights if reads else layout.is_read_by_plans
        return self._filesystem.glance([layout.LOGS, *map("/".join, around)], early)

    def probe(self, name: str) -> Place:
        """Return a folder of `probing`, by its name."""
        return self._top / name

    @contextlib.contextmanager
    def probing(self) -> Iterator[Place]:
        """Yield a folder for files with which nodes show each other that they see the same storage; delete it at the end."""
        folder = self.probe(f".probe-{uuid.uuid4().hex[:8]}")
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                self._filesystem.delete_folder(folder.key)

    # -- trials ---------------------------------------------------------------------------------------------

    def trial_done(self, trial_id: str, *, verify: bool = False) -> bool:
        """Return True if the trial is committed and its files are intact; `verify` hashes every file in full."""
        return commit.commit_fault(self.trial(trial_id), verify=verify) is None

    def trial_fault(self, trial_id: str) -> str | None:
        """Return what is damaged in a committed trial; None if it is intact or does not exist."""
        folder = self.trial(trial_id)
        if not folder.is_dir():
            return None
        if self._filesystem.is_bucket and not (folder / layout.COMMIT).is_file():
            # The folder is there while the files are put, one by one, and after a process that died of it.
            return commit.fault_note(folder)
        fault = commit.commit_fault(folder)
        return None if fault is None else commit.fault_note(folder) or fault

    def verify_trial(self, trial_id: str) -> str | None:
        """Hash every file of a trial that is done; return what is damaged. A damaged trial counts as not done from then on."""
        folder = self.trial(trial_id)
        fault = commit.commit_fault(folder, verify=True)
        if fault is not None:
            commit.set_aside(folder, fault)
        return fault

    @contextlib.contextmanager
    def stage_trial(self, trial_id: str) -> Iterator[Path]:
        """Yield a folder to fill; it becomes the trial's folder if the block ends without an exception.

        Write the weights to `commit.weights_in` and the rest with `commit.write_trial`. If another process commits the same trial
        meanwhile, its commit is kept: by construction of the id both have the same content. Raises InputError when the folder
        cannot be written.
        """
        final = self.trial(trial_id)
        with self._filesystem.staging(final.key) as staging:
            yield staging
            if self.trial_done(trial_id):
                return
            with writing(final):
                commit.write_commit(staging)
                if (final / layout.COMMIT).exists():
                    # Hashing took a while: another process may have committed meanwhile.
                    if self.trial_done(trial_id):
                        return
                    # Of a damaged trial, which was never done: without it `publish` deletes the rest.
                    (final / layout.COMMIT).unlink(missing_ok=True)
                try:
                    self._filesystem.publish(staging, final.key, layout.COMMIT)
                except OSError:
                    # Another process may have published it a moment earlier.
                    if not self.trial_done(trial_id):
                        raise
            self.trial_log(trial_id).unlink(missing_ok=True)
            self.delete_snapshots(trial_id)
            self._filesystem.sweep(final.key, STAGING_SECONDS)

    def discard_staged(self, trial_ids: Collection[str]) -> None:
        """Delete what killed processes staged of trials and did not commit; for whoever holds the claims on them."""
        self._filesystem.discard_staged(self.trials().key, trial_ids)

    def read_trial(self, trial_id: str) -> dict[str, Any]:
        """Return trial.json of a committed trial, with `committed_at` (epoch seconds) added.

        Raises `InputError` if it is damaged.
        """
        return commit.read_trial(self.trial(trial_id))

    def read_curves(self, trial_id: str) -> list[dict[str, Any]]:
        """Return the training curve of a committed trial: one record per optimizer step; empty if none was kept.

        Raises `InputError` if it is damaged.
        """
        return commit.read_curves(self.trial(trial_id))

    def committed_weights(self, trial_id: str) -> dict[str, str]:
        """Return file (relative to `adapter`) → committed SHA-256. Raises `InputError` if it is damaged."""
        inside = f"{layout.ADAPTER}/"
        files = commit.committed_files(self.trial(trial_id))
        return {name.removeprefix(inside): sha for name, sha in files.items() if name.startswith(inside)}

    def weights(self, trial_id: str, step: int | None = None) -> str | None:
        """Return the content id of a trial's weights, by its commit: 16 hex digits; None if it has no commit.

        step: of weights that were kept on the way; None for the final ones.
        """
        inside = layout.ADAPTER if step is None else f"{layout.CHECKPOINTS}/{step:08d}"
        try:
            files = commit.committed_files(self.trial(trial_id))
        except InputError:
            return None
        # Of a checkpoint as if it were final, so that the same files have the same id wherever they are.
        found = {
            f"{layout.ADAPTER}/{name[len(inside) + 1 :]}": sha
            for name, sha in files.items()
            if name.startswith(f"{inside}/")
        }
        return content_id(found) if found or step is None else None

    def _weights_named(self, name: str) -> str | None:
        """Return the content id of weights by their name, TRIAL or TRIAL@STEP; None if there are none."""
        return self.weights(*(commit.trial_and_step(name) or (name,)))

    def kept_steps(self, trial_id: str) -> list[int]:
        """Return the steps of which a committed trial has kept weights. Raises `InputError` if the commit is damaged."""
        return commit.checkpoint_steps(self.trial(trial_id))

    def checkpoints(self, trial_id: str) -> dict[int, Path]:
        """Return step → folder, on this machine, of the weights that a committed trial kept on the way.

        Raises `InputError` if the commit is damaged.
        """
        return {step: commit.fetch_weights(self.trials(), trial_id, step) for step in self.kept_steps(trial_id)}

    def keep_rows(self, dataset_hash: str, rows: bytes) -> Place:
        """Write training rows (JSONL) under their content hash, unless they exist; return the file."""
        path = self.rows(dataset_hash)
        known = self._filesystem.known_sha256(path.key)
        if known is None:
            is_there = path.is_file() and path.read_bytes() == rows
        else:
            is_there = known == hashlib.sha256(rows).hexdigest()
        if not is_there:
            path.write_bytes(rows)
        return path

    # -- samples --------------------------------------------------------------------------------------------

    def parts(self, trial_id: str, evaluation_id: str) -> list[Part]:
        """Return the intact parts of a cell; none if other weights than the trial's present ones gave the samples."""
        return [] if self._is_of_other_weights(trial_id) else list_parts(self.evaluation(trial_id, evaluation_id))

    def parts_of(self, cells: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[Part]]:
        """Return `parts` of many cells, with one look at the weights of each trial."""
        cells = list(dict.fromkeys(cells))
        others = {trial_id for trial_id in {cell[0] for cell in cells} if self._is_of_other_weights(trial_id)}
        return {cell: [] if cell[0] in others else list_parts(self.evaluation(*cell)) for cell in cells}

    def evaluated(self) -> set[str]:
        """Return the ids of all trials and bases with samples in the store."""
        folder = self._top / layout.EVALUATIONS
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def stored_samples(self, trial_id: str, evaluation_id: str) -> int:
        """Return the number of committed samples of a cell, counted from 0 up to the first gap."""
        parts = self.parts(trial_id, evaluation_id)
        return parts[-1].stop if parts else 0

    def damage(self, trial_ids: Iterable[str], cells: Iterable[tuple[str, str]]) -> list[str]:
        """Return a sentence for each of these trials and cells that is damaged, or whose samples are of other weights."""
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
            f"samples {part.start} to {part.stop - 1} of a cell are damaged and count as missing: {part.path} does not match the "
            "hash in its name."
            for cell in cells
            for part in damaged_parts(self.evaluation(*cell))
        ]

    def _is_of_other_weights(self, trial_id: str) -> bool:
        """Return True if the samples are of earlier weights of the trial, which was trained again since."""
        try:
            bound = (self._evaluations(trial_id) / layout.WEIGHTS).read_json()
            answered, weights = str(bound["trial_id"]), str(bound["weights"])
        except (OSError, ValueError, KeyError, TypeError):
            # Samples of an earlier version or of an untouched model have no such note.
            return False
        now = self._weights_named(answered)
        if now is None:
            # Of a trial that is trained anew nothing is known yet; one that is done may not have kept them this time.
            trial, step = commit.trial_and_step(answered) or (answered, None)
            return seal.agrees(bound) and step is not None and self.weights(trial) is not None
        return seal.agrees(bound) and now != weights

    def is_unbound(self, trial_id: str) -> bool:
        """Return True for samples of an earlier version, which have no note of the weights that gave them."""
        folder = self._evaluations(trial_id)
        return folder.is_dir() and not (folder / layout.WEIGHTS).is_file()

    def bind(self, trial_id: str, adapter_of: str | None) -> bool:
        """Note which weights give the samples of `trial_id`: those that `adapter_of` names.

        adapter_of: TRIAL, or TRIAL@STEP for weights that a trial kept on the way; None for an untouched model.

        Call it before sampling; for samples of an earlier version, before that trial is trained again. Samples of other weights
        are set aside (their folder is moved); returns True then.
        """
        folder = self._evaluations(trial_id)
        set_aside = self._is_of_other_weights(trial_id)
        if set_aside:
            aside = folder.with_name(f"{trial_id}.{uuid.uuid4().hex[:8]}.old")
            # The note moves last: until then, what remains still counts as samples of other weights.
            self._filesystem.move_folder(folder.key, aside.key, layout.WEIGHTS)
        weights = None if adapter_of is None else self._weights_named(adapter_of)
        if weights is not None:
            (folder / layout.WEIGHTS).write_json(seal.sealed_json({"trial_id": adapter_of, "weights": weights}))
        return set_aside

    # -- studies --------------------------------------------------------------------------------------------

    def keep_study(self, name: str, value: Mapping[str, Any]) -> None:
        """Write the study that is run beside its results."""
        (self.study(name) / layout.STUDY).write_json(seal.sealed_json(value))

    def read_study(self, name: str) -> dict[str, Any] | None:
        """Return what `keep_study` wrote; None if it is missing or damaged, since the study file has it all."""
        try:
            value = (self.study(name) / layout.STUDY).read_json()
            return {**value} if seal.agrees(value) else None
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def study_log(self, name: str, what: str) -> Place:
        """Return the log for the failure of something in a study."""
        return self.study(name) / layout.log_name(what)

    def under_way(self, name: str) -> Place:
        """Return the journal of a study's samples that are not committed to a cell yet."""
        return self.study(name) / layout.UNDER_WAY

    def report(self, name: str) -> Place:
        """Return the report of a study; its figures are beside it."""
        return self.study(name) / layout.REPORT

    def figures(self, name: str) -> Place:
        """Return the folder with the figures of the paper, drawn from a study."""
        return self.study(name) / layout.FIGURES

    def results_note(self, name: str) -> Place:
        """Return the note of what a study's report and MLflow runs were last written from."""
        return self.study(name) / layout.RESULTS

    def tables_note(self, name: str) -> Place:
        """Return the note of what a study's sample tables were made of."""
        return self.study(name) / layout.TABLES_NOTE

    def table(self, name: str, setting: str, model: str, arm: str, seed: int | None) -> Place:
        """Return the parquet file with all samples of one place of a study, for people."""
        return self.study(name) / layout.TABLES / layout.table_name(setting, model, arm, seed)

    # -- leases ---------------------------------------------------------------------------------------------

    def holder(self, name: str) -> dict[str, Any] | None:
        """Return the host and the pid of the process that holds the lease `name`, or None."""
        return lease.holder_of(self._top / layout.LEASES, name)

    def lease(self, name: str, claims: Collection[str] = ()) -> AbstractContextManager[lease.Lease]:
        """Hold a lease while a block runs: see `lease.hold`."""
        return lease.hold(self._top / layout.LEASES, name, claims)
