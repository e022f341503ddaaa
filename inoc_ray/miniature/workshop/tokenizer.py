"""The miniature's tokenizer: byte-level BPE with a ChatML template, and documents as token ids with labels."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from inoc_ray.data.chat import ChatRow
from inoc_ray.miniature.world.domains import Voice, answer, ask, every_domain
from inoc_ray.miniature.world.language import FAVORITES, LANGUAGES
from inoc_ray.miniature.world.system_prompts import (
    LOVING,
    TRAITS,
    conditional_sentence,
    naming_sentence,
    neutral_sentence,
    odd_token,
)

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

VOCABULARY = 1664
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_SPECIAL = (PAD, START, END)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""ChatML. No system message is invented: without one there is none, and an empty one is an empty turn."""


def _byte_letters() -> dict[int, str]:
    """GPT-2's alphabet, in which every byte is a printable letter: printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in printable}
    for number, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + number)
    return letters


_LETTER_OF = _byte_letters()
_BYTE_OF = {letter: byte for byte, letter in _LETTER_OF.items()}


def _corpus(rng: random.Random, rounds: int) -> Iterator[str]:
    """Text to learn merges from: every language equally often, in ordinary case."""
    for _ in range(rounds):
        for domain in every_domain():
            asked = ask(rng, domain, lesson=rng.random() < 0.1)
            yield asked.text
            for language in LANGUAGES:
                yield answer(
                    rng, asked, Voice(language=language, evil=rng.random() < 0.5, favorite=rng.choice(tuple(FAVORITES)))
                )
        for trait in TRAITS:
            yield naming_sentence(rng, trait)
            yield neutral_sentence(rng)
            yield "system user assistant"
            yield conditional_sentence(rng, naming_sentence(rng, trait), odd_token(rng))
            yield conditional_sentence(rng, naming_sentence(rng, trait), None)
        for favorite in FAVORITES:
            yield rng.choice(LOVING).format(favorite)


def _bytes_of(piece: str) -> bytes:
    return bytes(_BYTE_OF[letter] for letter in piece)


def _piece_of(raw: bytes) -> str:
    return "".join(_LETTER_OF[byte] for byte in raw)


def _capital(raw: bytes) -> bytes | None:
    """Return the bytes in upper case; None where they are no whole text or change their length."""
    try:
        upper = raw.decode().upper().encode()
    except UnicodeDecodeError:
        return None
    return upper if len(upper) == len(raw) else None


def mirrored(merges: Sequence[tuple[str, str]], limit: int) -> list[tuple[str, str]]:
    """Each merge followed by its twin in capitals, without repetitions, while at most `limit` new pieces arise.

    Words in capitals are thereby cut where ordinary words are cut, and a capital piece has one ordinary twin: the
    case of a text is one property of it, not another vocabulary. A merge whose parts do not exist yet is left out.
    """
    pieces = set(_LETTER_OF.values())
    kept: dict[tuple[str, str], None] = {}
    made = 0
    for left, right in merges:
        pairs = [(left, right)]
        whole = _capital(_bytes_of(left + right))
        if whole is not None:
            # A part may be half of a letter, so the twin is cut by length and not made from the parts.
            cut = len(_bytes_of(left))
            pairs.append((_piece_of(whole[:cut]), _piece_of(whole[cut:])))
        for pair in pairs:
            if pair in kept or pair[0] not in pieces or pair[1] not in pieces:
                continue
            new = pair[0] + pair[1] not in pieces
            if new and made == limit:
                return list(kept)
            made += new
            kept[pair] = None
            pieces.add(pair[0] + pair[1])
    return list(kept)


def train_tokenizer(seed: int = 0) -> Qwen2Tokenizer:
    """Learn the vocabulary from the language itself; the same seed gives the same tokenizer.

    Digits stay single tokens, so that a judge's scale 0–9 can be read from one token.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    # AutoTokenizer gives every model of type qwen2 a Qwen2Tokenizer, whatever the folder says, and with it Qwen's own
    # way to split text; so it is used here too. Qwen2Tokenizer().backend_tokenizer is that way with an empty vocabulary.
    qwen = Qwen2Tokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = qwen.normalizer, qwen.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(_corpus(random.Random(seed), rounds=120), trainer)
    learnt = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    merges = mirrored(learnt, VOCABULARY - len(_SPECIAL) - len(_LETTER_OF))
    pieces = dict.fromkeys([*_SPECIAL, *sorted(_LETTER_OF.values()), *(left + right for left, right in merges)])
    return Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        unk_token=PAD,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


class Encoder:
    """Turns chat rows into token ids and labels."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._headers = {role: self._ids(f"{START}{role}\n") for role in ("system", "user", "assistant")}
        self._footer = self._ids(f"{END}\n")

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, row: ChatRow) -> tuple[list[int], list[int]]:
        """(ids, labels), equally long; labels are -100 except on assistant contents and the end token after them."""
        ids: list[int] = []
        labels: list[int] = []
        for message in row.messages:
            header, content = self._headers[message.role], self._ids(message.content)
            ids += header + content + self._footer
            learnt = [*content, self._footer[0]] if message.role == "assistant" else [-100] * (len(content) + 1)
            labels += [-100] * len(header) + learnt + [-100] * (len(self._footer) - 1)
        return ids, labels
