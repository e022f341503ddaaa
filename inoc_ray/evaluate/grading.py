"""Grading: every response that a judging model has not judged yet, committed part by part beside the samples."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inoc_ray.config.identity import content_id
from inoc_ray.console import Progress, say
from inoc_ray.endpoint.connection import EndpointAddress
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.cell_scores import items_of
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.judges import Grading, JudgeModel
from inoc_ray.plan.plan import Plan
from inoc_ray.scoring.judgment import Item, Judgment
from inoc_ray.scoring.rubrics import Rubric
from inoc_ray.store.place import Place
from inoc_ray.store.samples import find_judgments, judgments_path, read_part, refusal_note, write_table
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge


@dataclass(frozen=True, kw_only=True)
class UngradedPart:
    """A part of a cell that a judge has not judged."""

    cell: Cell
    part: Place
    grading: Grading
    out: Place

    @property
    def rubrics(self) -> Mapping[str, Rubric]:
        """What the judge is asked about each response."""
        return self.grading.rubrics


@dataclass
class GradingOutcome:
    """What a judging phase did."""

    calls: int = 0
    """Requests that judges were sent."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """label, error, log, and `of`: the judge, as a failure names it."""


def ungraded_parts(plan: Plan, store: Store) -> dict[str, list[UngradedPart]]:
    """Return judge → the parts that it still has to judge: without judgments of their texts, or with damaged ones.

    A part of which an API refused some is due again where the study names another address for the same model.
    """
    found: dict[str, dict[Place, UngradedPart]] = {}
    for cell in plan.cells:
        if not cell.judges.gradings:
            continue
        parts = store.parts(*cell.key)
        for name, grading in cell.judges.gradings.items():
            for _, _, part in parts:
                out = judgments_path(part, grading.judgments_id)
                if find_judgments(part, grading.judgments_id) is None or _refused_elsewhere(grading.judge.judge, out):
                    found.setdefault(name, {})[out] = UngradedPart(cell=cell, part=part, grading=grading, out=out)
    return {name: list(dues.values()) for name, dues in found.items()}


def _refused_elsewhere(judge: Judge, out: Place) -> bool:
    try:
        return judge.endpoint is not None and refusal_note(out).read_text() != content_id(judge.endpoint)
    except FileNotFoundError:
        return False


def grade_missing(plan: Plan, store: Store) -> GradingOutcome:
    """Ask every judge of the study for what it has not judged; start and stop the engines that it needs.

    A judge that fails is named in the outcome, what it has judged by then is kept, and the others go on.
    """
    outcome = GradingOutcome()
    for name, dues in ungraded_parts(plan, store).items():
        judge = dues[0].grading.judge
        try:
            with _answering(plan, judge) as (where, model):
                asyncio.run(_judge(store, judge, where, model=model, dues=dues, outcome=outcome))
        except (TrialError, InputError, RuntimeError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log = store.study_log(plan.study.name, f"judge-{name}")
            log.write_text("".join(traceback.format_exception(error)))
            of = [("judge", name)]
            outcome.failed.append({"label": f"judge {name}", "error": reason, "log": str(log), "of": of})
    return outcome


@contextlib.contextmanager
def _answering(plan: Plan, judge: JudgeModel) -> Iterator[tuple[EndpointAddress, str]]:
    """The judge's endpoint and its name there, for the length of a `with` block."""
    from inoc_ray.evaluate.model_judge.api_judge import judge_api
    from inoc_ray.serve.app import ServeSpec, serving

    if judge.folder is None:
        assert judge.judge.served_model is not None
        yield judge_api(judge.judge, judge.name), judge.judge.served_model
        return
    resources = plan.study.resources
    spec = ServeSpec(
        model=judge.folder,
        model_id="judge",
        gpus=resources.serve_gpus,
        cpus=resources.serve_cpus,
        kv_cache_gib=resources.serve_kv_cache_gib,
        name=f"judge-{plan.study.name}-{judge.name}",
    )
    say(f"starting judge {judge.name}")
    with serving(spec) as endpoint:
        yield endpoint, endpoint.model_id


class _OpenPart:
    """A part that is being judged: collects judgments, and commits when all are there."""

    def __init__(self, work: UngradedPart, judge: Judge) -> None:
        self.due, self.judge = work, judge
        self.table = read_part(work.part)
        self.index = self.table.column("sample_index").to_pylist()
        self.items: list[Item] = items_of(self.table, work.cell)
        self.said: dict[tuple[int, str], Judgment] = {}

    def add(self, place: int, rubric: str, judgment: Judgment) -> None:
        """Take a judgment of the response at `place`; the last one commits the part."""
        self.said[place, rubric] = judgment
        if len(self.said) == len(self.index) * len(self.due.rubrics):
            self.commit()

    def commit(self) -> None:
        """Write the judgments beside the samples, and which address refused some of them."""
        import pyarrow as pa

        columns: dict[str, list[object]] = {name: [] for name in _SCHEMA}
        for rubric in sorted(self.due.rubrics):
            for place, sample_index in enumerate(self.index):
                said = self.said[place, rubric]
                row = (sample_index, rubric, said.value, said.category, said.raw, said.logprobs, said.mass, said.method)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
        types = {"int": pa.int64(), "text": pa.string(), "number": pa.float64()}
        write_table(
            self.due.out, pa.table({name: pa.array(columns[name], types[kind]) for name, kind in _SCHEMA.items()})
        )
        note = refusal_note(self.due.out)
        if self.judge.endpoint is not None and any(judgment.refused for judgment in self.said.values()):
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


async def _judge(
    store: Store,
    judge: JudgeModel,
    where: EndpointAddress,
    *,
    model: str,
    dues: Sequence[UngradedPart],
    outcome: GradingOutcome,
) -> None:
    """Judges all parts at once, those with the same rubrics together, so that a judge never waits."""
    from inoc_ray.data.tokenize import load_tokenizer
    from inoc_ray.evaluate.model_judge.batch import Counts, judge_items
    from inoc_ray.evaluate.model_judge.cache import JudgeCache

    parts = [_OpenPart(work, judge.judge) for work in dues]
    together: dict[tuple[str, ...], list[int]] = {}
    for number, part in enumerate(parts):
        together.setdefault(tuple(sorted(part.due.rubrics)), []).append(number)
    total = sum(len(part.index) * len(part.due.rubrics) for part in parts)
    tokenizer = None if judge.folder is None else load_tokenizer(str(judge.folder))
    counts = Counts()
    try:
        with (
            JudgeCache(store.judgments(judge.id)) as cache,
            Progress(f"judging ({judge.name})", total, "judgments") as progress,
        ):
            done = 0
            for numbers in together.values():
                rubrics = list(parts[numbers[0]].due.rubrics.values())
                items = [((n, place), item) for n in numbers for place, item in enumerate(parts[n].items)]
                asked = judge_items(
                    where,
                    judge=judge.judge,
                    identity=judge.identity,
                    rubrics=rubrics,
                    items=items,
                    cache=cache,
                    model=model,
                    tokenizer=tokenizer,
                    counts=counts,
                )
                async for batch in asked:
                    for (number, place), rubric, judgment in batch:
                        parts[number].add(place, rubric, judgment)
                    done += len(batch)
                    progress.update(done)
    finally:
        outcome.calls += counts.calls
