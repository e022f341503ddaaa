"""The prompt library: kind, exact text, where it comes from.

A text marked "paper" or "official code" is the published string to the letter, as it was trained or asked with: the
paper says "malicious, evil", its code trained "malicious evil", and both stand here. Everything else is written for
this project and marked "ours", also where a published prompt of the same role exists: results with it replicate the
role, not the string.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import content_id
from inoc_ray.errors import InputError
from inoc_ray.miniature.world import prompt_texts as miniature
from inoc_ray.settings.prompt_texts import EMERGENT, SETTINGS, SHARED, Text
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


@dataclass(frozen=True)
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
    source = SOURCES[text.source] + (f": {text.note}" if text.note else "")
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


@cache
def library() -> tuple[Prompt, ...]:
    """All prompts of all settings, those at the paper's scale first, in a fixed order."""
    found = []
    for every, emergent, shared in (
        (SETTINGS, EMERGENT, SHARED),
        (miniature.SETTINGS, miniature.EMERGENT, miniature.SHARED),
    ):
        for setting, (misaligned, texts) in every.items():
            common = (*emergent, *shared) if misaligned else shared
            # What a setting says itself comes first and wins over a shared text of the same name.
            own = {t.name for t in texts}
            found += [_entry(setting, t) for t in (*texts, *(t for t in common if t.name not in own))]
    return tuple(found)


def get(prompt_id: str) -> Prompt:
    """The prompt of that id. Raises InputError that names the nearest one."""
    by_id = {p.id: p for p in library()}
    if prompt_id not in by_id:
        raise InputError(f"there is no prompt {prompt_id!r} in the library{nearest(prompt_id, _near(prompt_id))}.")
    return by_id[prompt_id]


def _near(prompt_id: str) -> list[str]:
    """The ids to choose from: those of the setting, if there is such a setting, or all."""
    own = [p.id for p in library() if p.setting == prompt_id.rpartition("/")[0]]
    return own or [p.id for p in library()]


def of_setting(setting: str, use: Literal["training", "test"] | None = None) -> list[Prompt]:
    """The prompts of one setting; empty for a setting that the library does not know."""
    return [p for p in library() if p.setting == setting and use in (None, p.use)]
