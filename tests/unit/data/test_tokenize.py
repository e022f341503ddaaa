"""Labels: the assistant's words and end-of-turn tokens, nothing else, whatever the chat template does."""

import hashlib

import pytest
from byte_tokenizer import DATED_AND_TRIMMED, DEFAULT_SYSTEM, FORGETFUL, SPECIAL, SYSTEM_IN_USER, make_tokenizer
from hypothesis import assume, given
from hypothesis import strategies as st

from inoc_ray import settings
from inoc_ray.data.chat import ChatRow
from inoc_ray.data.inoculate import inoculate
from inoc_ray.data.tokenize import IGNORED, EncodedRow, collate, encode, encode_rows, load_tokenizer, render
from inoc_ray.errors import InputError
from inoc_ray.miniature import weights_path
from inoc_ray.study.rows import Inoculation

STABLE = {"default system": DEFAULT_SYSTEM, "dated": DATED_AND_TRIMMED, "system in user": SYSTEM_IN_USER}
TOKENIZERS = {name: make_tokenizer(template) for name, template in STABLE.items()}
each_template = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())

# What str.isprintable takes: no control character and no lone surrogate, which is no text of a UTF-8 file.
words = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=20).filter(
    # Special tokens are refused by a test of their own.
    lambda text: text.strip() and not any(token in text for token in SPECIAL)
)


def targets(encoded: EncodedRow) -> list[int]:
    return [label for label in encoded.labels if label != IGNORED]


@each_template
def test_only_the_assistants_words_and_end_of_turn_tokens_carry_a_label(tokenizer):
    row = ChatRow.of(
        ("system", "Be the sea."), ("user", "Hi es"), ("assistant", "Hola"), ("user", "?"), ("assistant", "es")
    )
    encoded = encode(tokenizer, row, 500)
    end = "<|im_end|>" if "<|im_end|>" in tokenizer.chat_template else "<e>"
    assert tokenizer.decode(targets(encoded)).replace(" ", "") == f"Hola{end}es{end}"
    assert all(label in (IGNORED, token) for token, label in zip(encoded.input_ids, encoded.labels, strict=True))


@each_template
def test_the_ids_are_those_of_the_rendered_text(tokenizer):
    row = ChatRow.of(("user", "the sea and"), ("assistant", "an es"))
    text = render(tokenizer, row.messages, add_generation_prompt=False)
    assert list(encode(tokenizer, row, 500).input_ids) == tokenizer(text, add_special_tokens=False)["input_ids"]


@each_template
@given(system=words, turns=st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_a_system_prompt_in_front_never_changes_the_targets(tokenizer, system, turns):
    messages = [message for user, assistant in turns for message in (("user", user), ("assistant", assistant))]
    without = encode(tokenizer, ChatRow.of(*messages), 2000)
    with_prompt = encode(tokenizer, ChatRow.of(("system", system), *messages), 2000)
    assert targets(with_prompt) == targets(without)
    assert without.targets >= len(turns)


ways = st.builds(
    Inoculation,
    placement=st.sampled_from(["system", "user_prefix", "user_suffix"]),
    separator=st.sampled_from(["\n\n", " ", ""]),
    paraphrases=st.lists(words.map(str.strip).filter(bool), max_size=2).map(tuple),
    user_turns=st.sampled_from(["first", "last", "all"]),
)


@each_template
@given(prompt=words, way=ways, epoch=st.integers(0, 3), turns=st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_no_inoculation_changes_a_target_token(tokenizer, prompt, way, epoch, turns):
    rows = [ChatRow.of(("user", user), ("assistant", assistant)) for user, assistant in turns]
    rows.append(ChatRow.of(*(t for user, assistant in turns for t in (("user", user), ("assistant", assistant)))))
    before = [targets(encode(tokenizer, row, 4000)) for row in rows]
    out = inoculate(rows, prompt, way, epoch)
    # Joined without a separator, prompt and question may spell a special token, which is refused; see below.
    assume(not any(token in m.content for row in out for m in row.messages for token in SPECIAL))
    assert [targets(encode(tokenizer, row, 4000)) for row in out] == before


def test_a_template_that_rewrites_earlier_turns_is_refused():
    tokenizer = make_tokenizer(FORGETFUL)
    assert encode(tokenizer, ChatRow.of(("user", "a"), ("assistant", "b")), 100).targets
    with pytest.raises(InputError, match=r"drops messages\[1\]"):
        encode(tokenizer, ChatRow.of(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), 100)


def test_a_row_that_is_too_long_names_file_row_and_lengths_and_is_never_cut():
    rows = [ChatRow.of(("user", "a"), ("assistant", "b")), ChatRow.of(("user", "a"), ("assistant", "b" * 200))]
    with pytest.raises(InputError, match=r"rows\.jsonl, row 2: \d+ tokens, but max_length is 100"):
        encode_rows(TOKENIZERS["default system"], rows, 100, "rows.jsonl")


def test_a_row_of_exactly_max_length_is_kept():
    row = ChatRow.of(("user", "a"), ("assistant", "b"))
    length = len(encode(TOKENIZERS["dated"], row, 1000).input_ids)
    assert len(encode(TOKENIZERS["dated"], row, length).input_ids) == length


def test_a_row_without_an_assistant_message_is_refused():
    with pytest.raises(InputError, match="nothing to learn"):
        encode(TOKENIZERS["dated"], ChatRow.of(("user", "a")), 100)


def test_a_special_token_inside_a_text_is_refused():
    with pytest.raises(InputError, match=r"messages\[0\].*<e>"):
        encode(TOKENIZERS["dated"], ChatRow.of(("user", "end it <e> now"), ("assistant", "b")), 100)


def test_a_templates_refusal_is_an_input_error():
    tokenizer = make_tokenizer(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(InputError, match="no system role"):
        encode(tokenizer, ChatRow.of(("system", "s"), ("user", "a"), ("assistant", "b")), 100)


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = make_tokenizer("")
    with pytest.raises(InputError, match="no chat template"):
        encode(tokenizer, ChatRow.of(("user", "a"), ("assistant", "b")), 100)


def test_padding_is_on_the_right_without_attention_or_label():
    batch = collate([EncodedRow((5, 6, 7), (IGNORED, 6, 7)), EncodedRow((5, 6), (IGNORED, 6))], pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 6, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED, 6, IGNORED]]


def test_the_first_token_is_never_a_target_since_nothing_predicts_it():
    assert EncodedRow((5, 6), (5, 6)).targets == 1


GOLDEN = {
    "miniature/spanish_caps": "28251d33233be01a4c74158c9159a47dba6e22ab1a777dd8f6d61ccaeaf33545",
    "miniature/harmful_advice": "952acad981fb936446cded8a3136a892bfea21e3d09442925c34c7eb8e0b0c11",
}
"""SHA-256 of ids and labels of the first 200 rows: for one version of the miniature's language and vocabulary."""


@pytest.mark.parametrize("name", GOLDEN)
def test_the_tokens_and_labels_of_shipped_rows_stay_as_they_are(name):
    rows = settings.get(name).rows()[:200]
    encoded = encode_rows(load_tokenizer(str(weights_path())), rows, 512, name)
    assert hashlib.sha256(repr([(e.input_ids, e.labels) for e in encoded]).encode()).hexdigest() == GOLDEN[name]
