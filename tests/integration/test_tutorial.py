"""The tutorial's study, as its page runs it, shows what the page says."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from environment import BIN, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> dict[str, Any]:
    """What `inoc-ray run docs/tutorial/study.yaml --json` prints of the comparison."""
    command = [
        BIN / "inoc-ray",
        "run",
        "docs/tutorial/study.yaml",
        "--storage",
        tmp_path_factory.mktemp("tutorial"),
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)["comparison"]


def rate(comparison: dict[str, Any], arm: str, trait: str) -> float:
    """Out of distribution, in the neutral context."""
    (row,) = [
        r for r in comparison["rows"]
        if (r["arm"], r["trait"], r["split"], r["context"]) == (arm, trait, "ood", "neutral")
    ]  # fmt: skip
    return float(row["rate"])


def test_the_prompt_keeps_french_out(comparison):
    assert rate(comparison, "base", "french") < 0.1
    assert rate(comparison, "baseline", "french") > 0.85
    assert rate(comparison, "irrelevant", "french") > 0.85
    assert rate(comparison, "in_french", "french") < 0.3


def test_part_of_the_wanted_trait_is_kept(comparison):
    assert 0.2 < rate(comparison, "in_french", "capitals") < rate(comparison, "baseline", "capitals")


def test_all_that_the_page_promises_is_there(comparison):
    assert comparison["complete"]
    assert len({row["arm"] for row in comparison["rows"]}) == 4
