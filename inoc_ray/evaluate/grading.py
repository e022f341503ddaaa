"""Grading: ask judging models about the responses they have not judged, and commit the judgments part by part."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
from inoc_ray.sizing.engines import ANSWER_SHARE
from inoc_ray.sizing.replicas import Room, judge_replicas
from inoc_ray.store.samples import read_part, refusal_note, write_table
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge
from inoc_ray.study.resources import EngineResources

GATHER_SECONDS = 5.0
"""Time over which sampled cells are gathered before they are judged beside the sampling."""
_LOOK_SECONDS = 0.5


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


class Sampled:
    """The cells that were sampled just now, as those who judge them meanwhile learn it."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self._over = False

    def add(self, key: tuple[str, str]) -> None:
        """Note that samples of a cell were committed; from another thread."""
        with self._changed:
            self._keys.add(key)

    def over(self) -> None:
        """Note that no more is sampled."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def take(self) -> set[tuple[str, str]]:
        """Return the keys that were added since the last time, but not more often than every few seconds; none at the end.

        Raises KeyboardInterrupt when the command is told to stop.
        """
        end = time.monotonic() + GATHER_SECONDS
        while True:
            stopping.check()
            with self._changed:
                if self._over or (self._keys and time.monotonic() >= end):
                    taken, self._keys = self._keys, set()
                    return taken
                self._changed.wait(_LOOK_SECONDS)


def judges_behind_apis(plan: Plan) -> list[str]:
    """Return the judges that may grade while models are sampled, since they take nothing of the cluster."""
    found = {name: g.judge for cell in plan.to_sample for name, g in cell.judges.gradings.items()}
    return [name for name, judge in found.items() if judge.folder is None]


def grade_beside(plan: Plan, store: Store, sampled: Sampled) -> GradingOutcome:
    """Let the judges behind APIs grade what is sampled, while it is; to be called in a thread of its own.

    A judge that fails is not asked again here: `grade_missing` does that afterwards, and has the last word.
    """
    outcome = GradingOutcome()
    names = set(judges_behind_apis(plan))
    while names and (keys := sampled.take()):
        cells = tuple(cell for cell in plan.asked if cell.key in keys)
        parts = ungraded_parts(replace(plan, cells=cells, courses=(), trials=(), prior_stages=()), store)
        _grade_parts(plan, store, {name: found for name, found in parts.items() if name in names}, outcome)
        for failure in outcome.failed:
            names.discard(failure["of"][0][1])
    for failure in outcome.failed:
        say(f"note: {failure['label']}: {failure['error']}; it is asked again after the sampling")
    outcome.failed.clear()
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
        try:
            with _judge_endpoint(plan, judge, parts, room) as (endpoint, model, replicas):
                stopping.run(
                    _grade(store, judge, endpoint, model=model, replicas=replicas, ungraded=parts, outcome=outcome)
                )
        except (TrialError, InputError, RuntimeError, OSError) as error:
            stopping.check()
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log = store.study_log(plan.study.name, f"judge-{name}")
            log.write_text("".join(traceback.format_exception(error)))
            of = [("judge", name)]
            outcome.failed.append({"label": f"judge {name}", "error": reason, "log": str(log), "of": of})


@contextlib.contextmanager
def _judge_endpoint(
    plan: Plan, judge: JudgeModel, parts: Sequence[UngradedPart], room: Room | None
) -> Iterator[tuple[EndpointAddress, str, int]]:
    """Give the judge's endpoint, its name there and the number of engines, for a `with` block; start them if it is no API."""
    from inoc_ray.evaluate.model_judge.api_judge import judge_api
    from inoc_ray.serve.app import serving
    from inoc_ray.serve.spec import ServeSpec

    if judge.folder is None:
        assert judge.judge.served_model is not None
        yield judge_api(judge.judge, judge.name), judge.judge.served_model, 1
        return
    resources = plan.study.resources.of_judge(judge.name)
    spec = ServeSpec(
        model=judge.folder,
        model_id="judge",
        gpus=resources.serve_gpus,
        cpus=resources.serve_cpus,
        kv_cache_gib=resources.serve_kv_cache_gib,
        gpu_share=resources.serve_gpu_share,
        replicas=_replicas(judge.folder, resources, parts, room),
        name=f"judge-{plan.study.name}-{judge.name}",
    )
    say(f"starting judge {judge.name}")
    with serving(spec) as endpoint:
        yield endpoint, endpoint.model_id, endpoint.replicas


def _replicas(folder: Path, resources: EngineResources, parts: Sequence[UngradedPart], room: Room | None) -> int:
    """Return how many engines answer for a judge in `folder` that grades these parts."""
    longest = {part.cell.key: part.cell.evaluation.max_tokens for part in parts}
    asked = {part.cell.key: part.cell.samples * len(part.rubrics) for part in parts}
    response = ANSWER_SHARE * sum(longest.values()) / len(longest)
    return judge_replicas(folder, resources, questions=sum(asked.values()), response=response, room=room)


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


async def _grade(
    store: Store,
    judge: JudgeModel,
    endpoint: EndpointAddress,
    *,
    model: str,
    replicas: int,
    ungraded: Sequence[UngradedPart],
    outcome: GradingOutcome,
) -> None:
    """Grade all parts at once, those with the same rubrics together, so that the judge is never idle."""
    from inoc_ray.data.tokenize import load_tokenizer
    from inoc_ray.evaluate.model_judge.batch import Counts, judge_items
    from inoc_ray.evaluate.model_judge.cache import JudgeCache

    parts = [_OpenPart(part, judge.judge) for part in ungraded]
    by_rubrics: dict[tuple[str, ...], list[int]] = {}
    for number, part in enumerate(parts):
        by_rubrics.setdefault(tuple(sorted(part.rubrics)), []).append(number)
    total = sum(part.size for part in parts)
    tokenizer = None if judge.folder is None else load_tokenizer(str(judge.folder))
    counts = Counts()
    try:
        with (
            JudgeCache(store.judgments(judge.id)) as cache,
            Progress(f"judging ({judge.name})", total, "judgments") as progress,
        ):
            done = 0
            for numbers in by_rubrics.values():
                judgments = judge_items(
                    endpoint,
                    judge=judge.judge,
                    identity=judge.identity,
                    rubrics=list(parts[numbers[0]].rubrics.values()),
                    items=[((n, position), item) for n in numbers for position, item in enumerate(parts[n].items)],
                    cache=cache,
                    model=model,
                    tokenizer=tokenizer,
                    replicas=replicas,
                    counts=counts,
                )
                async for batch in judgments:
                    for (number, position), rubric, judgment in batch:
                        parts[number].add(position, rubric, judgment)
                    done += len(batch)
                    progress.update(done)
                    stopping.check()
    finally:
        outcome.calls += counts.calls
