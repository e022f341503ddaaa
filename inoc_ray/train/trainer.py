"""A group of fine-tunes as one Ray Train run: a warm worker group trains one trial after another.

Each trial is committed by itself, by rank 0, when it is done; a group that is started again, by Ray after a lost worker
or by a later submission, skips what is committed. What comes back is read from the store, not from the workers, so it
is right whatever happened to them.

A trial that fails (bad rows, a loss that is not finite, weights that are not usable) is written to its log and the
group goes on. A trial that kills its worker cannot be caught: the group is started again (`max_failures` times) and
takes it last, so it costs the others a restart but never their turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from inoc_ray.data.chat import ChatRow, parse_row, read_jsonl, rows_hash
from inoc_ray.errors import InputError, TrialError
from inoc_ray.store.commit import weights_in, write_trial
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store
from inoc_ray.study.resources import Resources
from inoc_ray.train.spec import LoopResult, LoopSpec, StepRecord

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.5
"""Time between progress reports. Ray's controller takes one report per worker every 2 s and a worker that has another
waits until then: a report per step makes every step last 2 s (measured)."""

_CONTENT_HASH = re.compile(r"[0-9a-f]{64}")
"""The name of rows that the store keeps."""

START_ATTEMPTS = 30
"""How often a worker group that does not start within Ray's 60 s is tried again; Ray's own default is for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialJob:
    """One trial to train; `to_dict` and `from_dict` take it to the workers and back."""

    trial_id: str
    label: str
    """How people name it, in progress and messages: setting/arm/seed."""
    spec: LoopSpec
    rows: str | Sequence[Mapping[str, Any]]
    """A JSONL file that every worker can read, or the rows themselves (`ChatRow.to_dict()`)."""
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the trial's record says beside what training adds."""
    variants: int = 1
    """How many sets of the same rows, with other wordings of the prompt, `rows` holds; the epochs take them in turn."""

    def to_dict(self) -> dict[str, Any]:
        """Return the job as JSON-able values; of the resources those of a single trial."""
        return dict(_JOB.dump_python(self, mode="json"))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TrialJob:
        """Read what `to_dict` returned."""
        return _JOB.validate_python(value)


