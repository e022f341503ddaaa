"""Grading: ask judging models about the responses they have not judged, and commit the judgments part by part."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inoc_ray import stopping
from inoc_ray.config.identity import content_id
from inoc_ray.console import Progress, say
from inoc_ray.endpoint.connection import EndpointAddress
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.cell_scores import items_of
from inoc_ray.evaluate.ungraded import UngradedPart, ungraded_parts
from inoc_ray.plan.judge_assignment import JudgeModel
from inoc_ray.plan.plan import Plan
from inoc_ray.scoring.judgment import Item, Judgment
from inoc_ray.serve.app import Endpoint, serving
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.sizing.engines import ANSWER_SHARE
from inoc_ray.sizing.replicas import Room, judge_replicas
from inoc_ray.store.samples import read_part, refusal_note, write_table
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge

if TYPE_CHECKING:
    from inoc_ray.evaluate.model_judge.cache import JudgeCache

Serve = Callable[[ServeSpec], contextlib.AbstractContextManager[Endpoint]]


@dataclass
class GradingOutcome:
    """How much was asked, and what failed."""

    calls: int = 0
    """Requests sent to judges."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """{label, error, log, of} of each judge that failed; `of` names the judge as a failure does."""


def grade_stored(plan: Plan, store: Store) -> None:
    """Commit the judgments of judges on engines of the study's own whose answers are all stored: they need no engine."""
    from inoc_ray.data.tokenize import load_tokenizer
    from inoc_ray.evaluate.model_judge.batch import stored_judgments
    from inoc_ray.evaluate.model_judge.cache import JudgeCache

    for parts in ungraded_parts(plan, store).values():
        judge = parts[0].grading.judge
        answers = store.judgments(judge.id)
        # A judge behind an API is not even connected to for what is stored.
        if judge.folder is None or not any(answers.glob("*.jsonl")):
            continue
        tokenizer = load_tokenizer(str(judge.folder))
        with JudgeCache(answers) as cache:
            for part in parts:
                stopping.check()
                open_part = _OpenPart(part, judge.judge)
                judgments = stored_judgments(
                    judge=judge.judge,
                    identity=judge.identity,
                    rubrics=list(open_part.rubrics.values()),
                    items=list(enumerate(open_part.items)),
                    cache=cache,
                    tokenizer=tokenizer,
                )
                for position, rubric, judgment in judgments or ():
                    open_part.add(position, rubric, judgment)


def grade_missing(plan: Plan, store: Store, room: Room | None = None) -> GradingOutcome:
    """Let every judge of the study grade what it has not graded; start and stop the engines that this needs.

    room: what the engines of a judge may take; one answers where it is not known (None). A judge that fails is reported in the
    outcome; what it judged before is kept, and the other judges continue.
    """
    outcome = GradingOutcome()
    _grade_parts(plan, store, ungraded_parts(plan, store), outcome, room)
    return outcome


def _grade_parts(
    plan: Plan,
    store: Store,
    ungraded: Mapping[str, Sequence[UngradedPart]],
    outcome: GradingOutcome,
    room: Room | None = None,
) -> None:
    for name, parts in ungraded.items():
        judge = parts[0].grading.judge
        total = sum(part.judgments for part in parts)
        try:
            with (
                asking(plan, store, judge, _replicas(plan, judge, parts, room)) as asked,
                Progress(f"judging ({name})", total, "judgments") as progress,
            ):
                stopping.run(grade(asked, parts, outcome, progress))
        except (TrialError, InputError, RuntimeError, OSError) as error:
            outcome.failed.append(judge_failure(plan, store, name, error))


