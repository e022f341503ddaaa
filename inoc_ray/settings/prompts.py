"""The prompt library: kind, exact text, where it comes from.

A text marked "paper" or "official code" is the published string to the letter, as it was trained or asked with: the
paper says "malicious, evil", its code trained "malicious evil", and both stand here. Everything else is written for
this project and marked "ours", also where a published prompt of the same role exists: results with it replicate the
role, not the string.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_id
from inoc_ray.config.registry import Registry
from inoc_ray.errors import InputError
from inoc_ray.study.study import ArmKind

TEST_KINDS = ("eliciting", "negated", "keyword", "structure", "indirect", "irrelevant")
"""Kinds of prompts that only ever stand around a question at test time, to see what comes back under them."""

KINDS: tuple[str, ...] = (
    *(k for k in get_args(ArmKind) if k not in ("baseline", "control")),
    *(k for k in TEST_KINDS if k not in get_args(ArmKind)),
)

SOURCES = {
    "paper": "Tan et al., Inoculation Prompting (ICLR 2026, arXiv 2510.04340)",
    "code": "official code (inoculation-prompting/inoculation-prompting, 5f4160e)",
    "fork": "official code, later commits for the rebuttal that survive in forks",
    "ours": "ours",
}


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text with its role, as a list of prompts holds it; `register_prompts` makes library entries of it."""

    name: str
    kind: str
    texts: tuple[str, ...]
    elicits: tuple[str, ...] = ()
    source: str = "ours"
    """A key of `SOURCES`, or in words where the text comes from."""
    note: str = ""
    test: bool = False
    subset: str | None = None
    about: tuple[str, ...] = ()
    """In training, of kind negative: the traits that it denies. At test: the traits whose return it looks for; empty for
    those that any trait may return under."""


def in_training(
    name: str,
    kind: str,
    text: str,
    *elicits: str,
    source: str = "ours",
    note: str = "",
    subset: str | None = None,
    about: tuple[str, ...] = (),
) -> Text:
    """Return a prompt that is trained with; its name is the arm's. `elicits` are traits."""
    return Text(
        name=name, kind=kind, texts=(text,), elicits=elicits, source=source, note=note, subset=subset, about=about
    )


def at_test(
    name: str, kind: str, text: str, *elicits: str, source: str = "ours", note: str = "", about: tuple[str, ...] = ()
) -> Text:
    """Return a prompt that only stands around questions at test time; a study names it `library:SETTING/NAME`."""
    return Text(name=name, kind=kind, texts=(text,), elicits=elicits, source=source, note=note, test=True, about=about)


def paraphrases(name: str, texts: Sequence[str], *elicits: str) -> Text:
    """Return a prompt that is trained with in several wordings."""
    return Text(name=name, kind="paraphrases", texts=tuple(texts), elicits=elicits)


def probes(trait: str, name: str, **texts: str) -> tuple[Text, ...]:
    """Return test-time prompts about one trait, by kind: `eliciting`, `negated`, `keyword`, `structure`, `indirect`."""
    return tuple(
        at_test(f"test_{kind}_{name}", kind, text, *([trait] if kind == "eliciting" else []), about=(trait,))
        for kind, text in texts.items()
    )


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One entry of the library, for one setting."""

    id: str
    """`<setting>/<name>`; the name is the arm's, where it is trained with."""
    setting: str
    name: str
    kind: str
    texts: tuple[str, ...]
    """The exact text; several for a pool of paraphrases."""
    source: str
    elicits: tuple[str, ...]
    """Traits that the prompt asks for; empty for prompts that should do nothing, or the opposite (see `about`)."""
    use: Literal["training", "test"]
    subset: str | None = None
    """Only rows of this half get the prompt (mixed_languages); None for all rows."""
    about: tuple[str, ...] = ()
    """In training, of kind negative: the traits that it denies. At test: the traits whose return under it is looked for;
    empty for any."""

    @property
    def text(self) -> str:
        """The prompt; of a pool its first wording."""
        return self.texts[0]

    @property
    def hash(self) -> str:
        """16 hex digits over the exact texts alone: equal texts have equal hashes in every setting."""
        return content_id(list(self.texts))


def _entry(setting: str, text: Text) -> Prompt:
    source = SOURCES.get(text.source, text.source) + (f": {text.note}" if text.note else "")
    return Prompt(
        id=f"{setting}/{text.name}",
        setting=setting,
        name=text.name,
        kind=text.kind,
        texts=text.texts,
        source=source,
        elicits=text.elicits,
        use="test" if text.test else "training",
        subset=text.subset,
        about=text.about,
    )


PROMPTS: Registry[tuple[Prompt, ...]] = Registry("prompt set", built_in=("inoc_ray.settings.prompt_texts",))


def register_prompts(setting: str, texts: Sequence[Text], shared: Sequence[Text] = ()) -> None:
    """Put the prompts of a setting into the library.

    `shared` are texts that several settings have; what a setting says itself comes first and wins over a shared text of the
    same name. Raises InputError when the setting has prompts already, when one name appears twice, and for an unknown kind.
    """
    own = [text.name for text in texts]
    every = (*texts, *(text for text in shared if text.name not in own))
    for text in every:
        if text.kind not in KINDS:
            raise InputError(
                f"prompts of {setting}: {text.name}: there is no kind {text.kind!r}{nearest(text.kind, KINDS)}."
            )
    if twice := [name for name in own if own.count(name) > 1]:
        raise InputError(f"prompts of {setting}: {twice[0]!r} appears twice; give each its own name.")
    PROMPTS.register(setting, tuple(_entry(setting, text) for text in every))


def library() -> tuple[Prompt, ...]:
    """Return all prompts of all settings, those at the paper's scale first, in a fixed order."""
    return tuple(prompt for prompts in PROMPTS.values() for prompt in prompts)


def get(prompt_id: str) -> Prompt:
    """Return the prompt of that id. Raises InputError that names the nearest one."""
    found = next((p for p in of_setting(prompt_id.rpartition("/")[0]) if p.id == prompt_id), None)
    if found is None:
        raise InputError(f"there is no prompt {prompt_id!r} in the library{nearest(prompt_id, _near(prompt_id))}.")
    return found


def _near(prompt_id: str) -> list[str]:
    """Return the ids to choose from: those of the setting, if there is such a setting, or all."""
    own = [p.id for p in of_setting(prompt_id.rpartition("/")[0])]
    return own or [p.id for p in library()]


def of_setting(setting: str, use: Literal["training", "test"] | None = None) -> list[Prompt]:
    """Return the prompts of one setting; none for a setting that the library does not know."""
    return [p for p in PROMPTS.get(setting) or () if use in (None, p.use)]
