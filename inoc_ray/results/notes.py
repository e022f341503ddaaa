"""What a reader must know about the rates of one setting × model, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.completeness import seeds_text

if TYPE_CHECKING:
    from inoc_ray.results.rows import Row

CUT_NOTED = 0.05
"""The share of answers that ran into max_tokens from which a note names it."""


def notes_on(rows: Iterable[Row], setting: str, model: str) -> Iterable[str]:
    """Yield the notes on one setting × model.

    They name arms with fewer seeds than planned, arms with one seed, responses that could not be judged or do not count, and
    answers that were cut off.
    """
    where = f"{setting}, {model}"
    rows = [row for row in rows if (row.setting, row.model) == (setting, model)]
    yield from _seed_notes(where, [row for row in rows if row.kind != "base"])
    unparsed = _shares_by_arm((row.arm, row.unparsed, row.samples) for row in rows)
    if unparsed:
        yield f"{where}: judgments that could not be read (left out of the rates): {unparsed}"
    excluded = _shares_by_arm((row.arm, row.excluded, row.samples) for row in rows)
    if excluded:
        yield f"{where}: judged but not counted (incoherent, refusals, bare code, degenerate): {excluded}"
    yield from _cut_notes(where, rows)


def _seed_notes(where: str, rows: Sequence[Row]) -> Iterable[str]:
    fewest: dict[str, Row] = {}
    for row in rows:
        if row.seeds < row.seeds_planned:
            fewest[row.arm] = min(row, fewest.get(row.arm, row), key=lambda r: r.seeds)
    if fewest:
        fewer = ", ".join(f"{arm} {seeds_text(row)}" for arm, row in fewest.items())
        yield f"{where}: fewer seeds than planned in at least one row: {fewer}"
    most = {arm: max(row.seeds for row in rows if row.arm == arm) for arm in dict.fromkeys(row.arm for row in rows)}
    single = [arm for arm, seeds in most.items() if seeds == 1]
    if single:
        which = "one seed per arm" if max(most.values()) == 1 else f"one seed in {', '.join(single)}"
        yield (
            f"{where}: {which}: the numbers are about these models only (intervals cover the questions, not what another seed "
            "would give), without p-values"
        )


def _shares_by_arm(counts: Iterable[tuple[str, int, int]]) -> str:
    """Return "baseline 3 of 400, loud 1 of 400"; empty where no arm has any. counts: arm, part, whole."""
    totals: dict[str, list[int]] = {}
    for arm, part, whole in counts:
        pair = totals.setdefault(arm, [0, 0])
        pair[0] += part
        pair[1] += whole
    return ", ".join(f"{arm} {part} of {whole}" for arm, (part, whole) in totals.items() if part)


def _cut_notes(where: str, rows: Iterable[Row]) -> Iterable[str]:
    """Name each evaluation in which an arm's answers often ran into max_tokens, with the shares and the remedy."""
    counts: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        pair = counts.setdefault(row.evaluation, {}).setdefault(row.arm, [0, 0])
        pair[0] += row.cut
        pair[1] += row.samples
    for evaluation, arms in counts.items():
        shares = {arm: cut / total for arm, (cut, total) in arms.items() if total}
        often = [f"{arm} {share:.0%}" for arm, share in shares.items() if share >= CUT_NOTED]
        if often:
            yield (
                f"{where}: {evaluation}: answers that ran into max_tokens and were judged by their beginning: {', '.join(often)}; "
                f"for whole answers raise it, as `evaluation.overrides: {{{evaluation}: {{max_tokens: …}}}}`, or `max_tokens` "
                "of a suite of your own"
            )
