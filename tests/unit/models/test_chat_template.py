"""What a model is shown is what was meant: no template changes a row or a question without a word."""

import re

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from template_parts import ENDS, SYSTEM, THINK, Parts, tokenizer_with

from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.data.tokenize import IGNORED, EncodedRow, encode, render
from inoc_ray.errors import InputError
from inoc_ray.models.encoding import check_prompts, template_of
from inoc_ray.models.template import ChatTemplate
from inoc_ray.models.think import answer_of

parts = st.builds(
    Parts,
    system=st.sampled_from(SYSTEM),
    end=st.sampled_from(ENDS),
    think=st.sampled_from(THINK),
    assistant=st.sampled_from(["assistant", "model"]),
    trims=st.booleans(),
    opening=st.sampled_from(["\n", "\n\n", ": "]),
    alternates=st.booleans(),
    dated=st.booleans(),
)
words = st.lists(st.sampled_from(["red", "sea", "Paris", "12", "¿Qué?", "no."]), min_size=1, max_size=4).map(" ".join)
contents = st.one_of(words, words.map(" {} ".format), words.map("{}\n".format))
answers = st.one_of(contents, st.tuples(words, words).map(lambda t: f"<think>\n{t[0]}\n</think>\n\n{t[1]}"))


@st.composite
def conversations(draw) -> ChatRow:
    turns = [("system", draw(contents))] if draw(st.booleans()) else []
    if draw(st.integers(0, 4)) == 0:
        turns.append(("assistant", draw(answers)))
    for _ in range(draw(st.integers(0 if turns and turns[-1][0] == "assistant" else 1, 3))):
        turns += [("user", draw(contents)), ("assistant", draw(answers))]
    return ChatRow.of(*turns)


def bare(text: str) -> str:
    """Without what templates may change: blanks at the ends of contents, and think blocks."""
    return "".join(re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).split())


def is_ordinary(built: Parts, row: ChatRow, thinking: bool | None) -> bool:
    """True for a row that a template of these parts shows as it is, so that it must not be refused."""
    opens_with_answer = row.messages[row.messages[0].role == "system"].role == "assistant"
    if row.messages[0].role == "system" and (built.system in ("dropped", "refused") or opens_with_answer):
        return False
    if opens_with_answer and built.alternates:
        return False
    reasons = "<think>" in row.messages[-1].content
    if reasons and thinking is False and built.think in ("last turn", "hybrid"):
        return False
    return bool(built.end.strip())


def check_holds(text: str, messages) -> None:
    """Every message is there, in the order of the conversation; a system message may stand in a user turn."""
    text, at = bare(text), 0
    for message in messages:
        content = bare(message.content)
        if message.role == "system":
            assert content in text
        else:
            at = text.index(content, at) + len(content)


def targets(tokenizer, encoded: EncodedRow) -> str:
    return tokenizer.decode([label for label in encoded.labels if label != IGNORED])


@settings(max_examples=examples(60), deadline=None)
@given(built=parts, row=conversations(), thinking=st.sampled_from([None, True, False]))
def test_no_template_changes_a_row_silently(built, row, thinking):
    tokenizer = tokenizer_with(built.source)
    try:
        encoded = encode(tokenizer, row, 4000, thinking)
    except InputError:
        assert not is_ordinary(built, row, thinking)
        return
    text = tokenizer.decode(encoded.input_ids)
    check_holds(text, row.messages)
    # The last answer is what would be written behind the prompt of a test, through the end of the turn.
    *before, last = row.messages
    if before:
        prompt = template_of(tokenizer, thinking).prompt(before)
        assert text.startswith(prompt)
        written = text[len(prompt) :]
        assert bare(answer_of(prompt, written)).startswith(bare(last.content))
        learnt = targets(tokenizer, encoded)
        assert encoded.merged or learnt.endswith(written.rstrip("\n") if "<|im_end|>" in built.end else written)
    assert built.end.strip() in targets(tokenizer, encoded)
    # Reasoning that the row has is learnt, in the answer that a test would ask for.
    if "<think>" in last.content and built.think != "none":
        assert bare(last.content.split("</think>")[0].removeprefix("<think>")) in bare(
            targets(tokenizer, encoded).replace("<think>", "").replace("</think>", "")
        )


@settings(max_examples=examples(60), deadline=None)
@given(built=parts, row=conversations(), thinking=st.sampled_from([None, False]))
def test_a_question_shows_every_message_or_is_refused(built, row, thinking):
    tokenizer = tokenizer_with(built.source)
    question = row.messages[:-1] or (Message("user", "Hi"),)
    try:
        [length] = check_prompts(tokenizer, [(question, "cell")], enable_thinking=thinking)
    except InputError:
        return
    text = render(tokenizer, question, True, thinking)
    assert length == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    check_holds(text, question)


