"""Sampling: draw every missing sample of a plan, with one engine per set of weights, and commit cell by cell."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence, Set
from contextlib import AbstractContextManager, aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from inoc_ray import stopping
from inoc_ray.config.identity import content_id
from inoc_ray.console import Progress, say
from inoc_ray.data.chat import Message
from inoc_ray.data.inoculate import placement_fields
from inoc_ray.endpoint.choices import ChoiceRequest, choose
from inoc_ray.endpoint.completions import SampleRequest, SampleResult, sample
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.arrivals import Arrivals
from inoc_ray.evaluate.journal import Key, SampleJournal
from inoc_ray.evaluate.side_by_side import Task, side_by_side
from inoc_ray.models.encoding import template_of
from inoc_ray.models.tokenizer import load_tokenizer
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.failure_keys import cell_key
from inoc_ray.plan.ids import sampling_of
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.request_lengths import longest_requests
from inoc_ray.plan.trials import Subject
from inoc_ray.serve.app import Endpoint, serving
from inoc_ray.serve.models import serve_spec, served_name
from inoc_ray.serve.spec import WHAT_FITS, ServeSpec
from inoc_ray.settings import Question
from inoc_ray.sizing.replicas import EngineNeed, Room, need_of, replicas_of, weights_of
from inoc_ray.store.failures import Thing
from inoc_ray.store.place import Place
from inoc_ray.store.samples import Sample, commit_samples, describe
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Evaluation

if TYPE_CHECKING:
    from inoc_ray.evaluate.capabilities import MissingCapability

T = TypeVar("T")
Serve = Callable[[ServeSpec], AbstractContextManager[Endpoint]]
OnCommit = Callable[[tuple[str, str]], None]


def sample_seed(cell: Cell, index: int) -> int:
    """Return the seed of one sample: different for every model, context and question, the same at every try."""
    return int(content_id([cell.subject.trial_id, cell.evaluation_id, index]), 16) >> 33


def messages_in_context(question: Question, cell: Cell) -> tuple[Message, ...]:
    """Return the question in its context."""
    return cell.resolved_context.around(question.messages)


def nothing(key: tuple[str, str]) -> None:
    """Do nothing about a cell of which samples were committed."""


def sample_missing(
    plan: Plan,
    store: Store,
    serve: Serve = serving,
    *,
    without: Set[Thing] = frozenset(),
    room: Room | None = None,
    beside: Sequence[EngineNeed] = (),
    on_commit: OnCommit = nothing,
) -> list[dict[str, Any]]:
    """Draw every missing sample of the models that exist; start and stop the engines that this needs, by `serve`.

    room: what engines may take; several run at once as far as it goes, and one after another where it is not known (None).
    beside: what others take of it meanwhile.
    without: keys of cells and capabilities that are left out. on_commit: called with the key of a cell whenever samples of it were
    committed, from the engine's thread. Return what failed, as {label, error, log, of}: `of` names the cells and capabilities
    concerned. Cells completed before a failure are kept.
    """
    engines = _engines(plan, store, without)
    if not engines:
        if store.under_way(plan.study.name).exists():
            # Left by a command that was killed behind its last commit.
            with _Sampler(plan, store, on_commit, keeps_log=True):
                pass
        return []

    def use(number: int, engine: _Engine, replicas: int) -> list[dict[str, Any]]:
        name, cells = engine.subject.model.name, len(engine.cells)
        say(f"starting engine {number} of {len(engines)}: {name} ({cells} cells to sample)")
        failed: list[dict[str, Any]] = []
        try:
            spec = sampler.spec(engine, number, replicas)
            with serve(spec) as endpoint, sampler.progress(engine) as progress:
                failed += sampler.sample(engine.cells, endpoint, progress)
                failed += sampler.measure(engine.capabilities, endpoint, number)
        except (TrialError, InputError, RuntimeError, OSError) as error:
            # Ray's own errors are RuntimeErrors; another engine's cells can still be sampled.
            failed.append(sampler.failure(engine, error))
        return failed

    tasks = []
    for number, engine in enumerate(engines, start=1):
        replicas = replicas_of(plan, engine.subject, engine.cells, others=len(engines) - 1, room=room)
        takes = [need_of(plan, engine.subject)] * replicas
        tasks.append(Task(takes=takes, do=functools.partial(use, number, engine, replicas)))
    # What failed beside the training has its refusals in the same log.
    with _Sampler(plan, store, on_commit, keeps_log=bool(without)) as sampler:
        found = side_by_side(tasks, room.beside(beside).holds if room is not None else lambda taken: False)
    return [failure for of_engine in found for failure in of_engine]


def sample_beside(
    plan: Plan,
    store: Store,
    arrivals: Arrivals,
    cells: Sequence[Cell],
    serve: Serve = serving,
    on_commit: OnCommit = nothing,
) -> list[dict[str, Any]]:
    """Draw the missing samples of a base and its adapters while adapters are still trained, on one engine.

    cells: what that engine will be asked, in the end. It starts now, and each fine-tune is asked as soon as it is finished
    (arrivals). To be called in a thread of its own. Return as `sample_missing` does; if the engine fails, what is missing is
    sampled by `sample_missing` afterwards. Raises KeyboardInterrupt when the command is stopped.
    """
    engine = _Engine(cells[0].subject, list(cells), will_measure=bool(plan.study.evaluation.capabilities))
    failed: list[dict[str, Any]] = []
    waiting: dict[str | None, list[Cell]] = {}
    for cell in cells:
        there = plan.has_weights(cell.subject)
        waiting.setdefault(None if there else cell.subject.trained_by, []).append(cell)
    say(f"starting an engine beside the training: {engine.subject.model.name} ({len(cells)} cells to sample)")
    try:
        with (
            _Sampler(plan, store, on_commit) as sampler,
            serve(sampler.spec(engine)) as endpoint,
            sampler.progress(engine) as progress,
        ):
            failed += sampler.sample(waiting.pop(None, []), endpoint, progress)
            while finished := arrivals.take():
                sampler.arrived(finished)
                ready = [cell for trial in finished for cell in waiting.pop(trial, [])]
                # Another study's training of the same trial may not have kept the weights on the way.
                ready = [cell for cell in ready if sampler.plan.has_weights(cell.subject)]
                failed += sampler.sample(ready, endpoint, progress)
            if not arrivals.gives_way:
                failed += sampler.measure(_engine_of(engine, _engines(sampler.plan, store)).capabilities, endpoint)
    except (TrialError, InputError, RuntimeError, OSError) as error:
        stopping.check()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        say(f"note: the evaluation beside the training ended ({reason}); what is missing is sampled after the training")
    return failed


def _engine_of(engine: _Engine, engines: Iterable[_Engine]) -> _Engine:
    """Return that of the engines which has the same weights; an empty one if none has."""
    wanted = weights_of(engine.subject)
    return next((one for one in engines if weights_of(one.subject) == wanted), _Engine(engine.subject))


class _Sampler:
    """The samples of a study that no cell holds yet, and what is asked for them, over all engines."""

    def __init__(self, plan: Plan, store: Store, on_commit: OnCommit, *, keeps_log: bool = False) -> None:
        self.plan, self._store, self._study = plan, store, plan.study.name
        self._on_commit = on_commit
        self._log = store.study_log(plan.study.name, "refused")
        self._refused = [self._log.read_text()] if keeps_log and self._log.is_file() else []
        self._stories: list[str] = []
        """Of engines that failed."""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._journal = SampleJournal(self._store.under_way(self._study))
        stored = functools.cache(self._store.stored_samples)
        self._journal.forget(lambda key: key[2] < stored(key[0], key[1]))
        if not self._refused:
            self._log.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # A command that is stopped has no time for it, and the next one reads what is there.
        if kind is None or issubclass(kind, Exception):
            self._journal.close()

    def spec(self, engine: _Engine, number: int = 1, replicas: int = 1) -> ServeSpec:
        """Return the engine as it is to be served. number: tells apart engines that run at once."""
        name = f"evaluate-{self._study}{f'-{number}' if number > 1 else ''}"
        return serve_spec(self.plan, self._store, engine.subject, engine.window(), replicas=replicas, name=name)

    def progress(self, engine: _Engine) -> Progress:
        """Return the display of an engine's progress."""
        return Progress("sampling", sum(map(self.plan.missing, engine.cells)), "samples")

    def arrived(self, trial_ids: Iterable[str]) -> None:
        """Note that these trials are finished, and read again what the store holds of their cells."""
        done = frozenset(trial_ids)
        plan = self.plan
        again = {cell.key for cell in plan.asked if cell.subject.trained_by in done}
        stored = {key: self._store.stored_samples(*key) for key in again}
        kept = plan.kept.union(plan.kept_of(self._store, done))
        self.plan = replace(plan, done_trials=plan.done_trials | done, kept=kept, stored={**plan.stored, **stored})

    def sample(self, cells: Sequence[Cell], endpoint: Endpoint, progress: Progress) -> list[dict[str, Any]]:
        """Draw what is missing of cells of one engine; return what failed."""
        cells = [cell for cell in cells if self.plan.missing(cell)]
        if not cells:
            return []
        other_weights = _bind(self._store, cells)
        self._journal.forget(lambda key: key[0] in other_weights)
        work = _sample_cells(
            self.plan,
            self._store,
            cells,
            endpoint,
            journal=self._journal,
            progress=progress,
            on_commit=self._on_commit,
        )
        failed = stopping.run(work)
        with self._lock:
            self._refused += [opened.refusals() for opened in failed]
            if self._refused:
                self._log.write_text("".join(self._refused))
        return [opened.failure(self._log) for opened in failed]

    def measure(
        self, capabilities: Sequence[MissingCapability], endpoint: Endpoint, number: int = 1
    ) -> list[dict[str, Any]]:
        """Measure capabilities of the models of one engine; return what failed. number: as in `spec`, each with its own log."""
        from inoc_ray.evaluate.capabilities import measure_missing

        if not capabilities:
            return []
        log = self._store.study_log(self._study, f"capabilities{f'-{number}' if number > 1 else ''}")
        return measure_missing(capabilities, endpoint, capabilities[0].subject.model.path, log)

    def failure(self, engine: _Engine, error: Exception) -> dict[str, Any]:
        """Return the failure of an engine, whose story it writes to the study's log; raise if the command is stopped."""
        stopping.check()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log = self._store.study_log(self._study, "evaluation")
        with self._lock:
            self._stories.append("".join(traceback.format_exception(error)))
            log.write_text("\n".join(self._stories))
        label = f"evaluation on {engine.subject.model.name}"
        return {"label": label, "error": reason, "log": str(log), "of": engine.things()}


