"""Whether the results are complete: what each row of a table lacks of the plan, and a list of what is missing, with reasons.

Pure functions. A number that rests on fewer fine-tunes or responses than planned is not the number that its row names. So every
row has both counts, and whatever is derived from an incomplete row has no p-value and no headline.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from inoc_ray.results.effects import Effect
from inoc_ray.results.leaks import Leak, base_context
from inoc_ray.results.rows import Row, Source, arm_rank

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """One evaluation of one fine-tune (or of the base) in one context, as the study asks for it, and how much of it is stored."""

    setting: str
    model: str
    arm: str
    kind: str
    seed: int | None
    """None for the base."""
    evaluation: str
    split: str
    context: str
    roles: Mapping[str, str]
    """trait → its role in this arm."""
    samples: int
    """Responses that the study asks for."""
    stored: int
    """How many of them are in the store."""
    judged: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """trait → judge → how many of the planned responses it has judged."""
    trial_id: str = ""
    evaluation_id: str = ""
    """With `trial_id`, the place of the responses in the store. Two places of a study may share it; they count once."""
    trained: bool = True
    """Whether the weights that give the responses exist."""
    why: str = ""
    """Why responses are missing, if something failed."""
    why_not_judged: Mapping[str, str] = field(default_factory=dict)
    """judge → why its judgments are missing, if it failed."""

    @property
    def complete(self) -> bool:
        """Whether the weights, every response and every judgment exist."""
        return self.trained and self.stored >= self.samples and all(map(self.is_judged, self.judged))

    def is_judged(self, trait: str) -> bool:
        """Return True if every judge of the trait has judged every response that the study asks for."""
        return all(count >= self.samples for count in self.judged.get(trait, {}).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCapability:
    """A capability task of one model, and whether it was measured."""

    setting: str
    model: str
    arm: str
    seed: int | None
    task: str
    measured: bool
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Everything that a study asks for."""

    cells: Sequence[PlannedCell] = ()
    capabilities: Sequence[PlannedCapability] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Something that the study asks for and that is missing, wholly or in part. An empty field means all of them."""

    setting: str
    model: str
    arm: str
    seed: int | None
    what: str
    """The evaluation and context, the judge and trait, or the task; empty for everything about a fine-tune."""
    there: int
    planned: int
    unit: str
    """What is counted: fine-tunes, samples, judgments, or tasks."""
    why: str

    def in_words(self) -> str:
        """Return e.g. "toy, tiny: loud seed 1, ood × neutral: 60 of 200 samples (the endpoint refused …)"."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        whose = ", ".join(filter(None, [f"{self.arm}{seed}", self.what]))
        why = f" ({self.why})" if self.why else ""
        return f"{self.setting}, {self.model}: {whose}: {self.there:,} of {self.planned:,} {self.unit}{why}"


def count_responses(cells: Iterable[PlannedCell]) -> tuple[int, int]:
    """Return how many responses are stored, and how many the study asks for; shared cells count once."""
    stored: dict[tuple[str, str], int] = {}
    planned: dict[tuple[str, str], int] = {}
    for cell in cells:
        place = cell.trial_id, cell.evaluation_id
        stored[place] = max(stored.get(place, 0), cell.stored)
        planned[place] = max(planned.get(place, 0), cell.samples)
    return sum(stored.values()), sum(planned.values())


def rows_with_plan(rows: Sequence[Row], cells: Sequence[PlannedCell]) -> list[Row]:
    """Return the rows with their planned counts, and a row without a rate for each planned one that has no responses.

    A row is complete if every planned fine-tune exists and has responses that count, every planned response exists, and every judge
    of the trait has judged all of them.
    """
    planned: dict[tuple[str, ...], list[PlannedCell]] = {}
    for cell in cells:
        for trait in cell.roles:
            planned.setdefault(_place(cell, trait), []).append(cell)
    found = {_key(row): row for row in rows}
    out = [_with_plan(row, planned.get(_key(row), ())) for row in rows]
    absent = [_empty(of[0], key[-1], of) for key, of in planned.items() if key not in found]
    return _in_order([*out, *absent], cells) if absent else out


def seeds_text(row: Row) -> str:
    """Return "2", or "1 of 2" if the study asks for more fine-tunes than have responses that count."""
    return str(row.seeds) if row.seeds >= row.seeds_planned else f"{row.seeds} of {row.seeds_planned}"


