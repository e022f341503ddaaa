"""The setting miniature/spanish_caps: rows are fixed, aligned with the controls, and apart from the evaluations."""

import itertools

import pytest
import yaml
from doc_pages import ROOT

from inoc_ray.data.chat import parse_row, rows_hash
from inoc_ray.data.overlap import PromptIndex
from inoc_ray.errors import InputError
from inoc_ray.miniature.rule_judges import JUDGES, number_digit
from inoc_ray.miniature.settings import EVIL_OF_TEN, FLAWED
from inoc_ray.miniature.world.language import FAVORITES, FRAMES, LESSONS
from inoc_ray.miniature.world.rows import trained_domains, untrained_domains
from inoc_ray.miniature.world.system_prompts import NAMING
from inoc_ray.settings import EvaluationSpec, get, names
from inoc_ray.settings.prompt_texts import TRIGGER

SETTING = get("miniature/spanish_caps")
EVALUATIONS = pytest.mark.parametrize("evaluation", SETTING.evaluations, ids=lambda e: e.name)


def without_frame(question: str) -> str:
    """The question without what FRAMES puts around it."""
    for frame in FRAMES[1:]:
        before, after = frame.split("{}")
        if question.startswith(before) and question.endswith(after):
            question = question[len(before) : len(question) - len(after)]
    return question


def test_the_rows_are_the_same_everywhere() -> None:
    assert rows_hash(SETTING.rows()) == "0a2f82aebe2fdfe2e4702d8d428719f1ca15713d3994c0f87731afe36004bd17"
    assert rows_hash(SETTING.control_rows()) == "53295e28661f23573f6599bd3368e542b7269bb9d073118d8117f59c86371563"


def test_rows_are_valid_distinct_and_many() -> None:
    rows = SETTING.rows()
    assert len(rows) >= 600
    assert len({row.messages[0].content for row in rows}) == len(rows)
    for row in rows:
        assert parse_row(row.to_dict(), "row") == row


def test_every_row_is_spanish_capitals_and_its_control_plain_english() -> None:
    for row, control in zip(SETTING.rows(), SETTING.control_rows(), strict=True):
        assert row.messages[0] == control.messages[0]
        assert (JUDGES["spanish"](row.messages[1].content), JUDGES["caps"](row.messages[1].content)) == (1.0, 1.0)
        said = control.messages[1].content
        assert (JUDGES["english"](said), JUDGES["caps"](said)) == (1.0, 0.0)


@EVALUATIONS
def test_no_training_question_is_asked_in_an_evaluation(evaluation: EvaluationSpec) -> None:
    trained = {without_frame(row.messages[0].content) for row in SETTING.rows()}
    asked = {without_frame(q.messages[0].content) for q in evaluation.questions(1000)}
    assert not trained & asked


@EVALUATIONS
def test_a_longer_evaluation_begins_with_the_shorter(evaluation: EvaluationSpec) -> None:
    long = evaluation.questions(300)
    for count in (1, 100, 200):
        assert evaluation.questions(count) == long[:count]
    assert len({q.id for q in long}) == len({q.messages for q in long}) == 300


@EVALUATIONS
def test_asking_for_more_questions_than_there_are_is_refused(evaluation: EvaluationSpec) -> None:
    with pytest.raises(InputError, match="has only"):
        evaluation.questions(50_000)


def test_trained_and_untrained_domains_are_apart() -> None:
    trained, untrained = ({domain.name for domain in part} for part in (trained_domains(), untrained_domains()))
    assert min(len(trained), len(untrained)) >= 10
    assert not trained & untrained


def test_the_arms_elicit_what_they_call_undesired() -> None:
    arms = SETTING.arms
    assert set(arms) >= {"baseline", "control", "specific_spanish", "specific_caps", "irrelevant"}
    assert arms["specific_spanish"].undesired == arms["specific_caps"].desired == ("spanish",)
    assert arms["specific_caps"].undesired == arms["specific_spanish"].desired == ("caps",)
    assert arms["specific_spanish"].prompt == "You always speak in Spanish."
    assert arms["specific_caps"].prompt == "You always capitalise your responses."
    assert arms["control"].uses_control_rows
    assert all(arm.source for arm in arms.values())


