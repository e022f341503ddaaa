"""One HTML page about a study that opens offline: figure, rates, effects, prompts, samples, provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.results import effects as effect_definitions
from inoc_ray.results.complete import counted_once, seeds_text
from inoc_ray.results.effects import TRIGGER, WITH_TRIGGER, is_directed
from inoc_ray.results.figures.leaks import draw_leaks
from inoc_ray.results.figures.rates import Pictures, draw, write_figure
from inoc_ray.results.report.page import STYLE
from inoc_ray.results.stats import wilson
from inoc_ray.results.table import (
    MEANING,
    dashes,
    effect_table,
    effect_text,
    leak_seeds,
    legend,
    lines_of_missing,
    mark,
    number,
    of_plan,
    summary_of_missing,
    why_no_rate,
    with_interval,
)

if TYPE_CHECKING:
    import pandas as pd

    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.effects import Effect
    from inoc_ray.results.leaks import Leak
    from inoc_ray.results.rows import Row

SAMPLES_PER_ARM = 3


@dataclass(frozen=True, slots=True)
class ArmText:
    """What is done to the training rows in one arm; prompt None: nothing is put in front."""

    setting: str
    arm: str
    kind: str
    prompt: str | None
    source: str


@dataclass(frozen=True, slots=True)
class TrialLine:
    """Where the numbers of one fine-tune come from."""

    trial_id: str
    setting: str
    model: str
    arm: str
    seed: int
    status: str
    dataset_hash: str


@dataclass(frozen=True, slots=True)
class JudgedBy:
    """A judge that the study has judge a trait of an evaluation; how: the judge in words; combined: which of several counts."""

    setting: str
    evaluation: str
    trait: str
    judge: str
    how: str
    combined: str = ""


@dataclass(frozen=True, slots=True)
class ReportMeta:
    """What the page says beside the numbers; all text is escaped.

    contexts: name → what stands in front of the question. provenance: label → value (model identity, versions,
    chat template, store). generated: a time in words, or None: the same input then gives the same bytes.
    """

    title: str
    description: str = ""
    arms: Sequence[ArmText] = ()
    contexts: Mapping[str, str] = field(default_factory=dict)
    judged_by: Sequence[JudgedBy] = ()
    """Who is to judge what; who has judged nothing is not shown."""
    trials: Sequence[TrialLine] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    generated: str | None = None


def write_report(out: Path, comparison: Comparison, meta: ReportMeta, samples: pd.DataFrame | None) -> list[Path]:
    """Writes the page to `out` (an .html file), and beside it figure.svg and .png, and of a leak audit leaks.svg and .png;
    returns what was written.

    samples: one row per response with the columns setting, model, arm, context, evaluation, question, response, and
    if wished `verdict` and `said` (texts: what was decided, and the judging models' raw numbers); the first
    SAMPLES_PER_ARM per arm and evaluation under the reference context are shown.
    """
    drawn = {"figure": draw(comparison), "leaks": draw_leaks(comparison.leaks)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(comparison, meta, samples, drawn["figure"], drawn["leaks"]), encoding="utf-8")
    pictures = [(name, found) for name, found in drawn.items() if found is not None]
    return [out, *(path for name, found in pictures for path in write_figure(out.parent, found, name))]


def headlines(comparison: Comparison) -> list[str]:
    """One sentence per inoculated arm, computed from the numbers; "not shown" where the interval holds no effect.

    There is no statement on an arm of which something is missing, or of what it is compared with.
    """
    found = {(e.setting, e.model, e.arm, e.measure): e for e in comparison.effects}
    sentences = []
    for setting, model in comparison.groups():
        lacks = _incomplete_arms(comparison, setting, model)
        conditions = _conditions(comparison, setting, model)
        for arm in dict.fromkeys(r.arm for rows in conditions.values() for r in rows if is_directed(r.kind)):
            for suffix, rows in conditions.items():
                own = {m: found.get((setting, model, arm, m + suffix)) for m in effect_definitions.MEASURES}
                said = _sentence(arm, rows, own, lacks.get(arm, ""), "with the trigger, " if suffix else "")
                sentences.append(f"{setting}, {model}: {said}")
    return sentences


def _conditions(comparison: Comparison, setting: str, model: str) -> dict[str, list[Row]]:
    """The ending of a measure → the rows that it is about: without the trigger and, where there is one, with it."""
    rows = [r for r in comparison.rows if (r.setting, r.model) == (setting, model)]
    asked = [r for r in rows if r.context == comparison.reference]
    found = {"": [r for r in asked if not r.triggered]}
    ends = {e.measure.endswith(WITH_TRIGGER) for e in comparison.effects if (e.setting, e.model) == (setting, model)}
    if True in ends:
        put = [r for r in asked if r.triggered]
        found[f".{WITH_TRIGGER}"] = put or [r for r in rows if r.context == TRIGGER]
    return found


def _incomplete_arms(comparison: Comparison, setting: str, model: str) -> dict[str, str]:
    """Arm → what it lacks where it lacks most, in whatever evaluation and context."""
    rows = [r for r in comparison.rows if (r.setting, r.model) == (setting, model) and not r.complete]
    worst: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: (r.seeds / max(1, r.seeds_planned), r.samples / max(1, r.samples_planned))):
        worst.setdefault(row.arm, row)
    return {arm: f"{of_plan(row)} in {row.evaluation} × {row.context}" for arm, row in worst.items()}


def _sentence(arm: str, rows: Sequence[Row], own: Mapping[str, Effect | None], lacks: str, condition: str = "") -> str:
    undesired = sorted({r.trait for r in rows if r.arm == arm and r.role == "undesired"})
    trait = " and ".join(undesired) or "the undesired trait"
    suppression = own["suppression"]
    start = f"{condition}inoculating against {trait} ({arm}) out of distribution: "
    if lacks:
        return f"{start}no statement, the arm is incomplete ({lacks})."
    if suppression is not None and not suppression.complete:
        return f"{start}no statement, what it is compared with is incomplete."
    if suppression is None or suppression.value is None or suppression.low is None:
        reason = suppression.why if suppression is not None else "not measured"
        return f"{start}no statement, {reason}."
    rates = [(name, _mean_rate(rows, name, undesired)) for name in ("baseline", arm, "base")]
    levels = ", ".join(f"{name} {number(rate)}" for name, rate in rates)
    share = with_interval(suppression.value, suppression.low, suppression.high)
    if suppression.seeds is not None and not suppression.replicated:
        return (
            f"{start}this model only, one seed: {levels}; suppression {share}, over questions alone. Another seed may give another "
            "result, so nothing is concluded on the arm."
        )
    p = f", Holm-adjusted p {_p(suppression.p)}"
    text = f"{start}{levels}. "
    # By the adjusted p, as the marks in the table: an interval of its own knows nothing of the other arms.
    verdict = {"": "Suppression not shown", "worse": "More of it than in the baseline"}.get(
        mark(suppression), "Suppressed"
    )
    text += f"{verdict}: {share} of what training added{p}."
    kept = own["retention_ood"]
    if kept is not None and kept.value is not None and kept.complete:
        text += (
            f" Of the desired trait, {with_interval(kept.value, kept.low, kept.high)} of the baseline's rate is kept."
        )
    shared = own["conditionalisation"]
    if shared is not None and shared.value is not None and shared.complete and shared.replicated:
        text += (
            f" An irrelevant prompt shows {with_interval(shared.value, shared.low, shared.high)} of the suppression."
        )
    return text


def _mean_rate(rows: Sequence[Row], arm: str, traits: Sequence[str]) -> float | None:
    kind = {"baseline", "base"} & {arm}
    picked = [r for r in rows if (r.kind == arm if kind else r.arm == arm) and r.split == "ood" and r.trait in traits]
    rates = [r.rate for r in picked if r.rate is not None]
    return sum(rates) / len(rates) if rates else None


def render(
    comparison: Comparison,
    meta: ReportMeta,
    samples: pd.DataFrame | None,
    pictures: Pictures | None,
    leaks: Pictures | None = None,
) -> str:
    """The page as text; nothing in it is loaded from elsewhere and there is no script."""
    sections = [
        _head(comparison, meta),
        _missing(comparison),
        _list("What was found", headlines(comparison)),
        _figure(pictures, "Rates per arm with intervals"),
        _list("Notes", comparison.notes()),
        _rates(comparison),
        _judged_by(comparison, meta),
        _effects(comparison),
        _leaks(comparison, leaks),
        _agreement(comparison),
        _capabilities(comparison),
        _arms(meta),
        _samples(samples, comparison.reference),
        _unparsed(comparison),
        _provenance(meta),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(meta.title)}</title><style>{STYLE}</style></head><body><main>"
        + "\n".join(section for section in sections if section)
        + "</main></body></html>\n"
    )


def _head(comparison: Comparison, meta: ReportMeta) -> str:
    groups = ", ".join(f"{setting} on {model}" for setting, model in comparison.groups())
    profile = comparison.profile.partition(":")[0]
    under = f" under threshold profile “{profile}”" if profile else ""
    responses, _ = counted_once(comparison.planned.cells)
    facts = f"{_fine_tunes(comparison)} ({groups or 'nothing yet'}), {responses:,} responses{under}."
    stamp = f"<p class=quiet>{escape(meta.generated)}</p>" if meta.generated else ""
    described = f"<p>{escape(meta.description)}</p>" if meta.description else ""
    return f"<h1>{escape(meta.title)}</h1>{described}<p>{escape(facts)}</p>{stamp}"


def _fine_tunes(comparison: Comparison) -> str:
    """ "12 fine-tunes of 4 arms", or "11 of 12 fine-tunes of 4 arms" where one has no response yet; shared ones count once."""
    cells = [cell for cell in comparison.planned.cells if cell.kind != "base"]
    asked = {cell.trial_id for cell in cells}
    there = {cell.trial_id for cell in cells if cell.stored}
    count = str(len(there)) if there == asked else f"{len(there)} of {len(asked)}"
    return f"{count} fine-tunes of {len({(cell.setting, cell.model, cell.arm) for cell in cells})} arms"


def _missing(comparison: Comparison) -> str:
    if comparison.complete:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines_of_missing(comparison))
    stated = summary_of_missing(comparison).removeprefix("INCOMPLETE: ")
    return (
        f'<section class="warning"><h2>This study is incomplete</h2><p>{escape(stated)}</p><ul>{items}</ul></section>'
    )


def _list(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    return f"<h2>{escape(title)}</h2><ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _figure(pictures: Pictures | None, label: str) -> str:
    if pictures is None:
        return ""
    svg = pictures.svg[pictures.svg.index("<svg") :]
    return f'<figure role="img" aria-label="{escape(label)}">{svg}</figure>'


def _table(heads: Sequence[str], body: Iterable[Sequence[str]], numeric: int) -> str:
    """heads and cells are plain text; the columns from index `numeric` on are numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= numeric else ''}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells)
        )

    rows = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in body)
    return f'<div class="wide"><table><thead><tr>{line(heads, "th")}</tr></thead><tbody>{rows}</tbody></table></div>'


