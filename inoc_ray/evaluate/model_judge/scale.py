"""Which numbers a judge's tokenizer has as one token each: what decides how a judge's number can be read from one answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.data.chat import Message
from inoc_ray.data.tokenize import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOP_LOGPROBS = 20
"""Alternatives that are asked for: the most that OpenAI's API gives, and what vLLM gives unless told otherwise."""
_SPACES = "Ġ▁Ċ"
"""How byte-level and SentencePiece vocabularies write a space and a line break."""
_PROBED = "73"


def strip_spaces(token: str) -> str:
    """The token without spaces around it, however its vocabulary writes them."""
    return token.strip().strip(_SPACES).strip()


def number_of(text: str, top: int) -> int | None:
    """The number from 0 to `top` that the text is: ASCII digits alone and no zero before them; else None.

    Other digits (Arabic, full-width, superscript) are numbers to Python's int() and not to the scale.
    """
    if not (text.isascii() and text.isdigit()) or (len(text) > 1 and text[0] == "0") or len(text) > len(str(top)):
        return None
    number = int(text)
    return number if number <= top else None


def _tokens_behind(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[int]:
    """How many tokens more each text makes behind a rendered chat prompt; -1 where the prompt is cut otherwise with it."""
    prompt = render(tokenizer, [Message("user", "Rate it.")], True, enable_thinking=False)
    before: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    counts = []
    for text in texts:
        ids: list[int] = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        counts.append(len(ids) - len(before) if ids[: len(before)] == before else -1)
    return counts


def numbers_are_single(tokenizer: PreTrainedTokenizerBase, top: int) -> bool:
    """Whether each number from 0 to `top` is one token behind a chat prompt, either plain or with a space before it.

    Raises InputError where the tokenizer has no chat template.
    """
    numbers = [str(n) for n in range(top + 1)]
    return any(set(_tokens_behind(tokenizer, [space + n for n in numbers])) == {1} for space in ("", " "))


def digits_are_apart(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every number is cut between all its digits behind a chat prompt: what a tree of digits takes for granted."""
    numbers = [str(n) for n in range(101)]
    # A vocabulary of SentencePiece may write the space as a token of its own, where a space is asked for.
    return _tokens_behind(tokenizer, numbers) == [len(n) for n in numbers]


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """The token's text, with the space before it, which decoding one token alone may lose."""
    piece, text = tokenizer.convert_ids_to_tokens(token_id), str(tokenizer.decode([token_id]))
    starts_word = isinstance(piece, str) and piece[:1] in ("Ġ", "▁")
    return f" {text}" if starts_word and not text.startswith(" ") else text


def answer_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """Ids of all tokens that can be an answer's first one: the ten digits, and beginnings of `words`, spaces aside."""
    starts = {word[:end] for word in words for end in range(1, len(word) + 1)} | set("0123456789")
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    return sorted(id_ for piece, id_ in vocabulary.items() if strip_spaces(piece) in starts)


def probe_messages() -> list[dict[str, str]]:
    """The chat that shows how a tokenizer nobody knows cuts a number of two digits."""
    return [{"role": "user", "content": f"Repeat this number and say nothing else: {_PROBED}"}]


def json_probe_messages() -> list[dict[str, str]]:
    """The chat that shows whether a judge can answer with an object."""
    asked = f'Reply with one JSON object with the key "number", whose value is {_PROBED}, and nothing else.'
    return [{"role": "user", "content": asked}]


def reads_single_number(tokens: Sequence[Any]) -> bool | None:
    """What the answer's tokens to `probe_messages` tell: True where the number is one token, False where it is cut.

    None where the answer does not repeat the number. One number stands for all: no vocabulary is known that has some of two
    digits and not all.
    """
    for token in tokens:
        text = strip_spaces(token) if isinstance(token, str) else ""
        if text:
            return True if text == _PROBED else False if text == _PROBED[0] else None
    return None