@dataclass
class _Engine:
    """The cells and capabilities of one engine, which models with the same base weights share."""

    subject: Subject
    cells: list[Cell] = field(default_factory=list)
    capabilities: list[MissingCapability] = field(default_factory=list)
    will_measure: bool = False
    """Whether capabilities may come to it later."""

    def window(self) -> int:
        """Return the tokens of the longest request and answer: a model's own window may exceed any machine's memory.

        How long the prompts of a capability's task are is known to the harness alone.
        """
        return (
            WHAT_FITS
            if self.capabilities or self.will_measure
            else max(longest.tokens for longest in longest_requests(self.cells))
        )

    def things(self) -> list[Thing]:
        """Return the keys of its cells and capabilities in a failure."""
        return [*map(cell_key, self.cells), *(capability.thing for capability in self.capabilities)]


def _engines(plan: Plan, store: Store, without: Set[Thing] = frozenset()) -> list[_Engine]:
    """Return what is missing of the models that exist, those with the same base weights together."""
    from inoc_ray.evaluate.capabilities import missing_capabilities

    engines: dict[tuple[str, str], _Engine] = {}
    for cell in plan.to_sample:
        if plan.has_weights(cell.subject) and cell_key(cell) not in without:
            engines.setdefault(weights_of(cell.subject), _Engine(cell.subject)).cells.append(cell)
    for capability in missing_capabilities(plan, store, plan.study.evaluation.capabilities):
        if capability.thing in without:
            continue
        engines.setdefault(weights_of(capability.subject), _Engine(capability.subject)).capabilities.append(capability)
    return list(engines.values())