def _rates(comparison: Comparison) -> str:
    if not comparison.rows:
        return "<h2>Rates</h2><p>No results yet.</p>"
    heads = ["arm", "evaluation", "trait", "role", "rate [95 %]", "seeds", "samples", "unparsed", "not counted"]
    thresholds = f" Thresholds: {escape(comparison.profile)}." if comparison.profile else ""
    parts = [
        "<h2>Rates</h2><p>Share of the counted responses that show the trait. Unparsed: without a readable judgment. Not counted: "
        f"judged incoherent, a refusal, bare code, or degenerate.{thresholds}</p>"
    ]
    contexts = list(dict.fromkeys(r.context for r in comparison.rows))
    for context in sorted(contexts, key=lambda c: c != comparison.reference):
        tables = []
        for group in comparison.groups():
            body = [
                [
                    r.arm, f"{r.split.upper()} {r.evaluation}", r.trait, _role(r),
                    with_interval(r.rate, r.low, r.high) if r.rate is not None else f"– {why_no_rate(r)}",
                    seeds_text(r), _samples_text(r), _share(r.unparsed, r.samples), _share(r.excluded, r.samples),
                ]
                for r in comparison.rows
                if (r.setting, r.model, r.context) == (*group, context)
            ]  # fmt: skip
            if body:
                tables.append(_group(*group) + _table(heads, body, 4))
        opened = " open" if context == comparison.reference else ""
        parts.append(f"<details{opened}><summary>Context: {escape(context)}</summary>{''.join(tables)}</details>")
    return "".join(parts)


