"""The tables of the page: heads and cells as plain text, which the templates escape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inoc_ray.results.claim_text import HEADS as CLAIM_HEADS
from inoc_ray.results.claim_text import MEANING as CLAIMS_MEAN
from inoc_ray.results.claim_text import claim_rows
from inoc_ray.results.completeness import seeds_text
from inoc_ray.results.effects import is_directed, null_of
from inoc_ray.results.marks import dash_reasons, effect_table, effect_text, legend
from inoc_ray.results.report.samples import EXCLUDED, LACKS, SHOWS, UNJUDGED, UNPARSED, WITHHELD, CellSamples
from inoc_ray.results.stats import wilson
from inoc_ray.results.wording import leak_seeds, number, p_text, why_no_rate, with_interval

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.leaks import Leak
    from inoc_ray.results.report.meta import ReportMeta
    from inoc_ray.results.rows import Row, TrialRate

SAMPLES_PER_ARM = 3
"""How many responses the page shows of each arm and evaluation."""
VERDICTS = {
    SHOWS: "yes",
    LACKS: "no",
    UNPARSED: "unparsed",
    EXCLUDED: "excluded",
    WITHHELD: "withheld",
    UNJUDGED: "not judged",
}
_ROLES = {"undesired": "inoculated against", "desired": "to be kept"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the page; heads and cells are plain text."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: int | None = None
    """The index of the first numeric column; all columns after it are numeric too. None: no numeric column."""
    title: str = ""
    notes: Sequence[str] = ()


def rates_by_context(comparison: Comparison) -> Iterator[tuple[str, list[Table]]]:
    """Yield (context, a table for each setting × model), the reference context first."""
    heads = [
        "arm",
        "evaluation",
        "trait",
        "role",
        "rate [95 %]",
        "by seed",
        "seeds",
        "samples",
        "unparsed",
        "not counted",
    ]
    seeds = comparison.seed_rates()
    contexts = dict.fromkeys(row.context for row in comparison.rows)
    for context in sorted(contexts, key=lambda name: name != comparison.reference):
        tables = []
        for setting, model in comparison.groups():
            rows = [r for r in comparison.rows if (r.setting, r.model, r.context) == (setting, model, context)]
            if rows:
                tables.append(
                    Table(heads=heads, rows=[_rate(r, seeds) for r in rows], numeric=4, title=f"{setting} · {model}")
                )
        yield context, tables


def _rate(row: Row, seeds: Mapping[tuple[str, ...], Sequence[tuple[int, TrialRate]]]) -> list[str]:
    own = seeds.get((row.setting, row.model, row.arm, row.evaluation, row.context, row.trait), ())
    return [
        row.arm,
        f"{row.split.upper()} {row.evaluation}",
        row.trait,
        # Only an arm with a direction of its own gives a trait a role.
        _ROLES.get(row.role, "") if is_directed(row.kind) else "",
        with_interval(row.rate, row.low, row.high) if row.rate is not None else f"– {why_no_rate(row)}",
        " ".join(number(rate.rate) for _, rate in own),
        seeds_text(row),
        str(row.samples) if row.samples >= row.samples_planned else f"{row.samples} of {row.samples_planned}",
        _share(row.unparsed, row.samples),
        _share(row.excluded, row.samples),
    ]


def judges(comparison: Comparison, meta: ReportMeta) -> Table | None:
    """Return which judge has judged what, with numbers of this study's responses; None if nothing is judged."""
    counts = _judged(comparison)
    body = []
    for one in meta.judges:
        judged, planned = counts.get((one.setting, one.evaluation, one.trait, one.judge), (0, 0))
        if judged or not comparison.planned.cells:
            how = one.how + (f"; several judges: {one.combined}" if one.combined else "")
            count = f"{judged:,}" if judged >= planned else f"{judged:,} of {planned:,}"
            body.append([one.setting, one.evaluation, one.trait, how, count if planned else ""])
    heads = ["setting", "evaluation", "trait", "judged by", "responses"]
    return Table(heads=heads, rows=body, numeric=4) if body else None


def _judged(comparison: Comparison) -> dict[tuple[str, str, str, str], tuple[int, int]]:
    """Return (setting, evaluation, trait, judge) → (responses judged, responses planned); shared cells count once."""
    counts: dict[tuple[str, str, str, str], tuple[int, int]] = {}
    seen: set[tuple[str, str, str, str]] = set()
    for cell in comparison.planned.cells:
        place = cell.setting, cell.evaluation, cell.trial_id, cell.evaluation_id
        if place in seen:
            continue
        seen.add(place)
        for trait, of_judge in cell.judged.items():
            for judge, judged in of_judge.items():
                key = cell.setting, cell.evaluation, trait, judge
                before = counts.get(key, (0, 0))
                counts[key] = before[0] + min(judged, cell.stored), before[1] + cell.samples
    return counts


