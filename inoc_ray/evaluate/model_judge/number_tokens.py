"""How a judge's tokenizer splits the numbers of the scale, which decides how a number can be read from its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inoc_ray.data.chat import Message
from inoc_ray.data.tokenize import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOP_LOGPROBS = 20
"""Alternatives per token: the most that OpenAI's API gives, and the default limit of vLLM."""
_SPACES = "Ġ▁Ċ"
"""How byte-level and SentencePiece vocabularies write spaces and line breaks."""
_PROBED = "73"


def strip_spaces(token: str) -> str:
    """Return the token without spaces around it, however its vocabulary writes them."""
    return token.strip().strip(_SPACES).strip()


def number_of(text: str, top: int) -> int | None:
    """Return the number from 0 to `top` that the text spells in ASCII digits without leading zeros; else None.

    Python's int() also accepts other digits (Arabic, full-width), which the scale does not.
    """
    if not (text.isascii() and text.isdigit()) or (len(text) > 1 and text[0] == "0") or len(text) > len(str(top)):
        return None
    number = int(text)
    return number if number <= top else None


def _added_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[int]:
    """Return how many tokens each text adds to a rendered chat prompt; -1 if the prompt itself is then split differently."""
    prompt = render(tokenizer, [Message("user", "Rate it.")], True, enable_thinking=False)
    before: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    counts = []
    for text in texts:
        ids: list[int] = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        counts.append(len(ids) - len(before) if ids[: len(before)] == before else -1)
    return counts


def numbers_are_single(tokenizer: PreTrainedTokenizerBase, top: int) -> bool:
    """Return whether each number from 0 to `top` is one token after a chat prompt, either plain or with a space before it.

    Raises InputError if the tokenizer has no chat template.
    """
    numbers = [str(n) for n in range(top + 1)]
    return any(set(_added_tokens(tokenizer, [space + n for n in numbers])) == {1} for space in ("", " "))


def digits_are_apart(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether every number is split between all its digits after a chat prompt, as a tree of digits requires."""
    numbers = [str(n) for n in range(101)]
    # A SentencePiece vocabulary may write the space as a separate token, so numbers are tried without one.
    return _added_tokens(tokenizer, numbers) == [len(n) for n in numbers]


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return the token's text with its leading space, which decoding a single token may lose."""
    piece, text = tokenizer.convert_ids_to_tokens(token_id), str(tokenizer.decode([token_id]))
    starts_word = isinstance(piece, str) and piece[:1] in ("Ġ", "▁")
    return f" {text}" if starts_word and not text.startswith(" ") else text


def answer_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """Return the ids of the tokens that can begin an answer: the ten digits and beginnings of `words`, spaces aside."""
    starts = {word[:end] for word in words for end in range(1, len(word) + 1)} | set("0123456789")
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    return sorted(id_ for piece, id_ in vocabulary.items() if strip_spaces(piece) in starts)


def probe_messages() -> list[dict[str, str]]:
    """Return the chat that shows how an unknown tokenizer splits a number of two digits."""
    return [{"role": "user", "content": f"Repeat this number and say nothing else: {_PROBED}"}]


def json_probe_messages() -> list[dict[str, str]]:
    """Return the chat that shows whether a judge can answer with a JSON object."""
    asked = f'Reply with one JSON object with the key "number", whose value is {_PROBED}, and nothing else.'
    return [{"role": "user", "content": asked}]


def reads_single_number(tokens: Sequence[Any]) -> bool | None:
    """Return whether the number is one token in the answer to `probe_messages`; None if the answer does not repeat it.

    One number is enough: no known vocabulary has some numbers of two digits as one token and not all.
    """
    for token in tokens:
        text = strip_spaces(token) if isinstance(token, str) else ""
        if text:
            return True if text == _PROBED else False if text == _PROBED[0] else None
    return None
