"""The page's first lines: what was trained on what, what an inoculation is, which trait is unwanted, what the words mean."""

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
    "model should leave this trait out"
)


def opening(comparison: Comparison, meta: ReportMeta) -> str:
    """Return what was done, for a reader who knows nothing of the study."""
    if not comparison.rows:
        return "Nothing is evaluated yet."
    settings = list(dict.fromkeys(setting for setting, _ in comparison.groups()))
    models = dict.fromkeys(model for _, model in comparison.groups())
    rows = _listed(_rows_of(setting, meta) for setting in settings)
    tuned, verb = _fine_tunes(comparison)
    done = f"{tuned} of {_listed(models)}, in {_arms(comparison)}, {verb} trained on {rows}."
    unwanted = {setting: _unwanted(comparison, setting) for setting in settings}
    if not any(unwanted.values()):
        return done
    same = len(set(unwanted.values())) == 1
    texts = [text if same else f"In {setting}: {text}" for setting, text in unwanted.items() if text]
    return " ".join([done, f"{_IDEA}{_rest(comparison)}.", *dict.fromkeys(texts)])


def words(comparison: Comparison, meta: ReportMeta) -> list[tuple[str, str]]:
    """Return the words of the page that a newcomer does not know, each with what it means in half a sentence."""
    kinds = {row.kind for row in comparison.rows}
    reference = comparison.reference
    shown = meta.contexts.get(reference, "")
    about = [
        ("arm", "what is done to the training rows, such as a prompt in front of them", bool(kinds - {"base"})),
        ("baseline", "the arm that trains the rows as they are", "baseline" in kinds),
        ("base", "the untouched base, which is the model before any training", "base" in kinds),
        (
            f"{reference} context",
            "what stands before the question in every comparison" + (f", here {shown}" if shown else ""),
            True,
        ),
        ("in distribution (ID)", "questions like those of the training rows", _has(comparison, "id")),
        ("out of distribution (OOD)", "questions unlike those of the training rows", _has(comparison, "ood")),
    ]
    return [(word, meaning) for word, meaning, used in about if used]


def _has(comparison: Comparison, split: str) -> bool:
    return any(row.split == split for row in comparison.rows)


def _rest(comparison: Comparison) -> str:
    """Return what the model should do with the traits that an arm does not name: there may be none, one or several."""
    counts = {
        len({r.trait for r in comparison.rows if (r.setting, r.arm, r.role) == (row.setting, row.arm, "desired")})
        for row in comparison.rows
        if is_directed(row.kind)
    }
    if max(counts, default=0) == 0:
        return ""
    return " and keep the other one" if counts == {1} else " and keep the others"


def facts(comparison: Comparison) -> str:
    """Return how many responses there are, and which of them count."""
    profile = comparison.profile.partition(":")[0]
    under = f" under threshold profile “{profile}”" if profile else ""
    responses, _ = count_responses(comparison.planned.cells)
    return f"{responses:,} responses{under}."


def _rows_of(setting: str, meta: ReportMeta) -> str:
    """Return e.g. "miniature/spanish_caps for 20 steps of 16 rows (of 720)"; what was seen may be less than there is."""
    seen = {(card.rows, card.trained) for card in meta.data if card.setting == setting}
    if len(seen) != 1:
        return f"rows of {setting}"
    (rows, trained) = seen.pop()
    if not trained:
        return f"rows of {setting} ({rows:,} in all)"
    return f"{setting} for {_listed((one.in_words(rows) for one in trained), 'or')}"


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


def _fine_tunes(comparison: Comparison) -> tuple[str, str]:
    """Return "12 fine-tunes" with its verb, or "11 of 12 fine-tunes" if one has no response yet.

    Fine-tunes that several settings share count once.
    """
    cells = [cell for cell in comparison.planned.cells if cell.kind != "base"]
    planned = {cell.trial_id for cell in cells}
    there = {cell.trial_id for cell in cells if cell.stored}
    count = str(len(there)) if there == planned else f"{len(there)} of {len(planned)}"
    return f"{count} fine-tune{'s' * (len(planned) != 1)}", "was" if len(planned) == 1 else "were"


def _arms(comparison: Comparison) -> str:
    arms = len({(c.setting, c.model, c.arm) for c in comparison.planned.cells if c.kind != "base"})
    return f"{arms} arm{'s' * (arms != 1)}"


def _listed(names: Iterable[str], last: str = "and") -> str:
    """Return "a", "a and b", "a, b and c"."""
    *before, end = names
    return f"{', '.join(before)} {last} {end}" if before else end
