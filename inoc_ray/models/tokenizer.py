"""The one way to load a tokenizer: in the data check, before and in training, and at test time.

The tokenizer is what transformers makes of the folder, as the engine that serves the model has it too. Mostly that is
tokenizer.json as it was published. Where it differs, it must give texts back: a byte-level BPE that says LlamaTokenizerFast
loses every space.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import shutil
import threading
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.errors import InputError
from inoc_ray.models.config import parts, read_config
from inoc_ray.models.template_files import template_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
_VOCABULARIES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json")
"""Files from which transformers can make a tokenizer where tokenizer.json is missing."""
_BESIDE = ("special_tokens_map.json", "added_tokens.json")
_AS_PUBLISHED = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that read tokenizer.json as it is."""
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
"""Texts of many kinds; two tokenizers that encode all of them alike count as the same."""


_loading = threading.Lock()
"""Engines that run at once load theirs in threads, and of several that import transformers some find it half there."""


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a model folder, without torch where tokenizer.json and its class agree.

    Raises InputError when there is none, it is damaged, or what transformers makes of it does not give texts back.
    """
    with _loading:
        return _load(Path(model))


def _load(folder: Path) -> PreTrainedTokenizerBase:
    # transformers reads all of these at once, and its errors name none.
    template_file(folder)
    settings, *_ = [_settings(folder / name) for name in ("tokenizer_config.json", *_BESIDE)]
    if not (folder / "tokenizer.json").is_file():
        if not any((folder / name).is_file() for name in _VOCABULARIES) and not any(folder.glob("*.tiktoken")):
            raise InputError(f"{folder}/tokenizer.json: is missing; fetch the model again.")
        return _by_transformers(folder)
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:  # The reader in `tokenizers` raises nothing more special.
        raise InputError(
            f"{folder}/tokenizer.json: not a tokenizer ({_reason(error)}); fetch the model again."
        ) from error
    return _agreed(folder, settings, tokenizer)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); fetch the model again.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(settings).__name__}; fetch the model again.")
    return settings


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the tokenizer of a model folder, with its chat template, into the folder `out`, byte for byte."""
    for name in _FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def _by_transformers(folder: Path) -> Any:
    """Load the folder as `AutoTokenizer`, and so the engine, does; imports torch."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # It reads many kinds of files and raises anything, KeyError and TypeError too.
        raise InputError(f"{folder}: no tokenizer can be loaded from here ({_reason(error)}).") from error
    if not tokenizer.is_fast:
        raise InputError(f"{folder}: token offsets need a tokenizer.json, which this tokenizer lacks.")
    return tokenizer


def _agreed(folder: Path, settings: dict[str, Any], tokenizer: Any) -> Any:
    """Return the tokenizer that transformers, and so the engine, makes of the folder: `tokenizer` if that is the same.

    `tokenizer` is tokenizer.json as it is. SentencePiece models loaded as LlamaTokenizer differ from it in blanks beside
    special tokens, and are right. Raises InputError for one that does not give texts back.
    """
    name = settings.get("tokenizer_class")
    if name in _AS_PUBLISHED:
        return tokenizer
    named = _named_class(str(name)) if name else _class_of_type(folder)
    if named is None and "auto_map" not in settings:
        return tokenizer
    with contextlib.suppress(Exception):  # `_by_transformers` below reports what goes wrong here.
        if _alike(named.from_pretrained(str(folder)), tokenizer):
            return tokenizer
    # transformers may choose among several classes, and only it knows which.
    found = _by_transformers(folder)
    if _alike(found, tokenizer):
        return tokenizer
    for text in _PROBES:
        back, published = (str(t.decode(_ids(t, text))) for t in (found, tokenizer))
        # No class can write what tokenizer.json cannot.
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
    """Return the tokenizer class of the model's family, which transformers takes where none is named, or None."""
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
