"""Asking: every missing sample of a plan, through one engine per set of weights, committed cell by cell."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from inoc_ray.asked import Evaluation
from inoc_ray.data.chat import Message
from inoc_ray.data.inoculate import placement_fields
from inoc_ray.data.tokenize import load_tokenizer, render
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.choices import ChoiceRequest, choose
from inoc_ray.evaluate.journal import Key, SampleJournal
from inoc_ray.evaluate.sample import SampleRequest, SampleResult, sample
from inoc_ray.evaluate.samples import Sample, commit_samples
from inoc_ray.identity import content_id
from inoc_ray.plan import Cell, Plan, Subject, sampling_of
from inoc_ray.progress import Progress, say
from inoc_ray.serve.adapters import FolderCatalogue, model_id_of
from inoc_ray.serve.app import Endpoint, ServeSpec, serving
from inoc_ray.settings import Question
from inoc_ray.store import Store, write_json

if TYPE_CHECKING:
    from inoc_ray.evaluate.capabilities import Wanted

T = TypeVar("T")
Serve = Callable[[ServeSpec], AbstractContextManager[Endpoint]]


def serve_spec(plan: Plan, store: Store, subject: Subject, **where: Any) -> ServeSpec:
    """The engine that `subject` is asked on.

    A base folder and all LoRA trials on it share one, whatever the models are called and whether they were taught
    something first; a full fine-tune is a model of its own.
    """
    resources = plan.study.resources
    recipes = list(plan.study.recipes.values())
    full = subject.is_own_model
    ranks = [r.lora.rank for r in recipes if r.method == "lora"]
    return ServeSpec(
        model=store.adapter(subject.trial_id) if full else subject.model.path,
        model_id=subject.model.name,
        adapters=None if full or not ranks else FolderCatalogue(store.trials(), model_hash=subject.model.hash),
        max_lora_rank=max(ranks, default=8),
        dtype="float32" if subject.precision == "fp32" else "bfloat16",
        gpus=resources.serve_gpus,
        cpus=resources.serve_cpus,
        **where,
    )


def served_name(subject: Subject, base: str) -> str:
    """The model id of the subject on its engine, which serves its own folder as `base`."""
    return base if subject.is_own_model or subject.adapter_of is None else model_id_of(base, subject.adapter_of)


def sample_seed(cell: Cell, index: int) -> int:
    """The sampling seed of one sample: different for every model, context and question, the same at every try."""
    return int(content_id([cell.subject.trial_id, cell.evaluation_id, index]), 16) >> 33


def messages_of(question: Question, cell: Cell) -> tuple[Message, ...]:
    """The question in its context."""
    return cell.surrounding.around(question.messages)


def ask_missing(plan: Plan, store: Store, serve: Serve = lambda spec: serving(spec, say)) -> list[dict[str, str]]:
    """Asks for every missing sample of models that are there; starts and stops the engines it needs, by `serve`.

    Returns what failed, as {label, error, log}. Cells that were finished before a failure are kept.
    """
    from inoc_ray.evaluate.capabilities import measure_missing, missing

    engines: dict[tuple[str, str], _Engine] = {}
    for cell in plan.to_ask:
        if plan.is_there(cell.subject):
            engines.setdefault(_weights(cell.subject), _Engine(cell.subject)).cells.append(cell)
    for wanted in missing(plan, store, plan.study.evaluation.capabilities):
        engines.setdefault(_weights(wanted.subject), _Engine(wanted.subject)).capabilities.append(wanted)
    failed: list[dict[str, str]] = []
    if not engines:
        return []
    folder = store.study(plan.study.name)
    journal = SampleJournal(folder / "samples-under-way.jsonl")
    for subject in {c.subject.trial_id: c.subject for engine in engines.values() for c in engine.cells}.values():
        if store.bind(subject.trial_id, subject.adapter_of):
            journal.forget(lambda key, old=subject.trial_id: key[0] == old)
    journal.forget(lambda key: key[2] < store.stored_samples(key[0], key[1]))
    for number, engine in enumerate(engines.values(), start=1):
        subject = engine.subject
        say(f"starting engine {number} of {len(engines)}: {subject.model.name} ({len(engine.cells)} cells to ask)")
        try:
            with serve(serve_spec(plan, store, subject, name=f"evaluate-{plan.study.name}")) as endpoint:
                if engine.cells:
                    asyncio.run(_ask(plan, store, engine.cells, endpoint, journal))
                log = folder / "capabilities.log"
                failed += measure_missing(engine.capabilities, endpoint, subject.model.path, log)
        except (TrialError, InputError, RuntimeError, OSError) as error:
            # Ray's own errors are RuntimeErrors; another engine's cells can still be asked.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log = folder / "evaluation.log"
            log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            failed.append({"label": f"evaluation on {subject.model.name}", "error": reason, "log": str(log)})
    journal.close()
    return failed


@dataclass
class _Engine:
    """What one engine is asked: those behind the same weights share it."""

    subject: Subject
    cells: list[Cell] = field(default_factory=list)
    capabilities: list[Wanted] = field(default_factory=list)


def _weights(subject: Subject) -> tuple[str, str]:
    return (subject.trial_id if subject.is_own_model else subject.model.hash), subject.precision


async def _ask(plan: Plan, store: Store, cells: Sequence[Cell], endpoint: Endpoint, journal: SampleJournal) -> None:
    """Samples all cells at once, so that the engine never waits, and commits each as soon as it is complete."""
    evaluation = plan.study.evaluation
    tokenizer = load_tokenizer(str(cells[0].subject.model.path))
    open_cells: dict[int, _OpenCell] = {}
    requests: list[SampleRequest] = []
    chosen: list[ChoiceRequest] = []
    for number, cell in enumerate(cells):
        opened = _OpenCell(store, cell, plan.stored.get(cell.key, 0), tokenizer, journal)
        open_cells[number] = opened
        missing = opened.missing()
        if cell.evaluation.choices:
            chosen += opened.choices(missing, number, endpoint.model_id)
        else:
            requests += opened.requests(missing, number, endpoint.model_id, evaluation)
    drawn = sample(endpoint, requests, concurrency=evaluation.concurrency, list_size=evaluation.prompts_per_request)
    by_log_prob = choose(endpoint, chosen, concurrency=evaluation.concurrency)
    with Progress("sampling", len(requests) + len(chosen), "samples") as progress:
        done = 0
        async for batch in _after_each_other(drawn, by_log_prob):
            placed = [(*_place(result.key), result) for result in batch]
            journal.add((open_cells[number].key(offset), result) for number, offset, result in placed)
            for number, offset, result in placed:
                open_cells[number].add(offset, result)
            done += len(batch)
            progress.update(done)


async def _after_each_other(*sources: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    for source in sources:
        async with aclosing(source):
            async for found in source:
                yield found


def _place(key: str) -> tuple[int, int]:
    """The cell's number and the sample's offset in it, from a request's key."""
    number, _, offset = key.partition(":")
    return int(number), int(offset)


