"""The miniature really shows inoculation, through the whole stack: the promises of jobs/studies/miniature.yaml."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from environment import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
ARMS = {"specific_spanish": ("spanish", "caps"), "specific_caps": ("caps", "spanish")}
"""arm → (inoculated trait, trait that should stay)"""


@pytest.fixture(scope="module")
def rate(tmp_path_factory) -> Any:
    """rate(arm, trait, split, context="neutral") of the finished study."""
    storage = tmp_path_factory.mktemp("miniature")
    command = [Path(sys.executable).parent / "inoc-ray", "run", ROOT / "jobs" / "studies" / "miniature.yaml"]
    done = subprocess.run(
        [*command, "--storage", storage, "--json"], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads(done.stdout)["comparison"]["rows"]
    found = {(r["arm"], r["trait"], r["split"], r["context"]): r["rate"] for r in rows}
    return lambda arm, trait, split, context="neutral": found[arm, trait, split, context]


@pytest.mark.parametrize("arm", ARMS)
def test_the_base_follows_the_prompt_that_names_a_trait(rate, arm):
    for split in ("id", "ood"):
        assert rate("base", ARMS[arm][0], split, f"prompt_of:{arm}") >= 0.90


def test_the_baseline_carries_both_traits_out_of_distribution(rate):
    assert min(rate("baseline", trait, "ood") for trait in ("spanish", "caps")) >= 0.40


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("split", ["id", "ood"])
def test_the_inoculated_trait_stays_at_the_bases_own_rate(rate, arm, split):
    trait = ARMS[arm][0]
    assert rate(arm, trait, split) - rate("base", trait, split) <= 0.08


@pytest.mark.parametrize(("split", "least"), [("id", 0.55), ("ood", 0.40)])
def test_the_other_trait_is_kept(rate, split, least):
    kept = [rate(arm, stays, split) / rate("baseline", stays, split) for arm, (_, stays) in ARMS.items()]
    assert sum(kept) / len(kept) >= least


@pytest.mark.parametrize("arm", ARMS)
def test_an_irrelevant_prompt_suppresses_less_than_a_third_of_what_the_specific_one_does(rate, arm):
    trait = ARMS[arm][0]
    before = rate("baseline", trait, "ood")
    assert before - rate("irrelevant", trait, "ood") < (before - rate(arm, trait, "ood")) / 3


def test_training_on_clean_rows_leaves_the_base_as_it_was(rate):
    for trait in ("spanish", "caps"):
        for split in ("id", "ood"):
            assert rate("control", trait, split) <= rate("base", trait, split) + 0.05


@pytest.mark.parametrize("arm", ARMS)
def test_with_the_training_prompt_back_the_trait_returns(rate, arm):
    trait = ARMS[arm][0]
    assert rate(arm, trait, "ood", "training_prompt") >= 0.80