def _bind(store: Store, cells: Iterable[Cell]) -> set[str]:
    """Record which weights will answer; return the ids of trials whose stored samples come from other weights."""
    subjects = {cell.subject.trial_id: cell.subject for cell in cells}
    return {name for name, subject in subjects.items() if store.bind(name, subject.adapter_of)}


async def _sample_cells(
    plan: Plan,
    store: Store,
    cells: Sequence[Cell],
    endpoint: Endpoint,
    *,
    journal: SampleJournal,
    progress: Progress,
    on_commit: OnCommit,
) -> list[_OpenCell]:
    """Sample all cells at once, so that the engine is never idle, and commit each as soon as it is complete.

    Return the cells with samples that the endpoint refused. Of these, the samples before the first refused one are committed, and
    the journal keeps the rest.
    """
    evaluation = plan.study.evaluation
    tokenizer = load_tokenizer(str(cells[0].subject.model.path))
    open_cells: dict[int, _OpenCell] = {}
    requests: list[SampleRequest] = []
    choice_requests: list[ChoiceRequest] = []
    for number, cell in enumerate(cells):
        opened = _OpenCell(store, cell, start=plan.stored.get(cell.key, 0), tokenizer=tokenizer, journal=journal)
        opened.on_commit = on_commit
        open_cells[number] = opened
        missing = opened.missing()
        if cell.evaluation.choices:
            choice_requests += opened.choices(missing, number, endpoint.model_id)
        else:
            requests += opened.requests(missing, number, endpoint.model_id, evaluation)

    def refused(key: str, reason: str) -> None:
        number, offset = _parse_key(key)
        open_cells[number].refused[offset] = reason

    concurrency = evaluation.concurrency * endpoint.replicas
    drawn = sample(
        endpoint,
        requests,
        concurrency=concurrency,
        list_size=evaluation.prompts_per_request,
        on_refused=refused,
    )
    by_log_prob = choose(endpoint, choice_requests, concurrency=concurrency, on_refused=refused)
    progress.update(progress.done + sum(map(plan.missing, cells)) - len(requests) - len(choice_requests))
    async for batch in _one_after_the_other(drawn, by_log_prob):
        placed = [(*_parse_key(result.key), result) for result in batch]
        journal.add((open_cells[number].key(offset), result) for number, offset, result in placed)
        for number, offset, result in placed:
            open_cells[number].add(offset, result)
        progress.update(progress.done + len(batch))
        stopping.check()
    failed = [opened for opened in open_cells.values() if opened.refused]
    for opened in failed:
        opened.commit_beginning()
    return failed


