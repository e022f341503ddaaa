"""Checked claims as text: a table for the terminal and the report, a summary in a line, and tags for MLflow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.results.wording import missing_summary, p_text, with_interval, with_minus
from inoc_ray.study.claims import KIND

if TYPE_CHECKING:
    from inoc_ray.results.claim_checks import CheckedArm, CheckedClaim
    from inoc_ray.results.comparison import Comparison

HEADS = (
    "claim",
    "verdict",
    "number",
    "claimed",
    "value [95 %]",
    "p against “claimed”",
    "seeds",
    "what would settle it",
    "source",
)
VERDICTS = ("holds", "fails", "cannot tell")
_MARKS = {"holds": "✓", "fails": "✗", "cannot tell": "?"}
MEANING = (
    "A claim holds if the whole interval of its number lies where the claim says (then p < .05), and fails if it lies wholly "
    "elsewhere; otherwise the study cannot tell. An equivalence (within) is tested with two one-sided tests, and shows the 90 % "
    "interval that goes with them where its number lies within. A claim on several arms holds if it holds for each of them. The "
    "paper prints no numbers, so the thresholds of its claims are ours. p is against what is claimed, not against 0, and not "
    "adjusted: each claim is a question of its own."
)


def claim_rows(claims: Iterable[CheckedClaim]) -> list[list[str]]:
    """Return a line of HEADS for each claim, as plain text."""
    return [
        [
            claim.says,
            claim.verdict,
            f"{claim.measure} ({arm_text(claim.decides)})",
            with_minus(claim.claimed),
            value_text(claim.decides),
            p_text(claim.decides.p),
            "–" if claim.decides.seeds is None else str(claim.decides.seeds),
            remedy(claim.decides),
            claim.source or ("the study" if claim.own else ""),
        ]
        for claim in claims
    ]


def arm_text(arm: CheckedArm) -> str:
    """Return the arm; of a kind, how many arms it is the mean of, since one alone says nothing of another wording."""
    if not arm.arm.startswith(KIND) or arm.value is None:
        return arm.arm
    return f"{arm.arm}, {'one arm alone' if arm.of == 1 else f'mean of {arm.of} arms'}"


def value_text(arm: CheckedArm) -> str:
    """Return `.07 [.04, .11]`, with the level of the interval if it is not 95 %; a dash without a value."""
    text = with_interval(arm.value, arm.low, arm.high)
    return text if arm.value is None or arm.level == 0.95 else f"{text} ({100 * arm.level:.0f}\u00a0%)"


def remedy(arm: CheckedArm) -> str:
    """Return why the study cannot tell, and what would settle it; empty if it can."""
    return with_minus(": ".join(filter(None, [arm.why, arm.settle])))


def summary(claims: Sequence[CheckedClaim]) -> str:
    """Return "5 claims: 3 hold, 1 fails, 1 undecided"; empty without claims."""
    if not claims:
        return ""
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in VERDICTS}
    words = {
        "holds": "holds" if counts["holds"] == 1 else "hold",
        "fails": "fails" if counts["fails"] == 1 else "fail",
        "cannot tell": "undecided",
    }
    found = [f"{count} {words[verdict]}" for verdict, count in counts.items() if count]
    return f"{len(claims)} claim{'s' * (len(claims) != 1)}: {', '.join(found)}"


def claim_tags(claims: Sequence[CheckedClaim]) -> dict[str, str]:
    """Return MLflow tags of a study's run: `claims` (the summary), `claims.holds`, `claims.fails` and `claims.open` (names)."""
    names = {"holds": "claims.holds", "fails": "claims.fails", "cannot tell": "claims.open"}
    tags = {"claims": summary(claims)}
    for verdict, tag in names.items():
        found = ", ".join(dict.fromkeys(claim.name for claim in claims if claim.verdict == verdict))
        tags |= {tag: found} if found else {}
    return tags if claims else {}


def claims_json(comparison: Comparison) -> dict[str, Any]:
    """Return what `inoc-ray claims --json` prints."""
    return {
        "study": comparison.study,
        "complete": comparison.complete,
        "claims": [claim.to_json() for claim in comparison.claims],
    }


def claims_text(comparison: Comparison, width: int) -> str:
    """Return the claims as text: by setting × model, a few lines each."""
    lines = [f"study {comparison.study}: {summary(comparison.claims) or 'no claims; write some under `claims`'}"]
    if not comparison.complete:
        lines += ["", *textwrap.wrap(missing_summary(comparison), width)]
    for setting, model in dict.fromkeys((claim.setting, claim.model) for claim in comparison.claims):
        lines += ["", f"{setting} · {model}"]
        for claim in comparison.claims:
            if (claim.setting, claim.model) == (setting, model):
                lines += _lines(claim, width)
    if comparison.claims:
        lines += ["", *textwrap.wrap(MEANING, width)]
    return "\n".join(lines) + "\n"


def _lines(claim: CheckedClaim, width: int) -> list[str]:
    source = f" ({claim.source})" if claim.source else ""
    found = textwrap.wrap(
        f"{_MARKS[claim.verdict]} {claim.verdict:12}{claim.says}{source}", width, subsequent_indent=" " * 14
    )
    for arm in claim.arms:
        seeds = "" if arm.seeds is None else f", {arm.seeds} seed{'s' * (arm.seeds != 1)}"
        p = "" if arm.p is None else f", p {p_text(arm.p)} against that"
        text = f"{claim.measure} ({arm_text(arm)}): {value_text(arm)}, claimed {with_minus(claim.claimed)}{p}{seeds}"
        text += f"; {remedy(arm)}" if remedy(arm) else ""
        found += textwrap.wrap(text, width, initial_indent=" " * 14, subsequent_indent=" " * 16)
    return found