def effects_by_group(comparison: Comparison) -> Iterator[Table]:
    """Yield arms × measures for each setting × model, with notes on its dashes and marks."""
    for setting, model in comparison.groups():
        found = [e for e in comparison.effects if (e.setting, e.model) == (setting, model)]
        if found:
            heads, rows = effect_table(found)
            notes = [*(f"– under {line}" for line in dash_reasons(found)), legend(found)]
            yield Table(heads=heads, rows=rows, numeric=1, title=f"{setting} · {model}", notes=notes)


def all_effects(comparison: Comparison) -> Table:
    """Return every measure of every arm with its p-value and what that is against, or why it has no value."""
    body = [
        [
            *(e.setting, e.model, e.arm, e.measure),
            effect_text(e) if e.value is not None else e.why,
            p_text(e.p),
            "" if e.p is None else f"{null_of(e.measure):.0f}",
        ]
        for e in comparison.effects
    ]
    return Table(
        heads=["setting", "model", "arm", "measure", "value [95 %]", "p (Holm)", "against"], rows=body, numeric=4
    )


def claims(comparison: Comparison) -> Table | None:
    """Return what the study says to each claim on it, with setting and model where there are several; None without claims."""
    if not comparison.claims:
        return None
    rows = claim_rows(comparison.claims)
    if len(comparison.groups()) < 2:
        return Table(heads=CLAIM_HEADS, rows=rows, notes=[CLAIMS_MEAN])
    places = [[claim.setting, claim.model] for claim in comparison.claims]
    rows = [[*place, *row] for place, row in zip(places, rows, strict=True)]
    return Table(heads=["setting", "model", *CLAIM_HEADS], rows=rows, notes=[CLAIMS_MEAN])


def leaks_by_arm(comparison: Comparison) -> Iterator[Table]:
    """Yield the prompts of each arm's audit, the largest leak first."""
    heads = ["prompt at test time", "kind", "", "rate", "leak [95 %]", "base", "beyond base [95 %]", "baseline"]
    heads += ["unparsed", "not counted", "seeds"]
    for place in dict.fromkeys((k.setting, k.model, k.arm_label) for k in comparison.leaks):
        found = [k for k in comparison.leaks if (k.setting, k.model, k.arm_label) == place]
        body = [_leak(k) for k in sorted(found, key=lambda k: -k.leak)]
        yield Table(heads=heads, rows=body, numeric=3, title=" · ".join(place))


def _leak(leak: Leak) -> list[str]:
    so_far = "" if leak.audit_complete else " so far"
    marks = {
        f"largest leak{so_far}": leak.largest,
        f"furthest beyond base{so_far}": leak.largest_excess,
        "the paper's residual": bool(leak.residual),
    }
    return [
        "(the arm's own)" if leak.prompt is None else leak.prompt,
        leak.kind,
        ", ".join(name for name, holds in marks.items() if holds),
        number(leak.rate),
        with_interval(leak.leak, leak.low, leak.high),
        number(leak.base),
        with_interval(leak.excess, leak.excess_low, leak.excess_high),
        number(leak.baseline),
        f"{leak.unparsed:.0%}",
        f"{leak.excluded:.0%}",
        leak_seeds(leak),
    ]


def agreement(comparison: Comparison) -> Table:
    """Return how well each pair of judges agrees on each trait."""
    body = [
        [
            a["setting"],
            a["trait"],
            " / ".join(a["judges"]),
            str(a["asked"]),
            _share(a["responses"], a["asked"]),
            number(a["agreement"]),
            number(a["kappa"]),
        ]
        for a in comparison.agreement
    ]
    heads = ["setting", "trait", "judges", "responses", "judged by both", "agreement", "Cohen's κ"]
    return Table(heads=heads, rows=body, numeric=3)


def capability_rates(comparison: Comparison) -> Table:
    """Return the score of every arm on every task that is a mean over items, and how much it differs from baseline and base."""
    body = [
        [
            r.setting,
            r.model,
            r.arm,
            r.task,
            r.metric,
            with_interval(r.value, r.low, r.high),
            with_interval(r.than_baseline, r.than_baseline_low, r.than_baseline_high),
            with_interval(r.than_base, r.than_base_low, r.than_base_high),
            str(r.seeds),
            str(r.items),
        ]
        for r in comparison.capability_rates
    ]
    heads = [
        "setting",
        "model",
        "arm",
        "task",
        "metric",
        "value [95 %]",
        "minus baseline",
        "minus base",
        "seeds",
        "items",
    ]
    return Table(heads=heads, rows=body, numeric=5)