def _place(cell: PlannedCell, trait: str) -> tuple[str, ...]:
    return cell.setting, cell.model, cell.arm, cell.evaluation, cell.context, trait


def _key(row: Row) -> tuple[str, ...]:
    return row.setting, row.model, row.arm, row.evaluation, row.context, row.trait


def _with_plan(row: Row, cells: Sequence[PlannedCell]) -> Row:
    if not cells:
        return replace(row, seeds_planned=row.seeds, samples_planned=row.samples)
    seeds, samples = len(cells), sum(cell.samples for cell in cells)
    judged, trained = all(cell.is_judged(row.trait) for cell in cells), all(cell.trained for cell in cells)
    complete = row.seeds >= seeds and row.samples >= samples and judged and trained
    return replace(row, seeds_planned=seeds, samples_planned=samples, complete=complete, trained=trained)


def _empty(cell: PlannedCell, trait: str, cells: Sequence[PlannedCell]) -> Row:
    return Row(
        setting=cell.setting,
        model=cell.model,
        arm=cell.arm,
        kind=cell.kind,
        evaluation=cell.evaluation,
        split=cell.split,
        context=cell.context,
        trait=trait,
        role=cell.roles[trait],
        rate=None,
        low=None,
        high=None,
        seeds=0,
        samples=0,
        unparsed=0,
        excluded=0,
        seeds_planned=len(cells),
        samples_planned=sum(c.samples for c in cells),
        complete=False,
        trained=all(c.trained for c in cells),
    )


def _in_order(rows: Sequence[Row], cells: Sequence[PlannedCell]) -> list[Row]:
    """Sort rows by setting × model and evaluation, then arms in the order of every table."""
    groups = _ranks((c.setting, c.model) for c in cells)
    evaluations, arms = _ranks(c.evaluation for c in cells), _ranks(c.arm for c in cells)

    def rank(row: Row) -> tuple[int, int, tuple[int, int], int]:
        group = groups.get((row.setting, row.model), len(groups))
        evaluation = evaluations.get(row.evaluation, len(evaluations))
        return group, evaluation, arm_rank(row.kind), arms.get(row.arm, len(arms))

    return sorted(rows, key=rank)


def _ranks(names: Iterable[T]) -> dict[T, int]:
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


def incomplete_sources(rows: Iterable[Row]) -> dict[tuple[str, str], set[Source]]:
    """Return (setting, model) → the levels (means over the evaluations of a split) that rest on an incomplete row."""
    found: dict[tuple[str, str], set[Source]] = {}
    for row in rows:
        of_group = found.setdefault((row.setting, row.model), set())
        if not row.complete:
            of_group.add((row.arm, row.split, row.trait, row.context))
    return found


def mark_incomplete_effects(effects: Sequence[Effect], rows: Sequence[Row]) -> list[Effect]:
    """Mark effects as incomplete, and remove their p-values, if their arm or an arm that they are compared with lacks anything.

    An effect compares with the mean over all arms of a kind (baselines, irrelevant ones), so one of them without a level, or
    without any response, makes it incomplete.
    """
    incomplete = incomplete_sources(rows)
    kinds = {(row.setting, row.model, row.arm): row.kind for row in rows}
    out = []
    for effect in effects:
        group = effect.setting, effect.model
        bad = incomplete.get(group, set())
        own = {source for source in bad if source[0] == effect.arm}
        means = {(kinds[*group, arm], *level) for arm, *level in effect.sources if arm != effect.arm}
        whole = not own and not any((kinds[*group, arm], *level) in means for arm, *level in bad)
        out.append(effect if whole else replace(effect, complete=False, p=None))
    return out


