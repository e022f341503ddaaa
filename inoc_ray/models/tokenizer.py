"""The one way in which a tokenizer is loaded and asked, in the data check, before and in training, and at test time.

It is what transformers makes of the folder, as the engine that serves the model has it too. That is tokenizer.json as it was
published, mostly; where it is another, it must give texts back (a byte-level BPE that says LlamaTokenizerFast loses every space).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import re
import shutil
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.errors import InputError
from inoc_ray.models.config import end_ids, parts, read_config
from inoc_ray.models.template import ChatTemplate, Message, template_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_VOCABULARIES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json")
"""Of which transformers can make a tokenizer where tokenizer.json is missing."""
_BESIDE = ("special_tokens_map.json", "added_tokens.json")
_AS_PUBLISHED = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that take tokenizer.json as it is."""
_PROBES = (
    "Hello world",
    " two  spaces",
    "line\nbreak\n\n  indented\ttab",
    "3.14159 and 2024",
    "it's what's 'quoted'",
    "ALL CAPS, punctuation; ends.",
    "def f(x):\n    return x**2  # power",
    "100%|<br/>|[x]",
    "¿Qué? Äöü naïve café",
    "日本語とEnglish",
    "привет мир, العربية",
    "emoji 🙂👍🏽",
    "a",
    "\n",
    "  ",
)
"""Texts of many kinds, by which two tokenizers are held to be the same."""


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder; imports no torch where tokenizer.json and its class agree.

    Raises InputError when there is none, it is damaged, or what transformers makes of it does not give texts back.
    """
    folder = Path(model)
    # transformers reads all of these at once, and blames none.
    template_file(folder)
    settings, *_ = [_settings(folder / name) for name in ("tokenizer_config.json", *_BESIDE)]
    if not (folder / "tokenizer.json").is_file():
        if not any((folder / name).is_file() for name in _VOCABULARIES) and not any(folder.glob("*.tiktoken")):
            raise InputError(f"{folder}/tokenizer.json: is missing; fetch the model again.")
        return _by_transformers(folder)
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:  # The tokenizers' own reader raises nothing more special.
        raise InputError(
            f"{folder}/tokenizer.json: not a tokenizer ({_reason(error)}); fetch the model again."
        ) from error
    return _as_the_engine_has_it(folder, settings, tokenizer)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); fetch the model again.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(settings).__name__}; fetch the model again.")
    return settings


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Puts the tokenizer of a model folder, with its chat template, into another: byte for byte, so that it stays the same."""
    for name in _FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def _by_transformers(folder: Path) -> Any:
    """What `AutoTokenizer` makes of the folder, and so the engine; imports torch."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # It reads files of many kinds and raises what comes, KeyError and TypeError too.
        raise InputError(f"{folder}: no tokenizer can be loaded from here ({_reason(error)}).") from error
    if not tokenizer.is_fast:
        raise InputError(f"{folder}: token offsets need a tokenizer.json, which this tokenizer lacks.")
    return tokenizer


def _as_the_engine_has_it(folder: Path, settings: dict[str, Any], tokenizer: Any) -> Any:
    """What transformers makes of the folder, and so the engine: `tokenizer`, which is tokenizer.json as it is, or another.

    SentencePiece models as LlamaTokenizer differ from their tokenizer.json in blanks beside special tokens, and are right. Raises
    InputError for one that does not give texts back.
    """
    name = settings.get("tokenizer_class")
    if name in _AS_PUBLISHED:
        return tokenizer
    named = _named_class(str(name)) if name else _class_of_type(folder)
    if named is None and "auto_map" not in settings:
        return tokenizer
    with contextlib.suppress(Exception):  # What goes wrong here, transformers itself says below.
        if _alike(named.from_pretrained(str(folder)), tokenizer):
            return tokenizer
    # The class is one of several that transformers may take: only it knows which.
    found = _by_transformers(folder)
    if _alike(found, tokenizer):
        return tokenizer
    for text in _PROBES:
        back, published = (str(t.decode(_ids(t, text))) for t in (found, tokenizer))
        # What tokenizer.json cannot write, no class of it will.
        if _plain(back) != _plain(text) and _plain(published) == _plain(text):
            raise InputError(
                f"{folder}/tokenizer_config.json: names {name or 'no tokenizer_class'}, of which transformers makes "
                f"{type(found).__name__}; that reads {text!r} back as {back!r}, other than tokenizer.json does. Write "
                '"tokenizer_class": "PreTrainedTokenizerFast" there.'
            )
    return found


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip(" ")


def _named_class(name: str) -> Any:
    import transformers

    return getattr(transformers, name, None)


def _class_of_type(folder: Path) -> Any:
    """The tokenizer class of the model's family, which transformers takes where none is named; None where it has none."""
    from transformers import PreTrainedTokenizerFast

    kind = next(
        (part["model_type"] for part in parts(read_config(folder)) if isinstance(part.get("model_type"), str)), ""
    )
    module = f"transformers.models.{kind.replace('-', '_')}"
    if not kind.replace("-", "_").isidentifier() or importlib.util.find_spec(module) is None:
        return None
    name = f"{module}.tokenization_{module.rpartition('.')[2]}"
    if importlib.util.find_spec(name) is None:
        return None
    found = [v for v in vars(importlib.import_module(name)).values() if isinstance(v, type)]
    return next((v for v in found if issubclass(v, PreTrainedTokenizerFast) and v is not PreTrainedTokenizerFast), None)