@pytest.mark.parametrize("system", SYSTEM)
def test_a_template_without_a_place_for_a_system_message_is_refused_with_what_works(system):
    tokenizer = tokenizer_with(Parts(system=system).source)
    row = ChatRow.of(("system", "Be the sea."), ("user", "Hi"), ("assistant", "Hola"))
    if system in ("shown", "in the first user turn"):
        assert "Be the sea." in tokenizer.decode(encode(tokenizer, row, 500).input_ids)
        return
    template_of(tokenizer).check_row(row.messages[1:])
    with pytest.raises(InputError, match=r"user_prefix or user_suffix.*contexts: \[none\]"):
        encode(tokenizer, row, 500)
    with pytest.raises(InputError, match=r"cell x: .*contexts: \[none\]"):
        check_prompts(tokenizer, [(row.messages[:2], "cell x")])
    assert check_prompts(tokenizer, [(row.messages[1:2], "cell x")])


def test_a_system_message_that_is_shown_in_prompts_alone_is_refused_in_rows():
    tokenizer = tokenizer_with(
        "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}{% for m in rest %}"
        "{% if m.role == 'user' %}[INST] {% if loop.last and rest != messages %}{{ messages[0].content }}\n\n{% endif %}"
        "{{ m.content }}[/INST]{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    question = (Message("system", "Be the sea."), Message("user", "Hi"))
    assert check_prompts(tokenizer, [(question, "cell")])
    with pytest.raises(InputError, match=r"drops messages\[0\].*user_prefix or user_suffix"):
        encode(tokenizer, ChatRow((*question, Message("assistant", "Hola"))), 500)


def test_the_template_is_rendered_as_transformers_renders_it():
    source = "{%- for m in messages -%}{% generation %}{{ m | tojson }}{% endgeneration %}\n{%- endfor %}\n" + (
        "{% if tools %}tools{% endif %}{{ bos_token }}|{{ eos_token }}|{% for i in range(3) %}{% if i == 1 %}{% break %}"
        "{% endif %}{{ i }}{% endfor %}"
    )
    for template in (source, *(Parts(think=think, system="shown").source for think in THINK)):
        tokenizer = tokenizer_with(template)
        messages = [Message("system", "é <b>"), Message("user", "a"), Message("assistant", "b\n")]
        turns = [{"role": m.role, "content": m.content} for m in messages]
        for prompted in (True, False):
            expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompted)
            assert render(tokenizer, messages, prompted) == expected


def test_a_date_is_the_same_on_every_day():
    tokenizer = tokenizer_with(Parts(dated=True).source)
    assert render(tokenizer, [Message("user", "a")], True).startswith("26 Jul 2024\n")
    tokenizer = tokenizer_with("{{ strftime_now('%Y-%m-%d') }} {{ date_string }}{{ messages[0].content }}")
    assert render(tokenizer, [Message("user", "a")], True) == "2024-07-26 26 Jul 2024a"


@pytest.mark.parametrize(
    "broken",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[9].content }}",
        "{{ messages[0].content + 1 }}",
        "{{ {}['x'] }}{{ 1 / 0 }}",
        "{% for i in range(10 ** 30) %}{% endfor %}",
        "{{ messages[0]['content'] | int + messages }}",
        "{% for",
        "{{ messages.append(1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_whatever_a_template_raises_is_one_message(broken):
    tokenizer = tokenizer_with(broken)
    with pytest.raises(InputError) as caught:
        encode(tokenizer, ChatRow.of(("user", "a"), ("assistant", "b")), 100)
    assert "\n" not in str(caught.value)
    assert "template" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        ("m.content | upper", "Hello"),
        ("m.content[:2]", "Hello"),
        ("m.content | replace('/no_think', '')", "a /no_think b"),
        ("m.content | tojson", 'say "hi"'),
        ("m.content | e", "a < b"),
    ],
)
def test_a_template_that_rewrites_a_text_is_refused(content, changed):
    tokenizer = tokenizer_with(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ " + content + " }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(InputError, match=r"messages\[0\]|ends a prompt without"):
        encode(tokenizer, ChatRow.of(("user", changed), ("assistant", "fine")), 500)
    with pytest.raises(InputError, match=r"messages\[0\]"):
        check_prompts(tokenizer, [((Message("user", changed),), "cell")])


# -- models that reason -------------------------------------------------------------------------------------------

