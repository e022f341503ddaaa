"""One fine-tune with DeepSpeed, without Ray: rows in, weights in a folder out.

The loss of an optimizer step is the mean over the *target tokens of the global batch*, whatever the world size W and
the number A of micro batches per rank are:

    L = (1 / T) · Σ_rank Σ_micro Σ_token −log p(token),   T = target tokens of the global batch.

Every rank knows all rows and so T without asking. DeepSpeed averages gradients over ranks (÷ W), so each micro batch
contributes W / T · Σ_token −log p(token), and `scale_wrt_gas=False` takes away its division by A. Means of micro-batch
means, the usual way, weigh a token by how many targets its neighbours happen to have, and change with W and A.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.config.identity import content_id
from inoc_ray.data.tokenize import EncodedRow, encoded_hash
from inoc_ray.errors import InputError, TrialError, writing
from inoc_ray.train import inputs, lora_linear, process, zero
from inoc_ray.train.attention import prepare, settle
from inoc_ray.train.batches import global_batches
from inoc_ray.train.choice import SAMPLED, Rows, choose
from inoc_ray.train.dynamics import Looks, points_for
from inoc_ray.train.export import export
from inoc_ray.train.flops import StepFlops, Work
from inoc_ray.train.head import TargetLoss
from inoc_ray.train.inputs import PassInputs
from inoc_ray.train.layout import check_batch, check_fits
from inoc_ray.train.measure import Phases, Spent, Sums, Totals
from inoc_ray.train.model import BaseModelCache, make_model, parameter_groups, size
from inoc_ray.train.schedule import learning_rate_at
from inoc_ray.train.snapshot import Position, Snapshots
from inoc_ray.train.spec import LoopResult, LoopSpec, Resumption, StepRecord

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def train(
    spec: LoopSpec,
    rows: Sequence[EncodedRow],
    on_step: Callable[[StepRecord], None],
    *,
    out: Path | None,
    cache: BaseModelCache | None = None,
    on_trained: Callable[[Any], None] | None = None,
    variants: int = 1,
    snapshots: Snapshots | None = None,
    on_resume: Callable[[Sequence[StepRecord]], None] | None = None,
    probes: Mapping[str, Sequence[EncodedRow]] | None = None,
    points: int | None = None,
) -> LoopResult:
    """Fine-tune the base, or an adapter of it, on `rows` and write the adapter (or the whole model) to `out`.

    To be called on every rank with the same `spec` and `rows`; rank 0 alone writes, so the others may hand in None.
    `on_step` is called after each optimizer step, on every rank; `on_trained` with the DeepSpeed engine after the last
    step, before it is destroyed. May be called again in the same process: the weights that come out have the same
    bits whatever was trained before (on a CPU; dropout draws from a seed per rank, so with dropout the world size
    changes the result). `cache` keeps a LoRA base in memory between calls. With `variants`, `rows` are that many sets of the
    same rows one after another, and the epochs take the sets in turn.

    With `snapshots` it goes on from the latest one, if there is one, and takes new ones; `on_resume` is called with the records
    of the steps that were taken before, which `on_step` does not get again.

    With `probes` (name → fixed responses) the records of some steps have their log-probabilities, `points` times in all; None
    for as often as takes less than 5 % of the time. The weights do not depend on it. No record has them where the steps before a
    resumption were followed with other responses, or not at all: half a curve has no beginning.

    Raises InputError for rows or batch sizes that cannot be trained on and where the weights cannot be written, TrialError when the
    loss is no longer finite.
    """
    started = time.perf_counter()
    device = process.ready()
    import torch.distributed as dist

    if not rows:
        raise InputError("there are no rows to train on.")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    recipe = spec.recipe
    _check_passes(spec, rows, world_size)
    if len(rows) % variants:
        raise InputError(f"{len(rows)} rows are not {variants} sets of the same rows.")
    distinct = len(rows) // variants
    steps = recipe.total_steps(distinct)
    with process.deterministic(device):
        engine = _make_engine(spec, device, world_size, cache)
        try:
            # The adapter came out of one seed on all ranks; dropout must differ between them.
            process.seed_everything(spec.seed + 1_000_003 * (rank + 1))
            run = _Run(spec, rows, engine, device=device, steps=steps, variants=variants)
            course = _Course(run, snapshots, started=started, probes=probes or {})
            if course.records and on_resume is not None:
                on_resume(course.records)
            batches = global_batches(distinct, recipe.batch_size, steps, seed=spec.seed, variants=variants)
            done = len(course.records)
            looks = run.looks(course.probes, points)
            before = None if done else run.look(looks, 0)
            for step, batch in itertools.islice(enumerate(batches, start=1), done, None):
                record = run.step(step, batch)
                after = run.look(looks, step)
                if before or after:
                    record = dataclasses.replace(record, logprobs=after, logprobs_before=before)
                    before = None
                on_step(record)
                course.after(record)
            # The last look is behind the last step's record.
            run.measures.phases.update(run.phases.take())
            if on_trained is not None:
                on_trained(engine)
            measured = run.measures.result()
            trained = sum(size(p) for p in engine.module.parameters() if p.requires_grad)
            with writing(out):
                export(engine, spec, out)
        finally:
            zero.destroy(engine)
            del engine
            # The engine and its hooks refer to each other; without this the next trial starts with two engines.
            gc.collect()
    return LoopResult(
        steps=steps,
        final_loss=run.loss,
        trainable_parameters=trained,
        world_size=world_size,
        accumulation=run.passes,
        layout="packed" if run.choice.layout.packed else "padded",
        layout_reason=run.choice.reason,
        loss_way=run.target_loss.how,
        **measured,
        seconds_total=course.seconds(),
        seconds_before=course.seconds_before,
        seconds_snapshots=0.0 if snapshots is None else snapshots.seconds,
        resumed=tuple(course.resumed),
        checkpoints=spec.resources.checkpoint_steps(steps),
    )


def _check_passes(spec: LoopSpec, rows: Sequence[EncodedRow], world_size: int) -> None:
    """Raise InputError when the batch cannot be divided among ranks and passes, or a row is longer than a pass."""
    check_batch(spec.recipe.batch_size, spec.resources, world_size)
    longest = max(range(len(rows)), key=lambda row: len(rows[row].input_ids))
    check_fits(len(rows[longest].input_ids), spec.resources.micro_batch_tokens, f"row {longest + 1}")


def _make_engine(spec: LoopSpec, device: torch.device, world_size: int, cache: BaseModelCache | None) -> Any:
    import deepspeed
    import torch

    config = zero.deepspeed_config(spec, world_size)
    process.seed_everything(spec.seed)
    model = process.on_all_ranks(lambda: make_model(spec, config, device, cache))
    if spec.recipe.method == "lora" and spec.resources.zero_stage < 3:
        lora_linear.use(model)
    groups = parameter_groups(model, spec.recipe.weight_decay)
    # Betas and epsilon are torch's defaults; fused is one kernel per step and is built for CPUs too.
    optimizer = torch.optim.AdamW(groups, lr=spec.recipe.learning_rate, fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    if world_size == 1 and spec.resources.zero_stage == 0 and spec.recipe.precision == "fp32":
        # One rank has nothing to exchange; going through all modules for it costs a small model 2 % of a step.
        engine.enable_backward_allreduce = False
    return engine


class _Course:
    """The steps of a fine-tune so far, over all processes that took part: resumed from a snapshot, and kept in the next one."""

    def __init__(
        self,
        run: _Run,
        snapshots: Snapshots | None,
        *,
        started: float,
        probes: Mapping[str, Sequence[EncodedRow]],
    ) -> None:
        self.run, self.snapshots, self.started, self.probes = run, snapshots, started, probes
        self.records: list[StepRecord] = []
        self.resumed: list[Resumption] = []
        self.seconds_before = 0.0
        if snapshots is None:
            if run.spec.resources.checkpoints:
                raise InputError("resources.checkpoints: without snapshots there is no place to keep them.")
            return
        snapshots.begin(run.engine, run.spec, run.rows, run.steps)
        position = snapshots.resume()
        if position is not None:
            self.records, self.resumed = list(position.records), list(position.resumed)
            self.seconds_before = position.seconds
            run.go_on(position.sums)
            if position.followed != _hash_of(probes):
                self.records = [dataclasses.replace(one, logprobs=None, logprobs_before=None) for one in self.records]
                self.probes = {}
                if probes and run.rank == 0:
                    snapshots.say(
                        f"dynamics: not followed, as the first {position.step} steps were trained while other responses were "
                        "followed, or none."
                    )

    def after(self, record: StepRecord) -> None:
        """Note a step, keep its weights if they are asked for, and take a snapshot if it is time.

        Not of the last step, whose weights are written next.
        """
        self.records.append(record)
        if self.snapshots is not None and record.step < self.run.steps:
            with self.run.phases.of("checkpoint"):
                self.snapshots.keep(record.step)
                self.snapshots.after_step(self._position)

    def seconds(self) -> float:
        """Return the seconds since the start, of this process and of those before up to their snapshots."""
        return self.seconds_before + time.perf_counter() - self.started

    def _position(self) -> Position:
        return Position(
            step=len(self.records),
            records=self.records,
            sums=self.run.sums(),
            seconds=self.seconds(),
            resumed=self.resumed,
            followed=_hash_of(self.probes),
        )


def _hash_of(probes: Mapping[str, Sequence[EncodedRow]]) -> str:
    """Return what tells apart the responses that are followed; empty where there are none."""
    return content_id({name: encoded_hash(rows) for name, rows in probes.items()}) if probes else ""


class _Run:
    """The optimizer steps of one fine-tune, with their totals."""

    def __init__(
        self,
        spec: LoopSpec,
        rows: Sequence[EncodedRow],
        engine: Any,
        *,
        device: torch.device,
        steps: int,
        variants: int = 1,
    ) -> None:
        import torch.distributed as dist

        self.spec, self.rows, self.engine, self.device, self.steps = spec, rows, engine, device, steps
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.sizes = Rows(lengths=[len(row.input_ids) for row in rows], targets=[row.targets for row in rows])
        self.trained = [p for p in engine.module.parameters() if p.requires_grad]
        self.target_loss = TargetLoss(engine, device, spec.resources.logits_chunk)
        self.flops = StepFlops(engine.module, spec)
        self.choice = choose(
            spec,
            prepare(engine, device, max(self.sizes.lengths)),
            self.flops,
            list(
                global_batches(
                    len(rows) // variants,
                    spec.recipe.batch_size,
                    min(steps, SAMPLED),
                    seed=spec.seed,
                    variants=variants,
                )
            ),
            rows=self.sizes,
            world_size=self.world_size,
        )
        settle(engine, packed=self.choice.layout.packed)
        log.info("layout: %s.", self.choice.reason)
        self.measures = Totals(device, spec.recipe.precision, self.world_size)
        self.phases = Phases(device)
        self.loss, self.passes = math.nan, 0

    def sums(self) -> Sums:
        """Return the sums so far, for a snapshot."""
        return self.measures.sums(loss=self.loss, passes=self.passes)

    def go_on(self, sums: Sums) -> None:
        """Set the sums to those of a snapshot."""
        self.loss, self.passes = sums.loss, sums.passes
        self.measures.go_on(sums)

    def step(self, step: int, batch: list[int]) -> StepRecord:
        """Take one optimizer step on the global batch of these row numbers.

        Raises TrialError when the loss is not finite.
        """
        import torch
        import torch.distributed as dist

        started = time.perf_counter()
        target_tokens = sum(self.sizes.targets[row] for row in batch)
        # A batch of rows without loss alone (weight: 0 on every answer) has the loss 0, not 0 / 0.
        divisor = max(1, target_tokens)
        rate = learning_rate_at(self.spec.recipe, step, self.steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.device)
        norm: Any = None
        passes = self.choice.layout.passes(batch, self.sizes.lengths)
        done = Work()
        for index, ranks in enumerate(passes):
            last = index == len(passes) - 1
            # Said at every pass, since steps may differ in their number.
            self.engine.set_gradient_accumulation_boundary(last)
            with self.phases.of("data"):
                made = self._inputs([self.rows[row] for row in ranks[self.rank]])
            works = [self.choice.work(rows, self.sizes) for rows in ranks]
            done = sum(works, done)
            with self.phases.of("forward"):
                loss = self.target_loss(made, max(work.targets for work in works))
            total += loss.detach()
            with self.phases.of("backward"):
                self.engine.backward(loss * (self.world_size / divisor), scale_wrt_gas=False)
            with self.phases.of("step"):
                if last and zero.clips_itself(self.spec):
                    norm = torch.nn.utils.clip_grad_norm_(self.trained, self.spec.recipe.clip_norm)
                self.engine.step()
        if self.world_size > 1:
            dist.all_reduce(total)
        self.loss = total.item() / divisor
        if not math.isfinite(self.loss):
            raise TrialError(f"the loss is {self.loss} at step {step} of {self.steps}; lower recipe.learning_rate.")
        lengths = [self.sizes.lengths[row] for row in batch]
        needed = Work(tokens=sum(lengths), squares=sum(n * n for n in lengths), targets=target_tokens)
        self.passes = max(self.passes, len(passes))
        measured = self.measures.add(
            Spent(
                seconds=time.perf_counter() - started,
                phases=self.phases.take(),
                needed=needed,
                done=done,
                model_flops=self.flops.model(needed),
                hardware_flops=self.flops.hardware(done, chunked=self.target_loss.chunks),
            )
        )
        return StepRecord(
            step=step,
            loss=self.loss,
            learning_rate=rate,
            grad_norm=float(self.engine.get_global_grad_norm() if norm is None else norm),
            tokens=needed.tokens,
            target_tokens=target_tokens,
            ended_at=time.time(),
            **measured,
        )

    def looks(self, sets: Mapping[str, Sequence[EncodedRow]], points: int | None) -> Looks:
        """Return what looks at probe sets with this engine. points: how often; None for what SHARE of the time allows."""
        if points is None:
            points = points_for(
                self.spec.recipe.method,
                steps=self.steps,
                tokens_of_a_step=self.spec.recipe.batch_size * sum(self.sizes.lengths) / len(self.sizes.lengths),
                tokens_of_a_look=sum(len(row.input_ids) for rows in sets.values() for row in rows),
            )
        return Looks(
            sets,
            steps=self.steps,
            points=points,
            engine=self.engine,
            loss=self.target_loss,
            layout=self.choice.layout,
            inputs=self._inputs,
            device=self.device,
        )

    def look(self, looks: Looks, step: int) -> dict[str, list[float]] | None:
        """Return what `looks` finds after a step, whose time is counted apart."""
        if step not in looks.at:
            return None
        with self.phases.of("probes"):
            return looks.after(step)

    def _inputs(self, rows: Sequence[EncodedRow]) -> PassInputs:
        if self.choice.layout.packed:
            return inputs.packed(rows, self.device, bounds=self.choice.way != "block mask")
        if self.choice.way == "padding mask":
            return inputs.masked(rows, self.device)
        return inputs.padded(rows, self.device)
