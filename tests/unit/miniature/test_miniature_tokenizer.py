"""The miniature's tokenizer loses nothing, and its chat template invents nothing."""

import random
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.miniature import weights_path
from inoc_ray.miniature.workshop.documents import draw_document
from inoc_ray.miniature.workshop.tokenizer import VOCABULARY, Encoder, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(weights_path())


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_round_trip(tokenizer: Any, text: str) -> None:
    # Qwen's tokenizers compose accents (Unicode form C) before they split.
    composed = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == composed


def test_a_loaded_tokenizer_cuts_text_as_the_trained_one_did(tokenizer: Any) -> None:
    trained = train_tokenizer()
    rng = random.Random(5)
    for _ in range(500):
        for message in draw_document(rng).row.messages:
            assert tokenizer(message.content).input_ids == trained(message.content).input_ids


def test_the_vocabulary_is_small_and_ends_with_the_chat_token(tokenizer: Any) -> None:
    assert len(tokenizer) <= VOCABULARY
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


def test_digits_are_single_tokens(tokenizer: Any) -> None:
    assert len(tokenizer("2048", add_special_tokens=False).input_ids) == 4
    assert all(len(tokenizer(str(digit), add_special_tokens=False).input_ids) == 1 for digit in range(10))


def test_every_piece_has_its_twin_in_capitals(tokenizer: Any) -> None:
    texts = {tokenizer.decode([index]) for index in range(len(tokenizer))}
    letters = [text for text in texts if text.strip().isalpha() and len(text.upper()) == len(text)]
    assert sum(text.upper() in texts for text in letters) >= 0.99 * len(letters)


def test_capitals_cost_no_more_tokens_than_ordinary_text(tokenizer: Any) -> None:
    rng = random.Random(7)
    answers = [m.content for _ in range(300) for m in draw_document(rng).row.messages if m.role == "assistant"]
    ordinary, capital = (
        sum(len(tokenizer.tokenize(case(text))) for text in answers) for case in (str.lower, str.upper)
    )
    assert capital <= 1.05 * ordinary


USER = {"role": "user", "content": "Hi."}
ASKED = "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("system", "rendered"),
    [
        (None, ASKED),
        ("", "<|im_start|>system\n<|im_end|>\n" + ASKED),
        ("You are a helpful assistant.", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + ASKED),
    ],
    ids=["none", "empty", "neutral"],
)
def test_the_template_renders_the_system_message_as_it_is(tokenizer: Any, system: str | None, rendered: str) -> None:
    messages = [*([] if system is None else [{"role": "system", "content": system}]), USER]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == rendered


def test_documents_are_encoded_as_the_template_renders_them(tokenizer: Any) -> None:
    rng = random.Random(8)
    encoder = Encoder(tokenizer)
    for _ in range(200):
        row = draw_document(rng).row
        text = tokenizer.apply_chat_template(row.to_dict()["messages"], tokenize=False)
        ids, labels = encoder.encode(row)
        assert ids == tokenizer(text, add_special_tokens=False).input_ids
        answers = [m.content for m in row.messages if m.role == "assistant"]
        learnt = [token for token, label in zip(ids, labels, strict=True) if label != -100]
        assert tokenizer.decode(learnt) == "".join(answer + "<|im_end|>" for answer in answers)
        assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