def judge_failure(plan: Plan, store: Store, name: str, error: Exception) -> dict[str, Any]:
    """Return the failure of a judge, whose story it writes to the study's log; raise if the command is stopped."""
    stopping.check()
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    log = store.study_log(plan.study.name, f"judge-{name}")
    log.write_text("".join(traceback.format_exception(error)))
    return {"label": f"judge {name}", "error": reason, "log": str(log), "of": [("judge", name)]}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A judge that can be asked."""

    judge: JudgeModel
    endpoint: EndpointAddress
    model: str
    """Its name there."""
    replicas: int
    """Engines that answer."""
    cache: JudgeCache
    """Its answers so far."""


@contextlib.contextmanager
def asking(
    plan: Plan, store: Store, judge: JudgeModel, replicas: int | None = None, serve: Serve = serving
) -> Iterator[Asked]:
    """Give what a judge is asked by, for a `with` block; start its engines for that, by `serve`, if it is no API.

    replicas: None for as many as the study says, or one.
    """
    from inoc_ray.evaluate.model_judge.api_judge import judge_api
    from inoc_ray.evaluate.model_judge.cache import JudgeCache

    with JudgeCache(store.judgments(judge.id)) as cache:
        if judge.folder is None:
            model = judge.judge.served_model
            assert model is not None
            api = judge_api(judge.judge, judge.name)
            yield Asked(judge=judge, endpoint=api, model=model, replicas=1, cache=cache)
            return
        resources = plan.study.resources.of_judge(judge.name)
        spec = ServeSpec(
            model=judge.folder,
            model_id="judge",
            gpus=resources.gpus,
            cpus=resources.serve_cpus,
            kv_cache_gib=resources.serve_kv_cache_gib,
            gpu_share=resources.serve_gpu_share,
            replicas=replicas or resources.serve_replicas or 1,
            name=f"judge-{plan.study.name}-{judge.name}",
        )
        say(f"starting judge {judge.name}")
        with serve(spec) as own:
            yield Asked(judge=judge, endpoint=own, model=own.model_id, replicas=own.replicas, cache=cache)


def _replicas(plan: Plan, judge: JudgeModel, parts: Sequence[UngradedPart], room: Room | None) -> int:
    """Return how many engines answer for a judge that grades these parts."""
    if judge.folder is None:
        return 1
    resources = plan.study.resources.of_judge(judge.name)
    longest = {part.cell.key: part.cell.evaluation.max_tokens for part in parts}
    asked = {part.cell.key: part.cell.samples * len(part.rubrics) for part in parts}
    response = ANSWER_SHARE * sum(longest.values()) / len(longest)
    return judge_replicas(judge.folder, resources, questions=sum(asked.values()), response=response, room=room)


class _OpenPart:
    """A part that is being graded: collects judgments, and commits them when all are there."""

    def __init__(self, ungraded: UngradedPart, judge: Judge) -> None:
        self.rubrics, self.out, self.judge = ungraded.rubrics, ungraded.out, judge
        table = read_part(ungraded.part)
        self.sample_index = table.column("sample_index").to_pylist()
        self.items: list[Item] = items_of(table, ungraded.cell)
        self.judgments: dict[tuple[int, str], Judgment] = {}
        """(the response's position in the part, rubric) → judgment."""

    @property
    def size(self) -> int:
        """How many judgments the part needs."""
        return len(self.sample_index) * len(self.rubrics)

    def add(self, position: int, rubric: str, judgment: Judgment) -> None:
        """Add a judgment of the response at `position`; the last one commits the part."""
        self.judgments[position, rubric] = judgment
        if len(self.judgments) == self.size:
            self.commit()

    def commit(self) -> None:
        """Write the judgments beside the samples; note the address that refused some, if one did."""
        import pyarrow as pa

        rows = [
            {
                "sample_index": sample_index,
                "rubric": rubric,
                "value": judgment.value,
                "category": judgment.category,
                "raw": judgment.raw,
                "logprobs": judgment.logprobs,
                "mass": judgment.mass,
                "method": judgment.method,
            }
            for rubric in sorted(self.rubrics)
            for position, sample_index in enumerate(self.sample_index)
            for judgment in [self.judgments[position, rubric]]
        ]
        types = {"int": pa.int64(), "text": pa.string(), "number": pa.float64()}
        schema = pa.schema([(name, types[kind]) for name, kind in _SCHEMA.items()])
        write_table(self.out, pa.Table.from_pylist(rows, schema=schema))
        note = refusal_note(self.out)
        if self.judge.endpoint is not None and any(judgment.refused for judgment in self.judgments.values()):
            note.write_text(content_id(self.judge.endpoint))
        else:
            note.unlink(missing_ok=True)


_SCHEMA = {
    "sample_index": "int",
    "rubric": "text",
    "value": "number",
    "category": "text",
    "raw": "text",
    "logprobs": "text",
    "mass": "number",
    "method": "text",
}


async def grade(
    asked: Asked,
    ungraded: Sequence[UngradedPart],
    outcome: GradingOutcome,
    progress: Progress,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Grade all parts at once, those with the same rubrics together, so that the judge is never idle.

    is_over: whether to end before all is graded; answers are kept.
    """
    from inoc_ray.data.tokenize import load_tokenizer
    from inoc_ray.evaluate.model_judge.batch import Counts, judge_items

    judge = asked.judge
    parts = [_OpenPart(part, judge.judge) for part in ungraded]
    by_rubrics: dict[tuple[str, ...], list[int]] = {}
    for number, part in enumerate(parts):
        by_rubrics.setdefault(tuple(sorted(part.rubrics)), []).append(number)
    tokenizer = None if judge.folder is None else load_tokenizer(str(judge.folder))
    counts = Counts()
    try:
        for numbers in by_rubrics.values():
            judgments = judge_items(
                asked.endpoint,
                judge=judge.judge,
                identity=judge.identity,
                rubrics=list(parts[numbers[0]].rubrics.values()),
                items=[((n, position), item) for n in numbers for position, item in enumerate(parts[n].items)],
                cache=asked.cache,
                model=asked.model,
                tokenizer=tokenizer,
                replicas=asked.replicas,
                counts=counts,
            )
            async with aclosing(judgments):
                async for batch in judgments:
                    for (number, position), rubric, judgment in batch:
                        parts[number].add(position, rubric, judgment)
                    progress.update(progress.done + len(batch))
                    stopping.check()
                    if is_over():
                        return
    finally:
        outcome.calls += counts.calls
