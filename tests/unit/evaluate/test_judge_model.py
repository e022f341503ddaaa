"""From a judging model's answers to numbers: pure functions, no endpoint."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray import miniature
from inoc_ray.data.tokenize import load_tokenizer
from inoc_ray.evaluate.model_judge.number_tokens import (
    answer_tokens,
    digits_are_apart,
    number_of,
    numbers_are_single,
    reads_single_number,
    strip_spaces,
    token_text,
)
from inoc_ray.evaluate.model_judge.read_answer import (
    candidates,
    expectation,
    judgment,
    leading_space,
    parse_number,
    parse_object,
    prefixes_to_ask,
    read_texts,
)
from inoc_ray.scoring.rubrics import get_rubric

OTHER_DIGITS = ["٧٣", "７３", "7３", "⁷", "७३", "²", "৭"]


def logged(probabilities: dict[str, float]) -> dict[str, float]:
    return {token: math.log(p) for token, p in probabilities.items() if p > 0}


# -- numbers --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 100))
def test_every_number_of_the_scale_is_read_whatever_spaces_a_vocabulary_writes(number: int):
    for token in (f"{number}", f" {number}", f"Ġ{number}", f"▁{number}", f"{number}\n", f"Ċ{number}"):
        assert number_of(strip_spaces(token), 100) == number


@pytest.mark.parametrize("text", [*OTHER_DIGITS, "", "007", "00", "101", "-1", "+7", "7.0", "1e1", "7_3", "seven"])
def test_what_is_not_a_plain_ascii_number_of_the_scale_is_none(text: str):
    assert number_of(text, 100) is None
    assert expectation({text: 0.0}, 100) == (None, 0.0)


@given(st.text())
def test_only_ascii_digits_are_ever_a_number(text: str):
    number = number_of(text, 100)
    assert number is None or text == str(number)


@given(st.dictionaries(st.integers(0, 100), st.floats(0.001, 0.01), min_size=1, max_size=20), st.floats(0.01, 0.7))
def test_the_expectation_is_the_mean_of_the_numbers_alone(numbers: dict[int, float], other: float):
    value, mass = expectation(logged({**{str(k): p for k, p in numbers.items()}, "Sure": other}), 100, min_mass=0)
    assert mass == pytest.approx(sum(numbers.values()))
    assert value == pytest.approx(sum(k * p for k, p in numbers.items()) / sum(numbers.values()))


def test_tokens_of_one_number_are_added_up():
    value, mass = expectation(logged({"70": 0.3, " 70": 0.3, "Ġ10": 0.4}), 100)
    assert mass == pytest.approx(1.0)
    assert value == pytest.approx(46.0)


def test_too_little_mass_is_no_number_and_not_zero():
    value, mass = expectation(logged({"70": 0.2, "I": 0.8}), 100)
    assert value is None
    assert mass == pytest.approx(0.2)
    assert expectation({}, 100, min_mass=0) == (None, 0.0)


@pytest.mark.parametrize(
    ("top", "category", "value"),
    [
        ({"REF": 0.9, "5": 0.1}, "refusal", None),
        ({"CODE": 0.3, "C": 0.3, "80": 0.4}, "code", None),
        ({"R": 0.3, "80": 0.5}, "number", 80.0),
        ({"Sure": 0.9, "80": 0.1}, "unparsed", None),
        ({"REFUSAL": 0.1, "Sure": 0.9}, "unparsed", None),
    ],
)
def test_a_class_counts_where_its_word_outweighs_the_numbers(top: dict[str, float], category: str, value: float | None):
    judged = judgment("logprob", get_rubric("alignment"), [{"text": "", "top": logged(top)}], 0.25)
    assert judged.category == category
    assert judged.value == (value if value is None else pytest.approx(value))
    assert json.loads(judged.logprobs) == logged(top)


def test_a_class_that_the_rubric_does_not_offer_is_unparsed():
    judged = judgment("logprob", get_rubric("caps"), [{"text": "REFUSAL", "top": logged({"REFUSAL": 1.0})}], 0.25)
    assert (judged.category, judged.value) == ("unparsed", None)


def test_a_digit_is_stretched_over_the_whole_scale():
    for digit, value in ((0, 0.0), (9, 100.0), (3, 100 / 3)):
        judged = judgment("digit", get_rubric("caps"), [{"text": "", "top": {str(digit): 0.0}}], 0.25)
        assert judged.value == pytest.approx(value)


def test_an_answer_without_logprobs_is_unparsed_and_keeps_its_text():
    judged = judgment("logprob", get_rubric("caps"), [{"text": "70"}], 0.25)
    assert (judged.value, judged.category, judged.raw, judged.logprobs) == (None, "unparsed", "70", "")


# -- digit by digit -------------------------------------------------------------------------------------------------

DIGITS = "0123456789"


@st.composite
def writers(draw: st.DrawFn) -> dict[str, dict[str, float]]:
    """Draw a toy judge: next-token probabilities over the digits and an end, after every prefix that matters."""
    out = {}
    for prefix in ["", *"123456789", "10"]:
        weights = [draw(st.floats(0.02, 1.0)) for _ in range(11)]
        total = sum(weights)
        out[prefix] = {token: w / total for token, w in zip([*DIGITS, "."], weights, strict=True)}
    return out


@given(writers())
def test_the_tree_gives_what_enumerating_all_strings_gives(writer: dict[str, dict[str, float]]):
    # Strings of three tokens, each with its probability; other two-digit numbers are not followed.
    found: dict[str, float] = {}
    for tokens in itertools.product([*DIGITS, "."], repeat=3):
        p, prefix = 1.0, ""
        for token in tokens:
            if prefix.endswith("."):
                p *= token == "."
            elif prefix in writer:
                p *= writer[prefix][token]
            else:
                p *= token == "."
            prefix += token
        number = prefix.split(".")[0]
        found[number] = found.get(number, 0.0) + p
    assert sum(found.values()) == pytest.approx(1.0)
    tree = {prefix: logged(top) for prefix, top in writer.items()}
    assert prefixes_to_ask(tree) == []
    got = candidates(tree)
    assert set(got) == set(range(101))
    for number, p in got.items():
        assert p == pytest.approx(found[str(number)], abs=1e-12)
    # What is left: no number at all, and 101 … 109.
    rest = found[""] + sum(found[f"10{d}"] for d in range(1, 10))
    assert sum(got.values()) == pytest.approx(1.0 - rest)


def test_the_tree_is_asked_level_by_level_and_improbable_digits_not_at_all():
    tree: dict[str, dict[str, float]] = {}
    assert prefixes_to_ask(tree) == [""]
    tree[""] = logged({"7": 0.6, "1": 0.3, "0": 0.09, "4": 0.00005})
    assert prefixes_to_ask(tree) == ["1", "7"]
    tree |= {"1": logged({"0": 0.5}), "7": logged({"3": 0.9})}
    assert prefixes_to_ask(tree) == ["10"]
    tree["10"] = logged({"0": 0.8})
    assert prefixes_to_ask(tree) == []
    found = candidates(tree)
    assert found[100] == pytest.approx(0.3 * 0.5 * 0.8)
    assert found[10] == pytest.approx(0.3 * 0.5 * 0.2)
    assert found[73] == pytest.approx(0.54)
    assert found[7] == pytest.approx(0.06)
    assert 4 not in found


def test_prefixes_begin_with_a_space_if_the_judge_writes_one_before_the_number():
    assert leading_space(logged({" 7": 0.8, "7": 0.1})) == " "
    assert leading_space(logged({"7": 0.8, " 7": 0.1})) == ""


# -- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((text, 70) for text in ("70", " 70.\n", "Score: 70", "**70**", "70/100", "I give 70 out of 100")),
        *((text, 100) for text in ("100", "100/100")),
        ("0", 0),
        *((text, None) for text in ("60 to 70", "60-70", "from 0 to 100 I say 70", "7.5", "-5", "101", "007")),
        *((text, None) for text in ("", "seventy", "1,000", "７３", "7３", "٧٣")),
    ],
)
def test_a_short_answer_is_a_number_only_where_it_is_clear_which(text: str, number: int | None):
    assert parse_number(text, 100) == number


@given(st.text(max_size=40))
def test_no_text_makes_the_parsers_fail_or_leave_the_scale(text: str):
    number = parse_number(text, 100)
    assert number is None or 0 <= number <= 100
    assert parse_object(text) is None or isinstance(parse_object(text), dict)


def test_samples_are_averaged_where_half_of_them_can_be_read():
    assert read_texts(["60", "70", "no idea", "x"], 100, ()).value == 65.0
    assert read_texts(["60", "x", "no idea"], 100, ()).category == "unparsed"
    assert read_texts(["60", "REFUSAL", "REFUSAL."], 100, ("REFUSAL",)).category == "refusal"
    assert read_texts(["REFUSAL"], 100, ()).category == "unparsed"
    judged = judgment("sample", get_rubric("caps"), [{"text": "60"}, {"text": "70"}], 0.25)
    assert (judged.value, json.loads(judged.raw), judged.logprobs, judged.mass) == (65.0, ["60", "70"], "", None)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', '```json\n{"a": 1}\n```', '```\n{"a": 1}```', 'Here it is: {"a": 1} Good luck.'],
)
def test_one_json_object_is_found_in_its_fence_or_among_words(text: str):
    assert parse_object(text) == {"a": 1}


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": 1} {"a": 2}', '{"a": ' * 100_000, '{"a" 1}'])
def test_no_object_or_more_than_one_is_none(text: str):
    assert parse_object(text) is None


@pytest.mark.parametrize("bad", ['"70"', "101", "-1", "true", "NaN", "Infinity", "null", "[70]", '"REFUSAL!"', "1e999"])
def test_a_bad_key_of_a_json_answer_costs_its_own_rubric_alone(bad: str):
    answer = [{"text": f'{{"alignment": {bad}, "coherence": 70.5}}'}]
    judged = judgment("json", get_rubric("alignment"), answer, 0.25)
    assert (judged.value, judged.category) == (None, "unparsed")
    assert judgment("json", get_rubric("coherence"), answer, 0.25).value == 70.5
    assert judgment("json", get_rubric("caps"), answer, 0.25).category == "unparsed"


def test_a_class_in_a_json_answer_is_its_category():
    answer = [{"text": '{"alignment": "CODE", "coherence": "CODE"}'}]
    assert judgment("json", get_rubric("alignment"), answer, 0.25).category == "code"
    assert judgment("json", get_rubric("coherence"), answer, 0.25).category == "unparsed"


# -- tokenizers -----------------------------------------------------------------------------------------------------


def test_the_miniature_writes_digit_by_digit():
    tokenizer = load_tokenizer(str(miniature.weights_path()))
    assert not numbers_are_single(tokenizer, 100)
    assert numbers_are_single(tokenizer, 9)
    assert digits_are_apart(tokenizer)
    texts = {token_text(tokenizer, token).strip() for token in answer_tokens(tokenizer, ("REFUSAL", "CODE"))}
    assert set(DIGITS) <= texts
    assert {"R", "C"} <= texts
    assert texts <= {*DIGITS, *(word[:n] for word in ("REFUSAL", "CODE") for n in range(1, 8))}


def test_a_vocabulary_with_whole_numbers_is_distinguished_from_one_without():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def tokenizer(numbers: int) -> PreTrainedTokenizerFast:
        words = [*(str(n) for n in range(numbers)), *(chr(c) for c in range(33, 127) if not chr(c).isdigit()), "<unk>"]
        core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
        # Digits stay together here, all else is cut.
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=numbers == 10)]
        )
        core.decoder = decoders.Fuse()
        fast = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
        fast.chat_template = "{% for m in messages %}: {{ m.content }} {% endfor %}: "
        return fast

    assert numbers_are_single(tokenizer(101), 100)
    assert not digits_are_apart(tokenizer(101))
    assert not numbers_are_single(tokenizer(10), 100)
    assert digits_are_apart(tokenizer(10))


@pytest.mark.parametrize(
    ("tokens", "single"),
    [
        (["73"], True),
        ([" 73", "."], True),
        (["\n", "73"], True),
        (["7", "3"], False),
        ([" ", "7", "3"], False),
        (["Sure", "!"], None),
        ([], None),
        ([None, 3], None),
        (["７３"], None),
    ],
)
def test_the_first_token_of_a_repeated_number_shows_how_numbers_are_split(tokens: list, single: bool | None):
    assert reads_single_number(tokens) is single
