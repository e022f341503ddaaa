"""Which numbers a judge's tokenizer has as single tokens; and so on which scale it can be asked for one token."""

from __future__ import annotations

import re
from typing import Any

PROBE_NUMBER = "73"
PROBE = f"Repeat this number and say nothing else: {PROBE_NUMBER}"
_NUMBER = re.compile(r"0|[1-9][0-9]*")


def numbers_are_single(tokenizer: Any, top: int = 100) -> bool:
    """Whether every number from 0 to `top` is one token behind a chat prompt. Qwen cuts "73" into 7 and 3, Llama 3 does not."""
    return all(len(tokenizer.encode(str(n), add_special_tokens=False)) == 1 for n in range(top + 1))


def probe_says_single(first_token: str) -> bool | None:
    """The same of an API's tokenizer, from the first token of its answer to PROBE; None where that is no part of the number."""
    token = number_text(first_token)
    if token == PROBE_NUMBER:
        return True
    return False if token == PROBE_NUMBER[0] else None


def number_text(token: str) -> str | None:
    """The token as a whole number in ASCII digits without leading zeros; None where it is none.

    Python's int() and isdigit() take digits of every script, which has let judges' rubbish pass for numbers elsewhere.
    """
    bare = token.strip(" \n\t\u0120\u2581")  # the marks of byte-level and sentencepiece tokenizers for a blank
    return bare if _NUMBER.fullmatch(bare) else None