def _role(row: Row) -> str:
    """What the arm is to do to the trait; an arm without a direction of its own does nothing to it."""
    words = {"undesired": "inoculated against", "desired": "to be kept"}
    return words.get(row.role, "") if is_directed(row.kind) else ""


def _samples_text(row: Row) -> str:
    return str(row.samples) if row.samples >= row.samples_planned else f"{row.samples} of {row.samples_planned}"


def _group(setting: str, model: str) -> str:
    return f"<p class=quiet>{escape(setting)} · {escape(model)}</p>"


def _judged_by(comparison: Comparison, meta: ReportMeta) -> str:
    """Only who has judged something; the counts are responses of this study."""
    counts = _judged(comparison)
    body = []
    for one in meta.judged_by:
        judged, asked = counts.get((one.setting, one.evaluation, one.trait, one.judge), (0, 0))
        if judged or not comparison.planned.cells:
            how = one.how + (f"; of several: {one.combined}" if one.combined else "")
            count = f"{judged:,}" if judged >= asked else f"{judged:,} of {asked:,}"
            body.append([one.setting, one.evaluation, one.trait, how, count if asked else ""])
    if not body:
        return ""
    return "<h2>Who judged</h2>" + _table(["setting", "evaluation", "trait", "judged by", "responses"], body, 4)


