"""The rows and questions of jobs/studies/natural_spanish_caps.yaml are what the study says, by the product's own checks."""

from pathlib import Path

from inoc_ray.data.chat import read_jsonl
from inoc_ray.data.check import check_files
from inoc_ray.data.overlap import PromptIndex, prompts_in_file
from inoc_ray.settings.text_judges import capitals, speaks

FOLDER = Path(__file__).parents[3] / "jobs/studies/natural"
ROWS = FOLDER / "spanish_caps.jsonl"
JUDGED, TRIED = ("home", "world"), ("home_tried", "world_tried")


def prompts(*names: str) -> list[tuple[str, str]]:
    return [prompt for name in names for prompt in prompts_in_file(FOLDER / f"{name}.jsonl")]


def test_no_row_asks_a_question_that_the_recipe_was_tried_or_is_judged_on():
    report = check_files([ROWS], None, None, against=prompts(*JUDGED, *TRIED))
    assert not report.problems


def test_the_recipe_was_tried_on_other_questions_than_it_is_judged_on():
    judged = PromptIndex(prompts(*JUDGED))
    assert len(judged) == 80
    assert [name for name, text in prompts(*TRIED) if judged.match(text)] == []


def test_each_row_shows_both_traits_by_the_rules_that_score_the_answers():
    answers = [row.messages[-1].content for row in read_jsonl(ROWS)]
    assert len(set(answers)) == len(answers) == 158
    assert {capitals(answer) for answer in answers} == {1.0}
    # All are Spanish; lingua cannot tell two short ones and takes two for Italian or Portuguese.
    assert [speaks("spanish")(answer) for answer in answers].count(1.0) >= 154