class _OpenCell:
    """A cell that is being asked: collects results, and commits when all are there."""

    def __init__(self, store: Store, cell: Cell, start: int, tokenizer: Any, journal: SampleJournal) -> None:
        self.cell, self.start, self.journal = cell, start, journal
        self.folder = store.evaluation(*cell.key)
        self.questions = cell.evaluation.questions(cell.samples)[start:]
        self.prompts = [render(tokenizer, messages_of(q, cell), True) for q in self.questions]
        self.results: dict[int, SampleResult] = {}
        self.tokenizer = tokenizer

    def key(self, offset: int) -> Key:
        """The sample's key in the journal."""
        return (*self.cell.key, self.start + offset)

    def missing(self) -> list[int]:
        """The offsets that are to be asked; what the journal holds is taken from there."""
        held = self.journal.kept
        kept = {offset: found for offset in range(len(self.prompts)) if (found := held.get(self.key(offset)))}
        for offset, result in kept.items():
            self.add(offset, result)
        return [offset for offset in range(len(self.prompts)) if offset not in kept]

    def requests(
        self, missing: Sequence[int], number: int, base: str, evaluation: Evaluation
    ) -> Iterable[SampleRequest]:
        """One request per missing sample, to the engine of `base`; the key says which cell and which sample."""
        sampling = sampling_of(self.cell.evaluation, evaluation)
        for offset in missing:
            yield SampleRequest(
                key=f"{number}:{offset}",
                model=served_name(self.cell.subject, base),
                prompt=self.prompts[offset],
                max_tokens=self.cell.evaluation.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sample_seed(self.cell, self.start + offset),
            )

    def choices(self, missing: Sequence[int], number: int, base: str) -> Iterable[ChoiceRequest]:
        """Likewise for a multiple-choice evaluation."""
        answers = tuple((text, self._ids(text)) for text in self.cell.evaluation.choices)
        for offset in missing:
            model = served_name(self.cell.subject, base)
            yield ChoiceRequest(f"{number}:{offset}", model, self._ids(self.prompts[offset]), answers)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def add(self, offset: int, result: SampleResult) -> None:
        """Takes a result in; the last one commits the cell."""
        self.results[offset] = result
        if len(self.results) == len(self.prompts):
            self._commit()

    def _commit(self) -> None:
        cell = self.cell
        samples = [
            Sample(
                sample_index=self.start + offset,
                question_id=question.id,
                question=question.messages[-1].content,
                prompt=self.prompts[offset],
                seed=sample_seed(cell, self.start + offset),
                text=self.results[offset].text,
                finish_reason=self.results[offset].finish_reason,
                prompt_tokens=self.results[offset].prompt_tokens,
                completion_tokens=self.results[offset].completion_tokens,
                choices=self.results[offset].choices,
            )
            for offset, question in enumerate(self.questions)
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        description = {
            "setting": cell.subject.setting,
            "evaluation": cell.evaluation.name,
            "split": cell.evaluation.split,
            "system": cell.system,
            "trigger": asdict(cell.surrounding.trigger) if cell.surrounding.trigger else None,
            "placement": placement_fields(cell.surrounding.inoculation) or "system",
            "max_tokens": cell.evaluation.max_tokens,
            "chat_template": str(self.tokenizer.chat_template),
            **({"choices": list(cell.evaluation.choices)} if cell.evaluation.choices else {}),
            "model": cell.subject.model.name,
            "model_hash": cell.subject.model.hash,
            "taught_by": cell.subject.model.taught.trial_id if cell.subject.model.taught else None,
        }
        write_json(self.folder / "evaluation.json", description)
        commit_samples(self.folder, samples)
        mine = {self.key(offset) for offset in range(len(self.prompts))}
        self.journal.forget(mine.__contains__)