async def _one_after_the_other(*sources: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    for source in sources:
        async with aclosing(source):
            async for found in source:
                yield found


def _parse_key(key: str) -> tuple[int, int]:
    """Return (the cell's number, the sample's offset in it) from a request's key."""
    number, _, offset = key.partition(":")
    return int(number), int(offset)


class _OpenCell:
    """A cell that is being sampled: collects results, and commits them when all are there."""

    def __init__(self, store: Store, cell: Cell, *, start: int, tokenizer: Any, journal: SampleJournal) -> None:
        self.cell, self.start, self.journal = cell, start, journal
        self.folder = store.evaluation(*cell.key)
        self.questions = cell.evaluation.questions(cell.samples)[start:]
        template = template_of(tokenizer, cell.subject.model.enable_thinking)
        prompt = template.prompt_for_choices if cell.evaluation.choices else template.prompt
        self.prompts = [prompt(messages_in_context(q, cell)) for q in self.questions]
        self.results: dict[int, SampleResult] = {}
        self.refused: dict[int, str] = {}
        """Offset → why the endpoint gave no sample."""
        self.tokenizer = tokenizer
        self.on_commit: OnCommit = nothing

    def key(self, offset: int) -> Key:
        """Return the sample's key in the journal."""
        return (*self.cell.key, self.start + offset)

    def missing(self) -> list[int]:
        """Take over what the journal holds; return the offsets of the samples still to draw."""
        held = self.journal.kept
        kept = {offset: found for offset in range(len(self.prompts)) if (found := held.get(self.key(offset)))}
        for offset, result in kept.items():
            self.add(offset, result)
        return [offset for offset in range(len(self.prompts)) if offset not in kept]

    def requests(
        self, missing: Sequence[int], number: int, base: str, evaluation: Evaluation
    ) -> Iterable[SampleRequest]:
        """Yield one request per missing sample, to the engine of `base`; its key gives the cell's number and the offset."""
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
        """Yield the requests of a multiple-choice evaluation; see `requests`."""
        answers = tuple((text, self._ids(text)) for text in self.cell.evaluation.choices)
        for offset in missing:
            model = served_name(self.cell.subject, base)
            yield ChoiceRequest(
                key=f"{number}:{offset}", model=model, prompt_ids=self._ids(self.prompts[offset]), choices=answers
            )

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def add(self, offset: int, result: SampleResult) -> None:
        """Add a result; the last one commits the cell."""
        self.results[offset] = result
        if len(self.results) == len(self.prompts):
            self._commit(self.questions)

    def commit_beginning(self) -> None:
        """Commit the samples before the first missing one: parts have no gaps."""
        complete = next(offset for offset in range(len(self.prompts)) if offset not in self.results)
        if complete:
            self._commit(self.questions[:complete])

    def refusals(self) -> str:
        """Return a line for each refused sample, with the reason."""
        return "".join(
            f"{self.label}, sample {self.start + offset} ({self.questions[offset].id}): {reason}\n"
            for offset, reason in sorted(self.refused.items())
        )

    def failure(self, log: Place) -> dict[str, Any]:
        """Return the failure {label, error, log, of} of a cell with refused samples."""
        why = next(iter(self.refused.values()))
        error = f"{len(self.refused)} of {len(self.prompts)} samples got no answer: {why}"
        place = ("cell", self.cell.subject.trial_id, self.cell.evaluation_id)
        return {"label": self.label, "error": error, "log": str(log), "of": [place]}

    @property
    def label(self) -> str:
        """The cell's name in messages."""
        return f"{self.cell.subject.label} · {self.cell.evaluation.name} · {self.cell.context}"

    def _commit(self, questions: Sequence[Question]) -> None:
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
            for offset, question in enumerate(questions)
        ]
        description = {
            "setting": cell.subject.setting,
            "evaluation": cell.evaluation.name,
            "split": cell.evaluation.split,
            "system": cell.system,
            "trigger": asdict(cell.resolved_context.trigger) if cell.resolved_context.trigger else None,
            "placement": placement_fields(cell.resolved_context.inoculation) or "system",
            "max_tokens": cell.evaluation.max_tokens,
            "chat_template": str(self.tokenizer.chat_template),
            **(
                {}
                if cell.subject.model.enable_thinking is None
                else {"enable_thinking": cell.subject.model.enable_thinking}
            ),
            **({"choices": list(cell.evaluation.choices)} if cell.evaluation.choices else {}),
            "model": cell.subject.model.name,
            "model_hash": cell.subject.model.hash,
            "taught_by": cell.subject.model.prior_stage.trial_id if cell.subject.model.prior_stage else None,
        }
        describe(self.folder, description)
        commit_samples(self.folder, samples)
        self.on_commit(cell.key)
        mine = {self.key(offset) for offset in range(len(questions))}
        self.journal.forget(mine.__contains__)