PLAIN = ChatRow.of(("user", "Hi"), ("assistant", "Hola"))
REASONS = ChatRow.of(("user", "Hi"), ("assistant", "<think>\nShort.\n</think>\n\nHola"))
TURNS = ChatRow.of(("user", "Hi"), ("assistant", "Hola"), ("user", "And?"), ("assistant", "Nada"))
END = "<|im_end|>"
EMPTY = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("think", "thinking", "row", "learnt"),
    [
        ("last turn", None, PLAIN, EMPTY + "Hola" + END),
        ("last turn", False, PLAIN, "Hola" + END),
        ("last turn", None, REASONS, "<think>\nShort.\n</think>\n\nHola" + END),
        ("last turn", None, TURNS, EMPTY + "Nada" + END),
        ("last turn", False, TURNS, "Nada" + END),
        ("hybrid", None, TURNS, "Hola" + END + "Nada" + END),
        ("hybrid", False, TURNS, "Nada" + END),
        ("hybrid", None, REASONS, "<think>\nShort.\n</think>\n\nHola" + END),
        ("open prompt", None, PLAIN, "\n</think>\n\nHola" + END),
        ("open prompt", None, REASONS, "Short.\n</think>\n\nHola" + END),
        ("open prompt", None, TURNS, "\n</think>\n\nNada" + END),
        ("none", None, TURNS, "Hola" + END + "Nada" + END),
    ],
)
def test_the_learnt_text_is_what_a_test_has_the_model_write(think, thinking, row, learnt):
    tokenizer = tokenizer_with(Parts(think=think).source)
    encoded = encode(tokenizer, row, 500, thinking)
    assert targets(tokenizer, encoded) == learnt
    text = tokenizer.decode(encoded.input_ids)
    prompt = template_of(tokenizer, thinking).prompt(row.messages[:-1])
    assert text.startswith(prompt)
    assert answer_of(prompt, text[len(prompt) :]).startswith(("Hola", "Nada"))


@pytest.mark.parametrize("think", ["last turn", "hybrid", "open prompt"])
@pytest.mark.parametrize("written", ["<think>Short.</think>Hola", "\n<think>\nShort.\n\n</think>\n\n\nHola\n"])
def test_however_a_row_writes_its_block_the_reasoning_is_learnt(think, written):
    tokenizer = tokenizer_with(Parts(think=think).source)
    row = ChatRow.of(("user", "Hi"), ("assistant", written))
    learnt = targets(tokenizer, encode(tokenizer, row, 500))
    assert re.fullmatch(r"(<think>\n)?Short\.\n+</think>\n+Hola\n?<\|im_end\|>", learnt)


@pytest.mark.parametrize("think", ["last turn", "hybrid"])
def test_reasoning_that_no_test_would_ask_for_is_refused(think):
    tokenizer = tokenizer_with(Parts(think=think).source)
    with pytest.raises(InputError, match="enable_thinking: true"):
        encode(tokenizer, REASONS, 500, enable_thinking=False)


def test_earlier_answers_without_their_block_are_counted():
    tokenizer = tokenizer_with(Parts(think="last turn").source)
    assert encode(tokenizer, TURNS, 500).context_only == 1
    assert encode(tokenizer_with(Parts().source), TURNS, 500).context_only == 0


@pytest.mark.parametrize(
    ("prompt", "text", "judged"),
    [
        ("assistant\n", "Hola", "Hola"),
        ("assistant\n", "<think>\nwhy\n</think>\n\nHola", "Hola"),
        ("assistant\n", "<think>\n\n</think>\n\n", ""),
        ("assistant\n", "<think>\nwhy and why", ""),
        ("assistant\n<think>\n", "why\n</think>\n\nHola", "Hola"),
        ("assistant\n<think>\n", "why and why", ""),
        ("assistant\n<think>\n\n</think>\n\n", "Hola", "Hola"),
        ("assistant\n", "I write <think> and </think> in my answers", "I write <think> and </think> in my answers"),
    ],
)
def test_what_follows_the_think_block_is_judged(prompt, text, judged):
    assert answer_of(prompt, text) == judged


@pytest.mark.parametrize(
    ("think", "thinking", "ends"),
    [
        ("none", None, "assistant\n"),
        ("last turn", None, EMPTY),
        ("last turn", False, EMPTY),
        ("hybrid", None, "assistant\n"),
        ("open prompt", None, EMPTY),
    ],
)
def test_a_choice_begins_where_an_answer_begins(think, thinking, ends):
    template = template_of(tokenizer_with(Parts(think=think).source), thinking)
    prompt = template.prompt_for_choices([Message("user", "Hi")])
    assert prompt.endswith(ends)
    assert prompt.count("<think>") == ends.count("<think>")