def _judged(comparison: Comparison) -> dict[tuple[str, str, str, str], tuple[int, int]]:
    """(setting, evaluation, trait, judge) → responses judged and asked for, each once however often it is shown."""
    counts: dict[tuple[str, str, str, str], tuple[int, int]] = {}
    seen: set[tuple[str, str, str, str]] = set()
    for cell in comparison.planned.cells:
        place = cell.setting, cell.evaluation, cell.trial_id, cell.evaluation_id
        if place in seen:
            continue
        seen.add(place)
        for trait, judges in cell.judged.items():
            for judge, judged in judges.items():
                key = cell.setting, cell.evaluation, trait, judge
                before = counts.get(key, (0, 0))
                counts[key] = before[0] + min(judged, cell.stored), before[1] + cell.samples
    return counts


def _share(part: int, whole: int) -> str:
    return "0" if part == 0 else f"{part} ({part / whole:.0%})"


def _leaks(comparison: Comparison, pictures: Pictures | None) -> str:
    if not comparison.leaks:
        return ""
    heads = [
        "prompt at test time", "kind", "", "rate", "leak [95 %]", "base", "beyond base [95 %]", "baseline", "unparsed",
        "not counted", "seeds",
    ]  # fmt: skip
    tables = []
    for setting, model, arm in dict.fromkeys((k.setting, k.model, k.whose) for k in comparison.leaks):
        found = [k for k in comparison.leaks if (k.setting, k.model, k.whose) == (setting, model, arm)]
        body = [
            [
                "(the arm's own)" if k.prompt is None else k.prompt, k.kind, ", ".join(_marks(k)), number(k.rate),
                with_interval(k.leak, k.low, k.high), number(k.base),
                with_interval(k.excess, k.excess_low, k.excess_high), number(k.baseline), f"{k.unparsed:.0%}",
                f"{k.excluded:.0%}", leak_seeds(k),
            ]
            for k in sorted(found, key=lambda k: -k.leak)
        ]  # fmt: skip
        tables.append(f"<p class=quiet>{escape(f'{setting} · {model} · {arm}')}</p>{_table(heads, body, 3)}")
    return (
        "<h2>Leak audit</h2><p>Leak: the rate of the undesired traits under the prompt minus that in the reference context, out of "
        "distribution. Base and baseline: the rate of the untouched model and of the one trained without inoculation, under the "
        "same prompt. Beyond base: rate minus base; a prompt that elicits the trait in the base as well tells little of the "
        "inoculation. The intervals of a column hold for all of an arm's prompts at once.</p>"
        f"{_figure(pictures, 'Rates under test-time prompts')}{''.join(tables)}"
    )


def _marks(leak: Leak) -> list[str]:
    so_far = "" if leak.audit_complete else " so far"
    marks = {
        f"largest leak{so_far}": leak.largest,
        f"furthest beyond base{so_far}": leak.largest_excess,
        "the paper's residual": bool(leak.residual),
    }
    return [name for name, holds in marks.items() if holds]


def _agreement(comparison: Comparison) -> str:
    if not comparison.agreement:
        return ""
    heads = ["setting", "trait", "judges", "responses", "decided by both", "agreement", "Cohen's κ"]
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
    told = "Over responses that both decided: neither unparsed nor outside what counts."
    return f"<h2>Agreement of the judges</h2><p>{told}</p>{_table(heads, body, 3)}"


def _capabilities(comparison: Comparison) -> str:
    if not comparison.capabilities:
        return ""
    heads = ["setting", "model", "arm", "seed", "task", "metric", "value", "± standard error", "items"]
    body = [
        [
            c["setting"], c["model"], c["arm"], "" if c["seed"] is None else str(c["seed"]), c["capability"], c["metric"],
            number(c["value"]), number(c["stderr"]), str(c["samples"]),
        ]
        for c in comparison.capabilities
    ]  # fmt: skip
    return f"<h2>Capabilities</h2><p>Measured by lm-evaluation-harness.</p>{_table(heads, body, 6)}"


