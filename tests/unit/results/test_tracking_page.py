"""What MLflow says of a study on its experiment's page is what the report says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from results_table import score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.records import MAX_TAG
from inoc_ray.results.report.in_short import in_short
from inoc_ray.results.report.verdict import verdicts
from inoc_ray.results.tracking_page import describe


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(score_table(seeds=2), "toy")


def note(comparison: Comparison) -> str:
    """The note as it is written to the experiment."""
    client, experiment = Mock(), Mock(experiment_id="1", tags={})
    study: Any = Mock(description="toy: 4 arms", created_at=datetime.now(UTC))
    study.name = "toy"
    describe(client, experiment, study, comparison)
    written = {call.args[1]: call.args[2] for call in client.set_experiment_tag.call_args_list}
    return str(written["mlflow.note.content"])


def test_the_note_has_the_word_of_the_verdict_and_the_warning_of_few_seeds(comparison: Comparison) -> None:
    [short] = in_short(verdicts(comparison, {}))
    text = note(comparison)
    assert short.warning
    assert short.warning in text
    assert short.sentence in text
    assert all(f"{what}: {arms}" in text for what, arms in short.points)
    assert short.warning not in note(compare(score_table(seeds=4), "toy"))


def test_the_note_has_the_leak_with_its_reference(comparison: Comparison) -> None:
    text = note(comparison).replace("\u00a0", " ")
    assert text.count("→ 90 % (the untouched base was not asked under this prompt)") == 2
    assert "Leak: not tested." in note(compare(score_table(seeds=2, contexts=("neutral",)), "toy"))


def test_the_first_line_is_the_verdict_and_a_link_to_the_view_and_no_sentence_is_cut(comparison: Comparison) -> None:
    """MLflow shows that line alone until somebody unfolds the rest."""
    [short] = in_short(verdicts(comparison, {}))
    lines = note(comparison).split("\n\n")
    assert lines[0] == f"[Compare the arms](#/experiments/1/runs?viewStateShareKey=arms) · {short.listed()}"
    assert lines[1] == f"{short.sentence} {short.warning}"
    assert "toy: 4 arms" in lines
    for length in range(1, 60):
        claim: Any = SimpleNamespace(
            says=f"A prompt does {'x' * length}.", setting="toy", model="tiny", verdict="holds"
        )
        *whole, end = note(replace(comparison, claims=(claim,) * 300)).split("\n\n")
        assert len("\n\n".join((*whole, end))) <= MAX_TAG
        assert end == "(The rest is in the report.)"
        assert whole[-1] == f"- A prompt does {'x' * length}: **holds**"


def test_what_a_claim_says_is_text_and_no_markdown(comparison: Comparison) -> None:
    says = "It is *sure*, `so`,\nsays <img src=x> [a page](http://elsewhere) in .9 [.8, 1.0]."
    claim: Any = SimpleNamespace(says=says, setting="toy", model="tiny", verdict="holds")
    said = note(replace(comparison, claims=(claim,))).split("\n\n")[-1]
    assert (
        said == r"- It is \*sure\*, \`so\`, says &lt;img src=x> [a page]\(http://elsewhere) in .9 [.8, 1.0]: **holds**"
    )