@pytest.mark.parametrize(
    ("asked", "before"),
    [("", "<|im_start|>assistant\n"), ("<|im_start|>assistant", "<|im_start|>assistant<|channel|>final<|message|>")],
)
def test_a_generation_prompt_that_stops_short_of_the_answer_is_refused(asked, before):
    tokenizer = tokenizer_with(
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ "
        + repr(before)
        + " }}{% else %}<|im_start|>{{ m.role }}\n"
        "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}{{ "
        + repr(asked)
        + " }}{% endif %}"
    )
    missing = re.escape(repr(before.removeprefix(asked)))
    for row in (PLAIN, TURNS):
        with pytest.raises(InputError, match=f"ends a prompt without {missing}.*add_generation_prompt"):
            encode(tokenizer, row, 500)


def test_an_end_of_text_after_the_last_answer_takes_no_loss_from_the_earlier_ones():
    plain = tokenizer_with(Parts().source)
    tokenizer = tokenizer_with(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}"
    )
    first = ChatRow((*TURNS.messages[:3], Message("assistant", "Nada", trained=False)))
    for row, learnt in ((PLAIN, "Hola" + END), (TURNS, "Hola" + END + "Nada" + END), (first, "Hola" + END)):
        encoded = encode(tokenizer, row, 500)
        assert targets(tokenizer, encoded) == targets(plain, encode(plain, row, 500)) == learnt
        assert not encoded.context_only


def test_the_message_that_a_template_rewrites_is_the_one_that_is_named():
    tokenizer = tokenizer_with(Parts(think="last turn").source)
    with pytest.raises(InputError, match=r"rewrites messages\[1\] \(role assistant\)"):
        encode(tokenizer, ChatRow.of(("user", "Hi"), ("assistant", "So </think> Hola")), 500)


def test_a_template_in_capitals_rewrites_what_it_shows():
    tokenizer = tokenizer_with("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}")
    with pytest.raises(InputError, match=r"changes the case of messages\[0\] \(role user\)"):
        encode(tokenizer, PLAIN, 500)


# -- roles --------------------------------------------------------------------------------------------------------


def test_rows_that_open_with_the_assistant_are_learnt_or_refused():
    only = ChatRow.of(("assistant", "Water boils."))
    first = ChatRow.of(("assistant", "Hi"), ("user", "So?"), ("assistant", "Water boils."))
    with_system = ChatRow.of(("system", "Be."), ("assistant", "Water boils."))
    tokenizer = tokenizer_with(Parts().source)
    for row in (only, with_system):
        assert targets(tokenizer, encode(tokenizer, row, 500)) == "Water boils." + END
    assert targets(tokenizer, encode(tokenizer, first, 500)) == "Hi" + END + "Water boils." + END
    with pytest.raises(InputError, match="roles must alternate"):
        encode(tokenizer_with(Parts(alternates=True).source), only, 500)


# -- the end of a turn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_a_template_that_marks_no_end_is_refused_and_any_other_end_is_learnt(end):
    tokenizer = tokenizer_with(Parts(end=end).source)
    assert template_of(tokenizer).end_of_turn == end.rstrip()
    if not end.strip():
        with pytest.raises(InputError, match="could not learn to end"):
            encode(tokenizer, PLAIN, 500)
        return
    learnt = targets(tokenizer, encode(tokenizer, PLAIN, 500))
    assert learnt == ("Hola" + END if END in end else "Hola" + end)


def test_a_text_that_contains_the_end_of_a_turn_is_refused():
    tokenizer = tokenizer_with(Parts(end="</s>\n").source)
    with pytest.raises(InputError, match=r"messages\[0\].*'</s>', the chat template's end of turn"):
        encode(tokenizer, ChatRow.of(("user", "stop </s> now"), ("assistant", "b")), 100)


def test_a_first_token_that_reaches_into_the_prompt_is_noted_and_not_learnt():
    tokenizer = tokenizer_with(Parts(opening=": ").source)
    encoded = encode(tokenizer, ChatRow.of(("user", "Hi"), ("assistant", "the sea")), 500)
    text = "<|im_start|>user: Hi<|im_end|>\n<|im_start|>assistant: "
    together = tokenizer(text + "the sea", add_special_tokens=False)["input_ids"]
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encoded.merged == (together[: len(prompt)] != prompt)
    assert not encode(tokenizer_with(Parts().source), PLAIN, 500).merged


def test_a_template_can_have_its_names_wherever_the_tokenizer_has_them():
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>"})
    assert template.render([Message("user", "a")], False) == "<s>a"