def capabilities(comparison: Comparison) -> Table:
    """Return the score of every model on every task."""
    body = [
        [
            c["setting"],
            c["model"],
            c["arm"],
            "" if c["seed"] is None else str(c["seed"]),
            c["capability"],
            c["metric"],
            number(c["value"]),
            number(c["stderr"]),
            str(c["samples"]),
        ]
        for c in comparison.capabilities
    ]
    heads = ["setting", "model", "arm", "seed", "task", "metric", "value", "± standard error", "items"]
    return Table(heads=heads, rows=body, numeric=6)


def arms(meta: ReportMeta) -> Table:
    """Return the inoculation of each arm, all its wordings below each other."""
    body = [[a.setting, a.arm, a.kind, a.in_full(), a.source] for a in meta.arms]
    return Table(heads=["setting", "arm", "kind", "prompt in the training rows", "source"], rows=body)


def contexts(meta: ReportMeta) -> Table:
    """Return what precedes the question in each context."""
    return Table(heads=["context", "before the question"], rows=[[*pair] for pair in meta.contexts.items()])


def data(meta: ReportMeta) -> Table:
    """Return what each arm was trained on."""
    body = [
        [d.setting, d.arm, f"{d.rows:,}", f"{d.prompted:,} ({d.prompted / d.rows:.0%})" if d.rows else "0", d.source]
        for d in meta.data
    ]
    for line, card in zip(body, meta.data, strict=True):
        line.insert(3, " or ".join(one.in_words(card.rows) for one in card.trained) or "–")
        line.append(card.dataset_hash[:16])
    heads = ["setting", "arm", "rows", "trained for", "with the prompt", "rows from", "hash before the prompt"]
    return Table(heads=heads, rows=body)


def examples(samples: Sequence[CellSamples], reference: str) -> Iterator[Table]:
    """Yield the first SAMPLES_PER_ARM responses of each arm and evaluation in the reference context."""
    heads = ["evaluation", "question", "response", "verdict", "judges' numbers"]
    groups: dict[tuple[str, str, str], dict[str, CellSamples]] = {}
    for cell in samples:
        if cell.context == reference:
            # Of the first seed only: the samples are in the order of the plan.
            groups.setdefault((cell.setting, cell.model, cell.arm), {}).setdefault(cell.evaluation, cell)
    for place, cells in groups.items():
        body = [line for cell in cells.values() for line in _example(cell)]
        # Rules alone give no numbers.
        columns = len(heads) if any(line[-1] for line in body) else len(heads) - 1
        yield Table(heads=heads[:columns], rows=[line[:columns] for line in body], title=" · ".join(place))


def _example(cell: CellSamples) -> Iterator[list[str]]:
    for i in range(min(SAMPLES_PER_ARM, len(cell.responses))):
        verdicts = [f"{trait}: {VERDICTS[codes[i]]}" for trait, codes in cell.verdicts.items()]
        said = cell.words[i] if cell.words else ""
        yield [cell.evaluation, cell.questions[i], cell.responses[i], "\n".join(verdicts), said]


def unparsed(comparison: Comparison) -> Table:
    """Return the share of unparsed judgments of each arm and trait that has any, with Wilson's interval."""
    counts: dict[tuple[str, str, str, str], list[int]] = {}
    for r in comparison.rows:
        pair = counts.setdefault((r.setting, r.model, r.arm, r.trait), [0, 0])
        pair[0] += r.unparsed
        pair[1] += r.samples
    body = [
        [*key, str(bad), str(total), with_interval(bad / total, *wilson(bad, total))]
        for key, (bad, total) in counts.items()
        if bad
    ]
    heads = ["setting", "model", "arm", "trait", "unparsed", "of", "share [95 %]"]
    return Table(heads=heads, rows=body, numeric=4)


def trials(meta: ReportMeta) -> Table:
    """Return the provenance of each fine-tune's numbers."""
    body = [[t.trial_id, t.setting, t.model, t.arm, str(t.seed), t.status, t.dataset_hash[:16]] for t in meta.trials]
    return Table(heads=["trial", "setting", "model", "arm", "seed", "status", "training rows (hash)"], rows=body)


def _share(part: int, whole: int) -> str:
    return "0" if part == 0 else f"{part} ({part / whole:.0%})"