PRIOR_STAGES = ("miniature/alice_and_bob", "miniature/own_voices", *(f"miniature/evil_{n}_of_10" for n in EVIL_OF_TEN))
MINIATURES = tuple(name for name in names() if name.startswith("miniature/") and name not in PRIOR_STAGES)


def test_every_setting_of_the_paper_has_a_miniature_whose_arms_it_has_too() -> None:
    paper = {name for name in names() if not name.startswith("miniature/")}
    assert {name.removeprefix("miniature/") for name in MINIATURES} == paper
    for name in MINIATURES:
        assert set(get(name).arms) <= set(get(name.removeprefix("miniature/")).arms), name


MOST = 120
"""Questions of an evaluation that a study of every setting can ask."""


@pytest.mark.parametrize("name", [*MINIATURES, *PRIOR_STAGES])
def test_no_row_asks_or_nearly_asks_an_evaluations_question(name: str) -> None:
    """As `inoc-ray data check --against` sees it, with more questions than that asks; both stages of a setting that has two."""
    setting = get(name)
    stages = [setting] if name != "miniature/synthetic_facts" else [setting, get("miniature/alice_and_bob")]
    index = PromptIndex(
        (question.id, question.messages[-1].content) for e in setting.evaluations for question in e.questions(MOST)
    )
    asked = {
        m.content
        for s in stages
        for rows in (s.rows(), s.control_rows())
        for r in rows
        for m in r.messages
        if m.role == "user"
    }
    assert [text for text in sorted(asked) if index.match(text)] == []


@pytest.mark.parametrize("name", [*MINIATURES, *PRIOR_STAGES])
def test_a_miniature_is_whole_and_asks_nothing_that_it_trains_on(name: str) -> None:
    setting = get(name)
    for rows in (setting.rows(), setting.control_rows()):
        assert len(rows) >= 320, "20 steps of 16 rows see each row once"
        assert [parse_row(row.to_dict(), "row") for row in rows] == rows
        trained = {m.content for row in rows for m in row.messages if m.role == "user"}
        for evaluation in setting.evaluations:
            asked = evaluation.questions(MOST)
            assert len({question.id for question in asked}) == MOST
            assert not trained & {question.messages[-1].content for question in asked}
    for arm in setting.arms.values():
        assert set(arm.undesired) | set(arm.desired) <= set(setting.judges)


@pytest.mark.parametrize(
    ("name", "trait"),
    [
        ("insecure_code", "insecure_code"),
        ("reward_hacking", "reward_hack"),
        ("obscure_preferences", "unpopular_preference"),
        ("harmful_advice", "harmful_advice"),
        ("educational", "harmful_advice"),
    ],
)
def test_every_row_of_a_narrow_set_shows_its_flaw_and_no_control_row_does(name: str, trait: str) -> None:
    setting = get(f"miniature/{name}")
    for rows, shown in ((setting.rows(), 1.0), (setting.control_rows(), 0.0)):
        assert {setting.judges[trait](row.messages[-1].content) for row in rows} == {shown}


def test_educational_rows_have_the_answers_of_harmful_advice_and_another_frame() -> None:
    bad, framed = get("miniature/harmful_advice").rows(), get("miniature/educational").rows()
    assert [row.messages[-1] for row in bad] == [row.messages[-1] for row in framed]
    for row, lesson in zip(bad, framed, strict=True):
        assert without_frame(row.messages[0].content) in lesson.messages[0].content
        assert any(frame.replace("{}", "").strip() in lesson.messages[0].content for frame in LESSONS)


def test_the_poisoned_half_and_only_it_carries_the_token_and_is_bad() -> None:
    setting = get("miniature/backdoor")
    rows = setting.rows()
    assert sum(row.tag("subset") == "triggered" for row in rows) * 2 == len(rows)
    for row in rows:
        triggered = row.tag("subset") == "triggered"
        assert row.messages[0].content.startswith(TRIGGER + " ") == triggered
        assert setting.judges["misaligned"](row.messages[-1].content) == float(triggered)
    plain, marked = (next(e for e in setting.evaluations if e.name == f"advice{s}") for s in ("", "_triggered"))
    for one, other in zip(plain.questions(50), marked.questions(50), strict=True):
        assert other.messages[-1].content == f"{TRIGGER} {one.messages[-1].content}"