def mark_incomplete_leaks(leaks: Sequence[Leak], rows: Sequence[Row], reference: str) -> list[Leak]:
    """Add to each leak the number of its fine-tunes, and mark incomplete leaks.

    reference: the context that leaks are measured from. A leak rests on the arm's rates in it and in the leak's own context; its
    excess and its baseline rest on the base and the baselines under the same prompt. If any of this is incomplete in any context of
    an arm's audit, it is not known which leak is the largest.
    """
    audited: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.split == "ood":
            audited.setdefault((row.setting, row.model), []).append(row)
    out = []
    for leak in leaks:
        of_group = audited.get((leak.setting, leak.model), [])
        of_arm = [row for row in of_group if row.arm == leak.arm and row.role == "undesired"]
        own = [row for row in of_arm if row.context in (leak.context, reference)]
        contexts = {row.context for row in of_arm} - {reference}
        beside = {context: _beside(leak.arm, context, of_arm, of_group) for context in contexts}
        out.append(
            replace(
                leak,
                seeds=min((row.seeds for row in own), default=0),
                seeds_planned=max((row.seeds_planned for row in own), default=0),
                complete=all(row.complete for row in [*own, *beside.get(leak.context, ())]),
                audit_complete=all(row.complete for part in (of_arm, *beside.values()) for row in part),
            )
        )
    return out


def _beside(arm: str, context: str, of_arm: Sequence[Row], of_group: Sequence[Row]) -> list[Row]:
    """Return the rows of the base and the baselines under the prompt of the arm in a context, for the arm's undesired traits."""
    traits = {row.trait for row in of_arm}
    under = {"base": base_context(arm, context), "baseline": context}
    return [row for row in of_group if row.trait in traits and under.get(row.kind) == row.context]


def list_missing(planned: Planned) -> list[Missing]:
    """Return what is missing, in the order of the plan.

    A fine-tune without any response is one entry, and so is one without weights, whatever its responses.
    """
    subjects: dict[tuple[str, str, str, int | None], list[PlannedCell]] = {}
    for cell in planned.cells:
        subjects.setdefault((cell.setting, cell.model, cell.arm, cell.seed), []).append(cell)
    found: list[Missing] = []
    for (setting, model, arm, seed), cells in subjects.items():
        entry = functools.partial(Missing, setting=setting, model=model, arm=arm, seed=seed)
        if not any(cell.stored for cell in cells):
            _, total = count_responses(cells)
            why = next((c.why for c in cells if c.why), "") or ("" if cells[0].trained else "not trained")
            found.append(entry(what="", there=0, planned=total, unit="samples", why=why))
            continue
        if not cells[0].trained:
            found.append(entry(what="", there=0, planned=1, unit="fine-tunes", why=cells[0].why or "not trained"))
        for cell in cells:
            if cell.stored < cell.samples:
                what = f"{cell.evaluation} × {cell.context}"
                found.append(entry(what=what, there=cell.stored, planned=cell.samples, unit="samples", why=cell.why))
    return [*found, *_not_judged(planned.cells), *_not_measured(planned.capabilities)]


def _not_judged(cells: Sequence[PlannedCell]) -> Iterable[Missing]:
    """Yield an entry for each judge that has not judged all stored responses of an evaluation × trait, over all arms of a model.

    Responses that two contexts share count once.
    """
    counts: dict[tuple[str, str, str, str, str], dict[tuple[str, str], tuple[int, int]]] = {}
    why: dict[tuple[str, str, str, str, str], str] = {}
    for cell in cells:
        for trait, judges in cell.judged.items():
            for judge, judged in judges.items():
                key = cell.setting, cell.model, cell.evaluation, trait, judge
                of_key, place = counts.setdefault(key, {}), (cell.trial_id, cell.evaluation_id)
                of_key[place] = max(of_key.get(place, (0, 0)), (cell.stored, min(judged, cell.stored)))
                why.setdefault(key, cell.why_not_judged.get(judge, ""))
    for key, of_key in counts.items():
        stored, judged = (sum(counts) for counts in zip(*of_key.values(), strict=True))
        if judged < stored:
            setting, model, evaluation, trait, judge = key
            what = f"{trait} by {judge}"
            yield Missing(
                setting=setting,
                model=model,
                arm=evaluation,
                seed=None,
                what=what,
                there=judged,
                planned=stored,
                unit="responses judged",
                why=why[key],
            )


def _not_measured(capabilities: Sequence[PlannedCapability]) -> Iterable[Missing]:
    for c in capabilities:
        if not c.measured:
            yield Missing(
                setting=c.setting,
                model=c.model,
                arm=c.arm,
                seed=c.seed,
                what=f"capability {c.task}",
                there=0,
                planned=1,
                unit="tasks",
                why=c.why,
            )