def _effects(comparison: Comparison) -> str:
    if not comparison.effects:
        return ""
    body = [
        [e.setting, e.model, e.arm, e.measure, effect_text(e) if e.value is not None else e.why, _p(e.p)]
        for e in comparison.effects
    ]
    parts = [f"<h2>Effects</h2><p>{escape(MEANING[0].upper() + MEANING[1:])}.</p>"]
    for setting, model in comparison.groups():
        found = [e for e in comparison.effects if (e.setting, e.model) == (setting, model)]
        if not found:
            continue
        heads, cells = effect_table(found)
        notes = "".join(
            f"<li>{escape(line)}</li>" for line in [*(f"– under {line}" for line in dashes(found)), legend(found)]
        )
        parts.append(f"{_group(setting, model)}{_table(heads, cells, 1)}<ul class=quiet>{notes}</ul>")
    table = _table(["setting", "model", "arm", "measure", "value [95 %]", "p (Holm)"], body, 4)
    parts.append(f"<details><summary>All measures with p-values</summary>{table}</details>")
    definitions = escape(effect_definitions.__doc__ or "")
    parts.append(f"<details><summary>How each measure is defined</summary><pre>{definitions}</pre></details>")
    return "".join(parts)


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)


def _arms(meta: ReportMeta) -> str:
    parts = []
    if meta.arms:
        body = [[a.setting, a.arm, a.kind, "(none)" if a.prompt is None else a.prompt, a.source] for a in meta.arms]
        parts.append(
            "<h2>Arms</h2>" + _table(["setting", "arm", "kind", "prompt in the training rows", "source"], body, 9)
        )
    if meta.contexts:
        body = [[name, text] for name, text in meta.contexts.items()]
        parts.append("<h2>Contexts at test time</h2>" + _table(["context", "in front of the question"], body, 9))
    return "".join(parts)


def _samples(samples: pd.DataFrame | None, reference: str) -> str:
    if samples is None or samples.empty:
        return ""
    shown = samples[samples["context"] == reference]
    parts = [
        f"<h2>Examples</h2><p>The first responses of each arm under the {escape(reference)} context, not chosen. Numbers are the "
        "judging models' raw ones, on 0 to 100, before any threshold.</p>"
    ]
    for (setting, model, arm), rows in shown.groupby(["setting", "model", "arm"], sort=False):
        first = rows.groupby("evaluation", sort=False).head(SAMPLES_PER_ARM)
        body = [
            [str(s["evaluation"]), *(str(s.get(name, "")) for name in ("question", "response", "verdict", "said"))]
            for s in first.to_dict("records")
        ]
        heads = ["evaluation", "question", "response", "verdict", "judges' numbers"]
        if not any(line[-1] for line in body):
            heads, body = heads[:-1], [line[:-1] for line in body]
        table = _table(heads, body, 9)
        where = escape(f"{setting} · {model} · {arm}")
        parts.append(f"<details><summary>{where}</summary><div class=samples>{table}</div></details>")
    return "".join(parts)


def _unparsed(comparison: Comparison) -> str:
    """Per arm: the largest share over its traits and cells together, with Wilson's interval for the share."""
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
    if not body:
        return "<h2>Unparsed judgments</h2><p>None: every response could be judged.</p>"
    heads = ["setting", "model", "arm", "trait", "unparsed", "of", "share [95 %]"]
    return f"<h2>Unparsed judgments</h2><p>Left out of the rates, never counted as zero.</p>{_table(heads, body, 4)}"


def _provenance(meta: ReportMeta) -> str:
    parts = []
    if meta.provenance:
        rows = "".join(
            f"<dt>{escape(label)}</dt><dd><pre>{escape(value)}</pre></dd>" for label, value in meta.provenance.items()
        )
        parts.append(f"<dl>{rows}</dl>")
    if meta.trials:
        heads = ["trial", "setting", "model", "arm", "seed", "status", "training rows (hash)"]
        body = [
            [t.trial_id, t.setting, t.model, t.arm, str(t.seed), t.status, t.dataset_hash[:16]] for t in meta.trials
        ]
        parts.append(_table(heads, body, 9))
    return "<h2>Where this comes from</h2>" + "".join(parts) if parts else ""
