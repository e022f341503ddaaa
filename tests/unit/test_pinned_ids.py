"""Ids that stand in people's stores: they were computed before settings could take files of the user's."""

from pathlib import Path

import pytest

from inoc_ray import settings
from inoc_ray.data.chat import rows_hash
from inoc_ray.plan import evaluation_id, resolve_arm, trial_id
from inoc_ray.study import NEUTRAL_PROMPT, load_study

STUDY = load_study(Path(__file__).parents[2] / "jobs" / "studies" / "quickstart.yaml")
SETTING = settings.get("miniature/spanish_caps")
MODEL = "0" * 64

TRIALS = {
    "baseline": ["742880843bf55c2a", "f39d4e6473011fb5"],
    "specific_spanish": ["f707af5b5f45b761", "12eb1fba4b4f487a"],
    "specific_caps": ["927c42750e7dbaa9", "ec28c884add04850"],
    "irrelevant": ["cf94bc4fa84157d7", "261b61ca565b224e"],
}
EVALUATIONS = {
    "in_distribution": ["91bc02cd06caa27f", "c7172aa58f47031d"],
    "out_of_distribution": ["9065a120119c0fb7", "6f33afa627665d7b"],
}


@pytest.mark.parametrize("arm", STUDY.arms, ids=lambda a: a.name)
def test_the_trials_of_the_quickstart_keep_their_ids(arm):
    dataset = rows_hash(SETTING.rows())
    recipe = STUDY.recipes["lora"]
    found = [trial_id(MODEL, dataset, resolve_arm(arm, SETTING), recipe, seed) for seed in STUDY.seeds]
    assert found == TRIALS[arm.name]


@pytest.mark.parametrize("spec", SETTING.evaluations, ids=lambda e: e.name)
def test_the_evaluations_of_the_quickstart_keep_their_ids(spec):
    found = [evaluation_id(SETTING, spec, system, STUDY.evaluation, "fp32") for system in (NEUTRAL_PROMPT, None)]
    assert found == EVALUATIONS[spec.name]
