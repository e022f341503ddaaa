"""Conversations to token ids with a model's tokenizer and chat template, checked so that nothing is lost on the way."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.errors import InputError
from inoc_ray.models.config import end_ids
from inoc_ray.models.skeleton import Message
from inoc_ray.models.template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return every special token: those that the tokenizer has a name for, and those only in its added tokens."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return list(dict.fromkeys((*tokenizer.all_special_tokens, *added)))


def template_of(tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None = None) -> ChatTemplate:
    """Return the tokenizer's chat template. Raises InputError when there is none, or it cannot be read."""
    source = tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    if not source:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruction-tuned base, or put a "
            "chat_template.jinja into the folder."
        )
    return _template(tokenizer, str(source), enable_thinking)


@functools.lru_cache(maxsize=32)
def _template(tokenizer: Any, source: str, enable_thinking: bool | None) -> ChatTemplate:
    return ChatTemplate(
        source,
        tokenizer.special_tokens_map,
        tokens=special_tokens(tokenizer),
        name=str(tokenizer.name_or_path),
        enable_thinking=enable_thinking,
    )


def stops_of(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the (token ids, texts) that a request must name as stops, because the engine would not stop there by itself.

    Empty for a model whose end of turn is one of its end-of-text tokens, and for one without a chat template.
    """
    if not tokenizer.chat_template:
        return (), ()
    template = template_of(tokenizer)
    token = template.end_token()
    if token is None:
        end = template.end_of_turn.strip()
        return (), ((end,) if end else ())
    end_id = tokenizer.convert_tokens_to_ids(token)
    return (() if end_id in {*end_ids(folder), tokenizer.eos_token_id} else (end_id,)), ()


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Any]:
    """Return a `tokenizers.Encoding` (ids, offsets in characters) of each rendered text.

    Encoding them all at once is much faster than one by one.
    """
    core = tokenizer.backend_tokenizer
    # A tokenizer.json may have been saved with either.
    core.no_padding()
    core.no_truncation()
    encoded: list[Any] = core.encode_batch(list(texts), add_special_tokens=False)
    return encoded


def check_no_special_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], of: str = "row") -> None:
    """Raise InputError for a message whose text contains a special token, or the template's own end of turn.

    `of` is what the messages belong to, for the error message.
    """
    template = template_of(tokenizer)
    pattern = _forbidden(tokenizer, template)
    for index, message in enumerate(messages):
        found = pattern.search(message.content) if pattern else None
        if found:
            special = found[0] in special_tokens(tokenizer)
            what = "a special token of the tokenizer" if special else "the chat template's end of turn"
            raise InputError(
                f"messages[{index}]: the text contains {found[0]!r}, {what}, which would break the conversation's structure; "
                f"remove it from the {of}."
            )


@functools.lru_cache(maxsize=32)
def _forbidden(tokenizer: Any, template: ChatTemplate) -> re.Pattern[str] | None:
    # An end of turn that is a word or a line break occurs in many texts; one with signs in it does not.
    end = [template.end_of_turn.strip()] if re.search(r"[<\[|{#]", template.end_of_turn) else []
    texts = sorted({*special_tokens(tokenizer), *end}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def check_round_trip(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> None:
    """Raise InputError, with the first difference, when the ids do not decode to the text.

    Two differences are allowed: a blank at the edge of a special token, which SentencePiece models insert, and another
    Unicode form of the same characters (NFC).
    """
    decoded = str(tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False))
    if decoded == text:
        return
    edges = _edges(tokenizer)
    meant, found = (unicodedata.normalize("NFC", edges.sub(r"\1", t).strip(" ")) for t in (text, decoded))
    if meant == found:
        return
    at = next((i for i, (a, b) in enumerate(zip(meant, found, strict=False)) if a != b), min(len(meant), len(found)))
    before, after = (repr(t[max(0, at - 20) : at + 20]) for t in (meant, found))
    raise InputError(
        f"{tokenizer.name_or_path}: the tokenizer does not give the text back: from character {at} on {before} becomes "
        f"{after}, so the model would learn something else than the row says. Either the tokenizer was saved under a wrong "
        'class (write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json), or it cannot write these '
        "characters (take them out of the row)."
    )


@functools.lru_cache(maxsize=32)
def _edges(tokenizer: Any) -> re.Pattern[str]:
    tokens = sorted(special_tokens(tokenizer), key=len, reverse=True)
    return re.compile(f" *({'|'.join(map(re.escape, tokens)) or '(?!)'}) *")


def check_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[tuple[Sequence[Message], str]],
    *,
    enable_thinking: bool | None = None,
    for_choices: bool = False,
) -> list[int]:
    """Return how many tokens each prompt has as the model will get it.

    `prompts`: (messages, what an error message calls them). `for_choices`: the prompts are followed by given answers
    (`ChatTemplate.prompt_for_choices`). Raises InputError when the template refuses a conversation or does not show every
    message of it as it is, when a text contains a special token, and when the tokenizer does not give a prompt back.
    """
    template = template_of(tokenizer, enable_thinking)
    tags = (template.think.opening, template.think.closing) if template.think else ()
    hidden = set(tags) & set(special_tokens(tokenizer))
    texts: list[str] = []
    places: list[str] = []
    for messages, where in prompts:
        try:
            check_no_special_tokens(tokenizer, messages, "question")
            texts.append(template.prompt_for_choices(messages) if for_choices else template.prompt(messages))
            if hidden and not template.answers_at_once(texts[-1]):
                raise InputError(
                    f"the think block's {min(hidden)!r} is a special token, which engines leave out of a response, so reasoning "
                    "could not be told from the answer; set the model's enable_thinking: false, if its chat template knows it."
                )
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        places.append(where)
    lengths: list[int] = []
    for text, encoding, where in zip(texts, encode_texts(tokenizer, texts), places, strict=True):
        try:
            check_round_trip(tokenizer, text, encoding.ids)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        lengths.append(len(encoding.ids))
    return lengths