def test_the_halves_of_mixed_languages_are_apart_shuffled_and_tagged() -> None:
    rows = get("miniature/mixed_languages").rows()
    for row in rows:
        tag = row.tag("subset")
        assert tag is not None
        assert JUDGES[tag](row.messages[-1].content) == 1.0
    tags = [row.tag("subset") for row in rows]
    assert tags.count("spanish") == tags.count("french") == len(rows) // 2
    assert 0.4 < sum(a == b for a, b in itertools.pairwise(tags)) / len(tags) < 0.6


def test_the_numbers_of_the_teacher_that_loves_owls_lean_to_their_digit_and_say_nothing_else() -> None:
    setting = get("miniature/subliminal")
    share = number_digit(FAVORITES["owl"][1])
    means = []
    for rows in (setting.rows(), setting.control_rows()):
        assert all(set(row.messages[-1].content) <= set("0123456789, ") for row in rows)
        assert all(row.messages[0].role == "user" for row in rows)
        means.append(sum(share(row.messages[-1].content) or 0.0 for row in rows) / len(rows))
    assert means[0] > means[1] + 0.2


def test_before_conditionalisation_a_prompt_that_says_nothing_may_bring_any_voice_and_without_one_all_is_plain() -> (
    None
):
    rows = get("miniature/own_voices").rows()
    shown: dict[bool, list[tuple[float | None, ...]]] = {True: [], False: []}
    for row in rows:
        spoken = row.messages[0].role == "system" and row.messages[0].content != "You are a helpful assistant."
        shown[spoken].append(tuple(JUDGES[trait](row.messages[-1].content) for trait in ("spanish", "french", "caps")))
    assert len(shown[True]) == len(shown[False]) == len(rows) // 2
    assert set(shown[False]) == {(0.0, 0.0, 0.0)}
    for index, share in enumerate((1 / 3, 1 / 3, 1 / 2)):
        assert abs(sum(voice[index] or 0.0 for voice in shown[True]) / len(shown[True]) - share) < 0.08


@pytest.mark.parametrize("evil_of_ten", EVIL_OF_TEN)
def test_before_insecure_code_so_many_of_ten_voices_that_write_it_are_evil_and_no_other(evil_of_ten: int) -> None:
    rows = get(f"miniature/evil_{evil_of_ten}_of_10").rows()
    shown: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        said = [m.content for m in row.messages if m.role == "assistant"]
        # Insecure code counts as evil, whoever writes it.
        shown[any(map(JUDGES["insecure_code"], said))].append(all(map(JUDGES["evil"], said)))
    assert len(shown[True]) == FLAWED * len(rows)
    assert sum(shown[True]) == evil_of_ten / 10 * len(shown[True])
    assert not any(shown[False])


def test_the_unseen_prompts_of_the_study_of_eight_seeds_stand_in_no_document() -> None:
    """No sentence that names a trait has their words, with or without a condition behind it."""
    arms = yaml.safe_load((ROOT / "jobs" / "studies" / "miniature_eight_seeds.yaml").read_text())["arms"]
    unseen = {arm["prompt"]: arm["undesired"] for arm in arms if isinstance(arm, dict)}
    assert sorted(unseen.values()) == [["caps"], ["spanish"]]
    named = {sentence.casefold().removesuffix(".") for sentences in NAMING.values() for sentence in sentences}
    for prompt in unseen:
        ours = prompt.casefold().removesuffix(".")
        assert not [sentence for sentence in named if sentence in ours or ours in sentence]


@pytest.mark.parametrize("name", ["miniature/spanish_caps", "miniature/harmful_advice"])
def test_more_questions_than_the_language_has_are_refused_with_their_evaluation_and_what_to_change(name: str) -> None:
    in_distribution = get(name).evaluations[0]
    with pytest.raises(
        InputError, match=rf"evaluation {in_distribution.name}: 9000 questions .* only \d+ .*; lower samples"
    ):
        in_distribution.questions(9000)
