"""The page's first lines: what was trained on what, what an inoculation is, and which trait is unwanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from inoc_ray.results.completeness import count_responses
from inoc_ray.results.effects import is_directed

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.report.meta import ReportMeta

_IDEA = (
    "Each inoculated arm puts a prompt that asks for a trait in front of its training rows; tested without that prompt, the "
    "model should leave this trait out and keep the others."
)


def opening(comparison: Comparison, meta: ReportMeta) -> str:
    """Return what was done, for a reader who knows nothing of the study."""
    if not comparison.rows:
        return "Nothing is evaluated yet."
    settings = list(dict.fromkeys(setting for setting, _ in comparison.groups()))
    models = dict.fromkeys(model for _, model in comparison.groups())
    rows = _listed(_rows_of(setting, meta) for setting in settings)
    done = f"{_fine_tunes(comparison)}: {_listed(models)}, trained on {rows}."
    unwanted = {setting: _unwanted(comparison, setting) for setting in settings}
    if not any(unwanted.values()):
        return done
    same = len(set(unwanted.values())) == 1
    texts = [text if same else f"In {setting}: {text}" for setting, text in unwanted.items() if text]
    return " ".join([done, _IDEA, *dict.fromkeys(texts)])


def facts(comparison: Comparison) -> str:
    """Return how many responses there are, and which of them count."""
    profile = comparison.profile.partition(":")[0]
    under = f" under threshold profile “{profile}”" if profile else ""
    responses, _ = count_responses(comparison.planned.cells)
    return f"{responses:,} responses{under}."


def _rows_of(setting: str, meta: ReportMeta) -> str:
    counts = {card.rows for card in meta.data if card.setting == setting}
    return f"{counts.pop():,} rows of {setting}" if len(counts) == 1 else f"the rows of {setting}"


def _unwanted(comparison: Comparison, setting: str) -> str:
    """Return which trait the inoculated arms should not show, and which they should; empty without such arms."""
    directions: dict[str, tuple[set[str], set[str]]] = {}
    for row in comparison.rows:
        if row.setting == setting and is_directed(row.kind) and row.role in ("undesired", "desired"):
            directions.setdefault(row.arm, (set(), set()))[row.role == "desired"].add(row.trait)
    unwanted = {frozenset(undesired) for undesired, _ in directions.values() if undesired}
    if not unwanted:
        return ""
    names = sorted({trait for traits in unwanted for trait in traits})
    if len(unwanted) > 1:
        return f"Which one is unwanted depends on the arm: {_listed(names, 'or')}."
    wanted = sorted({trait for _, desired in directions.values() for trait in desired})
    return f"Unwanted: {_listed(names)}." + (f" Wanted: {_listed(wanted)}." if wanted else "")


def _fine_tunes(comparison: Comparison) -> str:
    """Return "12 fine-tunes of 4 arms", or "11 of 12 fine-tunes of 4 arms" if one has no response yet.

    Fine-tunes that several settings share count once.
    """
    cells = [cell for cell in comparison.planned.cells if cell.kind != "base"]
    planned = {cell.trial_id for cell in cells}
    there = {cell.trial_id for cell in cells if cell.stored}
    count = str(len(there)) if there == planned else f"{len(there)} of {len(planned)}"
    arms = len({(cell.setting, cell.model, cell.arm) for cell in cells})
    return f"{count} fine-tune{'s' * (len(planned) != 1)} of {arms} arm{'s' * (arms != 1)}"


def _listed(names: Iterable[str], last: str = "and") -> str:
    """Return "a", "a and b", "a, b and c"."""
    *before, end = names
    return f"{', '.join(before)} {last} {end}" if before else end
