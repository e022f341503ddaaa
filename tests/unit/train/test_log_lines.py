"""Every line that a worker logs while it trains says of which trial it is, whoever writes it and in whatever form."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from inoc_ray.store.place import at
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.resources import GroupResources
from inoc_ray.train.job import TrialJob
from inoc_ray.train.log_lines import in_words, logged_as, next_attempt, trial_facts
from inoc_ray.train.spec import LoopSpec

FACTS = {"study": "100% mine", "trial": "0f3a", "seed": 3, "attempt": 2}
HEAD = "study=100% mine trial=0f3a seed=3 attempt=2: "


@pytest.fixture
def out() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger whose handler was there before."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = logging.getLogger("a.library")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger, text
    logger.removeHandler(handler)


def test_a_line_of_any_library_begins_with_study_trial_seed_and_attempt(out: tuple[logging.Logger, io.StringIO]):
    logger, text = out
    logger.info("before %d", 1)
    with logged_as(FACTS):
        logger.info("plain")
        logger.warning("%s of %d", "half", 100)
        logger.info("100%")
        logger.info(ValueError("an error"))
        logger.info("%(name)s", {"name": "x"})
    logger.info("after")
    assert text.getvalue().splitlines() == [
        "before 1",
        f"{HEAD}plain",
        f"{HEAD}half of 100",
        f"{HEAD}100%",
        f"{HEAD}an error",
        f"{HEAD}x",
        "after",
    ]


def test_rays_json_has_them_as_keys(out: tuple[logging.Logger, io.StringIO]):
    from ray._common.formatters import JSONFormatter

    logger, text = out
    logger.handlers[0].setFormatter(JSONFormatter())
    with logged_as(FACTS):
        logger.info("x")
    found = json.loads(text.getvalue())
    assert {name: found[name] for name in FACTS} == FACTS
    assert found["message"] == f"{HEAD}x"


def test_an_error_in_the_block_leaves_logging_as_it_was(out: tuple[logging.Logger, io.StringIO]):
    logger, text = out
    with pytest.raises(KeyError), logged_as(FACTS):
        raise KeyError
    logger.info("after")
    assert text.getvalue() == "after\n"


def test_attempts_are_counted_for_each_trial_and_a_damaged_count_begins_anew(tmp_path: Path):
    attempts = at(tmp_path / "attempts")
    assert [next_attempt(attempts, trial) for trial in ("a", "a", "b", "a")] == [1, 2, 1, 3]
    (tmp_path / "attempts" / "a.count").write_text("")
    assert next_attempt(attempts, "a") == 1


def test_the_facts_of_a_trial_are_words_to_search_logs_for():
    recipe = Recipe.model_validate({"learning_rate": 1e-3, "steps": 1})
    spec = LoopSpec(model="m", seed=7, recipe=recipe, resources=GroupResources())
    job = TrialJob(trial_id="0f3a", label="x", spec=spec, rows=[], study="quickstart")
    assert in_words(trial_facts(job, 1)) == "study=quickstart trial=0f3a seed=7 attempt=1"
    assert TrialJob.from_dict(job.to_dict()).study == "quickstart"
