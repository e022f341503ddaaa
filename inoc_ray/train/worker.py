"""A worker of a group: one rank that trains trials one after another.

Rank 0 commits each trial when it is done. A trial that fails (bad rows, a loss that is not finite, unusable weights) is
written to its log, and the group goes on. A trial that kills its worker cannot be caught: Ray starts the group again
(`max_failures` times), and the group takes that trial last, so it costs the others a restart but never their turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import math
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.cluster.checks import check_this_node
from inoc_ray.data.chat import ChatRow, parse_row, read_jsonl, rows_hash
from inoc_ray.errors import InputError, TrialError, writing
from inoc_ray.models.resolve import on_this_node
from inoc_ray.store.commit import fetch_weights, weights_in, write_trial
from inoc_ray.store.place import Place
from inoc_ray.store.snapshots import move_checkpoints
from inoc_ray.store.store import Store
from inoc_ray.train.job import TrialJob
from inoc_ray.train.log_lines import in_words, logged_as, next_attempt, trial_facts
from inoc_ray.train.process import from_rank_0
from inoc_ray.train.snapshot import Left, Notice, Snapshots
from inoc_ray.train.spec import LoopResult, LoopSpec, StepRecord
from inoc_ray.train.watch import Watch

if TYPE_CHECKING:
    from inoc_ray.data.tokenize import EncodedRow

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.5
"""Time between progress reports. Ray's controller takes one report per worker every 2 s and a worker that has another
waits until then: a report per step makes every step last 2 s (measured)."""

LOOKS_PER_DRAIN = 5
"""The ranks look for notices about once a second; for Ray's once in so many times, since that is a call to an actor and Ray itself
looks every 5 s."""

NOTE = "note"
"""Key of a report: lines for people."""
RECORD = "record"
"""Key of a report: the step's record, as the trial's curve will have it."""


def train_worker(config: Mapping[str, Any]) -> None:
    """Train the jobs one after another on this rank, with process, imports and base kept warm."""
    from inoc_ray.train import process
    from inoc_ray.train.model import BaseModelCache

    if config["needs"] is not None:
        # Before the ranks meet: a node that joined late was not asked before the run.
        check_this_node(config["needs"])
    process.set_threads(config["cpus"])
    process.ready()
    # Each trial ends with a collection, which would look at everything that the libraries keep for ever: .15 s.
    gc.freeze()
    store = Store(config["storage"])
    import ray.train

    if ray.train.get_context().get_world_rank() == 0:
        store.room_of(config["run_name"]).write_text(ray.get_runtime_context().get_placement_group_id() or "")
    worker = _Worker(
        store,
        config["run_name"],
        BaseModelCache(),
        tell_resumed=config["tell_resumed"],
        sweep=config["sweep"],
    )
    with contextlib.suppress(Left):
        for job in worker.agree_on_order([TrialJob.from_dict(job) for job in config["jobs"]]):
            worker.train(job)
            if from_rank_0(worker.grow.is_file()):
                # The driver starts the group again, with more workers, for what is left.
                break


class _Progress:
    """Reports to Ray Train about every REPORT_SECONDS of training, over trials and on all ranks at the same step.

    `ray.train.report` is a barrier, so each rank must call it equally often, and clocks differ: rank 0 says with each
    report after how many steps the next one comes. Only the steps' own seconds count; if the time that a report waits
    did, each would bring the next one nearer.
    """

    def __init__(self) -> None:
        self.left = self.steps = 1
        self.seconds = 0.0
        self.notes: list[str] = []
        """Lines for people, which go with the next report."""

    def step(self, seconds: float, metrics: Mapping[str, Any]) -> None:
        """Count an optimizer step of that length in seconds, and report `metrics` if it is time."""
        import ray.train

        self.left -= 1
        self.seconds += seconds
        if self.left:
            return
        notes, self.notes = self.notes, []
        ray.train.report({**metrics, **({NOTE: "\n".join(notes)} if notes else {})})
        self.steps = from_rank_0(max(1, math.ceil(REPORT_SECONDS * self.steps / self.seconds)))
        self.left, self.seconds = self.steps, 0.0


class _Worker:
    """One rank of a group."""

    def __init__(self, store: Store, run_name: str, cache: Any, *, tell_resumed: bool, sweep: str | None) -> None:
        import torch.distributed as dist

        self.store, self.cache, self.tell_resumed = store, cache, tell_resumed
        self.stopped = None if sweep is None else store.stop_mark(sweep)
        self.attempts, self.grow = store.attempts(run_name), store.grow_mark(run_name)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.tokenizers: dict[str, Any] = {}
        self.encoded: tuple[tuple[object, ...], list[EncodedRow]] = ((), [])
        """The rows of the last trial, and what they depend on: the next one often differs in its seed alone."""
        self.progress = _Progress()
        self.leaves = False
        """Whether there was room for a group of more workers, and this one was to leave."""
        self.watch: Watch | None = None
        """Of rank 0, while it trains a trial."""
        self.looks = 0
        self.drained: Any = None
        """The nodes that Ray is about to lose, and when, as last seen."""

    def agree_on_order(self, jobs: list[TrialJob]) -> list[TrialJob]:
        """Return the jobs that are not committed, those last that a lost group had begun.

        Rank 0 decides for all.
        """
        order: list[int] = []
        if self.rank == 0:
            waiting = [n for n, job in enumerate(jobs) if not self.store.trial_done(job.trial_id)]
            for n in set(range(len(jobs))).difference(waiting):
                self.store.delete_snapshots(jobs[n].trial_id)
            order = sorted(waiting, key=lambda n: (self.attempts / jobs[n].trial_id).is_file())
        return [jobs[n] for n in from_rank_0(order)]

    def train(self, job: TrialJob) -> None:
        """Train and commit one job, or write its failure to its log."""
        begun = time.perf_counter()
        mark = self.attempts / job.trial_id
        attempt = 0
        if self.rank == 0:
            mark.write_text(str(os.getpid()))
            attempt = next_attempt(self.attempts, job.trial_id)
        facts = trial_facts(job, from_rank_0(attempt))
        with logged_as(facts):
            self._train_or_log(job, mark, in_words(facts), begun)
        if self.rank == 0:
            mark.unlink(missing_ok=True)

    def _train_or_log(self, job: TrialJob, mark: Place, facts: str, begun: float) -> None:
        try:
            with contextlib.ExitStack() as stack:
                folder = None
                if self.rank == 0:
                    folder = stack.enter_context(self.store.stage_trial(job.trial_id))
                    self.watch = stack.enter_context(Watch(self.store.snapshot_request(job.trial_id), self.grow))
                self._train_into(folder, job, begun)
        except Left:
            # It goes on from its snapshot in another group, and before those that wait.
            if self.rank == 0:
                mark.unlink(missing_ok=True)
            raise
        except Exception as error:
            if isinstance(error, TrialError) and self.rank == 0:
                # It would fail again in the same way.
                self.store.delete_snapshots(job.trial_id)
            # Input and trial errors are raised on every rank alike, or on rank 0 after the last collective, so all go
            # on to the next trial together. Any other error may be one rank's alone, and the others wait for it in a
            # collective: then the group must end.
            log.exception("trial %s (%s) failed", job.trial_id, job.label)
            if self.rank == 0:
                self._write_log(job, error, facts)
            if self.world_size > 1 and not isinstance(error, InputError | TrialError):
                raise

    def _train_into(self, folder: Path | None, job: TrialJob, begun: float) -> None:
        from inoc_ray.train import process
        from inoc_ray.train.loop import train

        spec, tokenizer, encoded = process.on_all_ranks(lambda: self._read(job))
        probes = process.on_all_ranks(lambda: encode_probes(job, tokenizer))
        steps = spec.recipe.total_steps(len(encoded) // job.variants)
        records: list[StepRecord] = []

        def on_step(record: StepRecord) -> None:
            records.append(record)
            progress = {"step": record.step, "steps": steps, "loss": record.loss}
            progress["tokens_per_second"] = record.tokens_per_second
            self.progress.step(
                record.tokens / record.tokens_per_second,
                {"job": job.trial_id, "label": job.label, **progress, RECORD: dataclasses.asdict(record)},
            )

        def on_resume(before: Sequence[StepRecord]) -> None:
            records.extend(before)
            if self.tell_resumed:
                self.progress.notes.append(
                    f"{job.label}: goes on after step {len(before)} of {steps}, from its last snapshot."
                )

        result = train(
            spec,
            encoded,
            on_step,
            out=weights_in(folder) if folder is not None else None,
            cache=self.cache,
            variants=job.variants,
            snapshots=self._snapshots(job),
            on_resume=on_resume,
            probes=probes,
            points=job.points,
        )
        if folder is not None:
            with writing(folder):
                move_checkpoints(self.store.snapshots(job.trial_id), result.checkpoints, folder)
                more = {"chat_template": tokenizer.chat_template, **_of_probes(probes, records)}
                _write_records(folder, job, result=result, records=records, more=more, begun=begun)

    def _read(self, job: TrialJob) -> tuple[LoopSpec, Any, list[EncodedRow]]:
        """Return what is to be trained, with the model's folder on this node; its tokenizer; and the rows."""
        from inoc_ray.data.tokenize import encode_rows, load_tokenizer

        spec = on_node(job, self.store)
        if spec.model not in self.tokenizers:
            self.tokenizers[spec.model] = load_tokenizer(spec.model)
        tokenizer = self.tokenizers[spec.model]
        key = (job.rows, spec.model, spec.recipe.max_length, spec.enable_thinking)
        if key != self.encoded[0]:
            label = str(self.store.rows(job.rows)) if isinstance(job.rows, str) else job.label
            rows = encode_rows(
                tokenizer,
                read_rows(job, self.store),
                max_length=spec.recipe.max_length,
                label=label,
                enable_thinking=spec.enable_thinking,
            )
            self.encoded = key, rows
        return spec, tokenizer, self.encoded[1]

    def _snapshots(self, job: TrialJob) -> Snapshots:
        return Snapshots(
            self.store.snapshots(job.trial_id),
            of=job.trial_id,
            minutes=job.spec.resources.snapshot_minutes,
            notice=lambda: self._notice(job.spec.resources.snapshot_minutes),
            say=lambda line: self.progress.notes.append(f"{job.label}: {line}"),
        )

    def _notice(self, snapshot_minutes: float | None) -> Notice:
        """Look for what may end this process soon: Ray's notice that a node is drained, and a command that is being stopped.

        And for room for more workers, for which the group leaves; without snapshots on the way it grows between two trials.
        """
        asked, grows = from_rank_0(None if self.watch is None else self.watch.taken())
        if grows and not self.leaves and snapshot_minutes is not None:
            # Once: a snapshot that could not be written cannot be written a second later.
            self.leaves = True
            return Notice.LEAVE
        return Notice.TAKE if self._is_drained() or asked else Notice.NOTHING

    def _is_drained(self) -> bool:
        """Return whether there is news of a node of the group that Ray is about to lose; on all ranks, at the same steps."""
        import ray.train

        self.looks += 1
        if self.looks % LOOKS_PER_DRAIN:
            return False
        drained = ray.train.get_preemption_info()
        deadline = None if drained is None else (tuple(drained.preempted_node_ids), drained.deadline_ms)
        news, self.drained = deadline not in (None, self.drained), deadline
        return news

    def _write_log(self, job: TrialJob, error: Exception, facts: str) -> None:
        if self.stopped is not None and self.stopped.exists():
            # Another rank ended first.
            return
        self.store.trial_log(job.trial_id).write_text("".join([f"{facts}\n", *traceback.format_exception(error)]))