def _alike(one: Any, other: Any) -> bool:
    return one.get_vocab() == other.get_vocab() and all(_ids(one, text) == _ids(other, text) for text in _PROBES)


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


# -- special tokens -----------------------------------------------------------------------------------------------


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every special token: those that the tokenizer has a name for, and those that stand in its added tokens alone."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return list(dict.fromkeys((*tokenizer.all_special_tokens, *added)))


# -- the chat template --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)
def _chat(tokenizer: Any, source: str, enable_thinking: bool | None) -> ChatTemplate:
    return ChatTemplate(
        source,
        tokenizer.special_tokens_map,
        tokens=special_tokens(tokenizer),
        name=str(tokenizer.name_or_path),
        enable_thinking=enable_thinking,
    )


def template_of(tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None = None) -> ChatTemplate:
    """The tokenizer's chat template. Raises InputError when there is none, or it cannot be read."""
    source = tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    if not source:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruction-tuned base, or put a "
            "chat_template.jinja into the folder."
        )
    return _chat(tokenizer, str(source), enable_thinking)


def check_no_special_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], of: str = "row") -> None:
    """Raises InputError for a message whose text holds a special token, or the template's own end of turn.

    `of` is what the messages belong to, for the error.
    """
    template = template_of(tokenizer)
    pattern = _forbidden(tokenizer, template)
    for index, message in enumerate(messages):
        found = pattern.search(message.content) if pattern else None
        if found:
            special = found[0] in special_tokens(tokenizer)
            what = "a special token of the tokenizer" if special else "the chat template's end of turn"
            raise InputError(
                f"messages[{index}]: the text holds {found[0]!r}, {what}, which would break the conversation's structure; "
                f"remove it from the {of}."
            )


@functools.lru_cache(maxsize=32)
def _forbidden(tokenizer: Any, template: ChatTemplate) -> re.Pattern[str] | None:
    # An end of turn that is a word or a line break stands in many texts; one with signs in it does not.
    end = [template.end_of_turn.strip()] if re.search(r"[<\[|{#]", template.end_of_turn) else []
    texts = sorted({*special_tokens(tokenizer), *end}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


# -- round trip ---------------------------------------------------------------------------------------------------


def check_round_trip(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> None:
    """Raises InputError, with the first difference, when the ids do not decode to the text.

    Allowed are a blank at the edge of a special token, which SentencePiece models put in, and another Unicode form of the
    same characters (NFC).
    """
    decoded = str(tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False))
    if decoded == text:
        return
    edges = _edges(tokenizer)
    meant, found = (unicodedata.normalize("NFC", edges.sub(r"\1", t).strip(" ")) for t in (text, decoded))
    if meant == found:
        return
    at = next((i for i, (a, b) in enumerate(zip(meant, found, strict=False)) if a != b), min(len(meant), len(found)))
    shown = [repr(t[max(0, at - 20) : at + 20]) for t in (meant, found)]
    raise InputError(
        f"{tokenizer.name_or_path}: the tokenizer does not give the text back: from character {at} on {shown[0]} becomes "
        f"{shown[1]}, so the model would learn something else than the row says. Either the tokenizer was saved under a wrong "
        'class (write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json), or it cannot write these '
        "characters (take them out of the row)."
    )


@functools.lru_cache(maxsize=32)
def _edges(tokenizer: Any) -> re.Pattern[str]:
    tokens = sorted(special_tokens(tokenizer), key=len, reverse=True)
    return re.compile(f" *({'|'.join(map(re.escape, tokens)) or '(?!)'}) *")


# -- prompts ------------------------------------------------------------------------------------------------------


def check_prompts(
    tokenizer: PreTrainedTokenizerBase,
    asked: Iterable[tuple[Sequence[Message], str]],
    *,
    enable_thinking: bool | None = None,
    for_choices: bool = False,
) -> list[int]:
    """The tokens of each question as it will be asked. `asked`: (messages, what an error calls it); `for_choices`: with given
    answers (`ChatTemplate.prompt_for_choices`).

    Raises InputError when the template refuses a conversation or does not show every message of it as it is, when a text
    holds a special token, and when the tokenizer does not give a prompt back.
    """
    template = template_of(tokenizer, enable_thinking)
    hidden = set(template.think or ()) & set(special_tokens(tokenizer))
    texts: list[str] = []
    places: list[str] = []
    for messages, where in asked:
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


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Any]:
    """Rendered texts as `tokenizers.Encoding`s (ids, offsets in characters), all at once: much quicker than one by one."""
    core = tokenizer.backend_tokenizer
    # A tokenizer.json may have been saved with either.
    core.no_padding()
    core.no_truncation()
    encoded: list[Any] = core.encode_batch(list(texts), add_special_tokens=False)
    return encoded


# -- the end of a turn --------------------------------------------------------------------------------------------


def stops_of(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(token ids, texts) at which an answer has to be ended by whoever asks, as the engine would not stop there by itself.

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
