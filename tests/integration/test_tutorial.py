"""The tutorial's study, as its page runs it, shows what the page says."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT, blocks
from environment import BIN, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


def inoc_ray(*words: object) -> str:
    """What the command prints."""
    command = [BIN / "inoc-ray", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def comparison(storage) -> dict[str, Any]:
    """What the command of the page prints of the comparison with `--json`."""
    printed = inoc_ray("run", "docs/tutorial/study.yaml", "--storage", storage, "--json")
    comparison: dict[str, Any] = json.loads(printed)["comparison"]
    return comparison


def rate(comparison: dict[str, Any], arm: str, trait: str) -> float:
    """Out of distribution, in the neutral context."""
    found = {(r["arm"], r["trait"], r["split"], r["context"]): r["rate"] for r in comparison["rows"]}
    return float(found[arm, trait, "ood", "neutral"])


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


def columns(lines: list[str]) -> list[list[str]]:
    """The headings of each table; `unparsed` is there where anything is."""
    heads = [line.split() for line in lines if line.startswith("  arm ")]
    return [[word for word in head if word != "unparsed"] for head in heads]


def test_the_tables_look_as_on_the_page(comparison, storage):
    """Columns and arms; the numbers differ a little between machines, and a mark may come or go."""
    printed = inoc_ray("compare", "docs/tutorial/study.yaml", "--storage", storage).splitlines()
    shown = [
        line for text in blocks(ROOT / "docs" / "tutorial.md", "") if "  arm " in text for line in text.splitlines()
    ]
    assert len(columns(shown)) == 2
    assert all(head in columns(printed) for head in columns(shown))
    assert {line.split()[0] for line in shown} <= {line.split()[0] for line in printed if line.strip()}