_JOB = TypeAdapter(TrialJob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a trial."""

    trial_id: str
    label: str
    status: Literal["trained", "skipped", "failed"]
    """skipped: it was committed before."""
    seconds_training: float = 0.0
    """Optimizer steps alone."""
    seconds_total: float = 0.0
    """With reading and encoding rows, making the model, export and commit; without the start of the group."""
    final_loss: float | None = None
    error: str | None = None
    """One line; the traceback is in the store's log of the trial."""


def train_group(
    jobs: Sequence[TrialJob],
    resources: Resources,
    storage: str,
    run_name: str,
    callbacks: Sequence[Any] = (),
) -> list[Outcome]:
    """Train the jobs on one worker group and return one outcome per job, in their order; blocks until all is done.

    `storage` is the store's folder, mounted on every node; `run_name` names the Ray Train run and must be the same for
    the same jobs, so that no timestamps. `callbacks` are Ray Train `UserCallback`s, for progress. To be called in a
    driver, or in the function of a Ray Tune trial. Nothing is started when everything is committed already.
    """
    store = Store(storage)
    done_before = {job.trial_id for job in jobs if store.trial_done(job.trial_id)}
    group_error: str | None = None
    waiting = [job for job in jobs if job.trial_id not in done_before]
    if waiting:
        for job in waiting:
            store.trial_log(job.trial_id).unlink(missing_ok=True)
        group_error = _run_group(waiting, resources, store, run_name=run_name, callbacks=list(callbacks))
    return [outcome_of(job, store, job.trial_id in done_before, group_error) for job in jobs]


def _run_group(
    jobs: Sequence[TrialJob], resources: Resources, store: Store, *, run_name: str, callbacks: list[Any]
) -> str | None:
    """Run the Ray Train run; return the text of the error that ended it, if one did."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "jobs": [job.to_dict() for job in jobs],
            "storage": store.address,
            "run_name": run_name,
            "cpus": resources.cpus_per_worker,
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=run_name,
            storage_path=str(store.ray()),
            failure_config=FailureConfig(max_failures=resources.max_failures, controller_failure_limit=START_ATTEMPTS),
            callbacks=callbacks or None,
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return str(error)
    return None


def outcome_of(job: TrialJob, store: Store, done_before: bool, group_error: str | None) -> Outcome:
    """Return what the store says of a job after its group ended; a job without commit and log gets `group_error` as its log."""
    if store.trial_done(job.trial_id):
        training = store.read_trial(job.trial_id)["training"]
        return Outcome(
            trial_id=job.trial_id,
            label=job.label,
            status="skipped" if done_before else "trained",
            seconds_training=0.0 if done_before else training["seconds_training"],
            seconds_total=0.0 if done_before else training["seconds_total"],
            final_loss=training["final_loss"],
        )
    path = store.trial_log(job.trial_id)
    if not path.exists():
        path.write_text(group_error or "The worker group ended before this trial was trained.\n")
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    error = lines[-1] if lines else "no message"
    return Outcome(trial_id=job.trial_id, label=job.label, status="failed", error=error)


# -- on the workers -------------------------------------------------------------------------------------------


def train_worker(config: Mapping[str, Any]) -> None:
    """Train the jobs one after another on this rank, with process, imports and base kept warm."""
    from inoc_ray.train import process
    from inoc_ray.train.model import BaseModelCache

    process.set_threads(config["cpus"])
    process.ready()
    store = Store(config["storage"])
    worker = _Worker(store, store.attempts(config["run_name"]), BaseModelCache())
    for job in worker.agree_on_order([TrialJob.from_dict(job) for job in config["jobs"]]):
        worker.train(job)


def _from_rank_0(value: Any) -> Any:
    """Return rank 0's value on every rank; a barrier."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class _Progress:
    """Reports to Ray Train about every REPORT_SECONDS of training, over trials and on all ranks at the same step.

    `ray.train.report` is a barrier, so each rank must call it equally often, and clocks differ: rank 0 says with each
    report after how many steps the next one comes. Only the steps' own seconds count; if the time that a report waits
    did, each would bring the next one nearer.
    """

    def __init__(self) -> None:
        self.left = self.steps = 1
        self.seconds = 0.0

    def step(self, seconds: float, metrics: Mapping[str, Any]) -> None:
        """Count an optimizer step of that length in seconds, and report `metrics` if it is time."""
        import ray.train

        self.left -= 1
        self.seconds += seconds
        if self.left:
            return
        ray.train.report(dict(metrics))
        self.steps = _from_rank_0(max(1, math.ceil(REPORT_SECONDS * self.steps / self.seconds)))
        self.left, self.seconds = self.steps, 0.0


class _Worker:
    """One rank of a group."""

    def __init__(self, store: Store, attempts: Place, cache: Any) -> None:
        import torch.distributed as dist

        self.store, self.attempts, self.cache = store, attempts, cache
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.tokenizers: dict[str, Any] = {}
        self.progress = _Progress()

    def agree_on_order(self, jobs: list[TrialJob]) -> list[TrialJob]:
        """Return the jobs that are not committed, those last that a lost group had begun; rank 0 decides for all."""
        order: list[int] = []
        if self.rank == 0:
            waiting = [n for n, job in enumerate(jobs) if not self.store.trial_done(job.trial_id)]
            order = sorted(waiting, key=lambda n: (self.attempts / jobs[n].trial_id).exists())
        return [jobs[n] for n in _from_rank_0(order)]

    def train(self, job: TrialJob) -> None:
        """Train and commit one job, or write its failure to its log."""
        begun = time.perf_counter()
        mark = self.attempts / job.trial_id
        if self.rank == 0:
            mark.write_text(str(os.getpid()))
        try:
            with contextlib.ExitStack() as stack:
                folder = stack.enter_context(self.store.stage_trial(job.trial_id)) if self.rank == 0 else None
                self._train_into(folder, job, begun)
        except Exception as error:
            # Input and trial errors are raised on every rank alike, or on rank 0 after the last collective, so all go
            # on to the next trial together. Any other error may be one rank's alone, and the others wait for it in a
            # collective: then the group must end.
            log.exception("trial %s (%s) failed", job.trial_id, job.label)
            if self.rank == 0:
                self._write_log(job, error)
            if self.world_size > 1 and not isinstance(error, InputError | TrialError):
                raise
        if self.rank == 0:
            mark.unlink(missing_ok=True)

    def _train_into(self, folder: Path | None, job: TrialJob, begun: float) -> None:
        from inoc_ray.data.tokenize import encode_rows, load_tokenizer
        from inoc_ray.train.loop import train

        spec = job.spec
        if spec.model not in self.tokenizers:
            self.tokenizers[spec.model] = load_tokenizer(spec.model)
        tokenizer = self.tokenizers[spec.model]
        label = job.rows if isinstance(job.rows, str) else job.label
        encoded = encode_rows(
            tokenizer,
            _rows(job),
            max_length=spec.recipe.max_length,
            label=label,
            enable_thinking=spec.enable_thinking,
        )
        steps = spec.recipe.total_steps(len(encoded) // job.variants)
        records: list[StepRecord] = []

        def on_step(record: StepRecord) -> None:
            records.append(record)
            progress = {"step": record.step, "steps": steps, "loss": record.loss}
            progress["tokens_per_second"] = record.tokens_per_second
            self.progress.step(
                record.tokens / record.tokens_per_second, {"job": job.trial_id, "label": job.label, **progress}
            )

        out = weights_in(folder) if folder is not None else None
        result = train(spec, encoded, on_step, out=out, cache=self.cache, variants=job.variants)
        if folder is not None:
            _write_records(
                folder, job, result=result, records=records, chat_template=tokenizer.chat_template, begun=begun
            )

    def _write_log(self, job: TrialJob, error: Exception) -> None:
        self.store.trial_log(job.trial_id).write_text("".join(traceback.format_exception(error)))


def _rows(job: TrialJob) -> list[ChatRow]:
    if isinstance(job.rows, str):
        path = Path(job.rows)
        rows = read_jsonl(path)
        if _CONTENT_HASH.fullmatch(path.stem) and rows_hash(rows) != path.stem:
            raise InputError(
                f"{path}: damaged, these are not the rows that its name says; delete it and run the study again."
            )
        return rows
    return [parse_row(row, f"{job.label}, row {number}") for number, row in enumerate(job.rows, start=1)]


def _write_records(
    folder: Path,
    job: TrialJob,
    *,
    result: LoopResult,
    records: Sequence[StepRecord],
    chat_template: str,
    begun: float,
) -> None:
    """Write the record of the trial and its curve beside the weights in the staging folder."""
    training = {**dataclasses.asdict(result), "seconds_total": time.perf_counter() - begun}
    trial = {
        **job.record,
        "trial_id": job.trial_id,
        "label": job.label,
        "loop": job.spec.record(),
        "training": training,
        "chat_template": chat_template,
    }
    write_trial(folder, trial, map(dataclasses.asdict, records))