def on_node(job: TrialJob, store: Store) -> LoopSpec:
    """Return what is to be trained, with the folders of this node: of the model, and of the adapter to start from.

    Raises InputError if one of them is not to be had here.
    """
    start = None if job.starts_from is None else str(fetch_weights(store.trials(), job.starts_from))
    model = str(on_this_node(Path(job.spec.model)))
    return dataclasses.replace(job.spec, model=model, start=start or job.spec.start)


def read_rows(job: TrialJob, store: Store) -> list[ChatRow]:
    """Return the training rows of a job. Raises InputError for a damaged file and for a wrong row."""
    if isinstance(job.rows, str):
        place = store.rows(job.rows)
        try:
            rows = read_jsonl(place.fetch())
        except FileNotFoundError as error:
            raise InputError(f"{place}: there are no such rows in the storage; run the study again.") from error
        if rows_hash(rows) != job.rows:
            raise InputError(
                f"{place}: damaged: its rows do not have the hash in its name; delete it and run the study again."
            )
        return rows
    return [parse_row(row, f"{job.label}, row {number}") for number, row in enumerate(job.rows, start=1)]


def encode_probes(job: TrialJob, tokenizer: Any) -> dict[str, list[EncodedRow]]:
    """Return probe set → fixed responses as token ids. Raises InputError for one that cannot be encoded."""
    from inoc_ray.data.tokenize import encode_rows

    return {
        name: encode_rows(
            tokenizer,
            [parse_row(row, f"dynamics, probe set {name}, response {n}") for n, row in enumerate(rows, start=1)],
            max_length=job.spec.recipe.max_length,
            label=f"dynamics, probe set {name}",
            enable_thinking=job.spec.enable_thinking,
        )
        for name, rows in job.probes.items()
    }


def _of_probes(probes: Mapping[str, Sequence[EncodedRow]], records: Sequence[StepRecord]) -> dict[str, Any]:
    """Return what the trial's record says of its probe sets: the tokens of each response, or that none was followed."""
    if not probes:
        return {}
    if not any(record.logprobs for record in records):
        return {"probes": {}}
    return {"probe_tokens": {name: [row.targets for row in rows] for name, rows in probes.items()}}


def _write_records(
    folder: Path,
    job: TrialJob,
    *,
    result: LoopResult,
    records: Sequence[StepRecord],
    more: Mapping[str, Any],
    begun: float,
) -> None:
    """Write the record of the trial and its curve beside the weights in the staging folder."""
    seconds = result.seconds_before + time.perf_counter() - begun
    training = {**dataclasses.asdict(result), "seconds_total": seconds}
    trial = {
        **job.record,
        "trial_id": job.trial_id,
        "label": job.label,
        "loop": job.spec.record(),
        "training": training,
        **more,
    }
    write_trial(folder, trial, map(dataclasses.asdict, records))
