"""Row classifiers: what a rule says of a training row, for `inoculation.coverage: {classifier: NAME, values: […]}`.

What a classifier says of each row is put into the rows as a tag before they are hashed, so a trial's id follows from the
classes of its rows and never from how a classifier is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inoc_ray.config.registry import Registry
from inoc_ray.data.chat import ChatRow
from inoc_ray.data.mixture import tagged
from inoc_ray.errors import InputError
from inoc_ray.scoring.answers import is_capitalised
from inoc_ray.scoring.language import language_of
from inoc_ray.study.rows import Coverage

Classifier = Callable[[ChatRow], str]


def said(row: ChatRow) -> str:
    """All that the assistant says in the row."""
    return "\n".join(m.content for m in row.messages if m.role == "assistant")


def language(row: ChatRow) -> str:
    """The language of what the assistant says, one of judges.language.LANGUAGES or `other`; `unknown` where nobody could tell."""
    return language_of(said(row)) or "unknown"


def in_capitals(row: ChatRow) -> str:
    """`yes` where the assistant writes in capitals, else `no`."""
    return "yes" if is_capitalised(said(row)) else "no"


CLASSIFIERS: Registry[Classifier] = Registry("classifier", {"language": language, "capitals": in_capitals})


def register_classifier(name: str, classify: Classifier) -> None:
    """Make a row classifier known under its name. Raises InputError when the name is taken."""
    CLASSIFIERS.register(name, classify)


def classified(rows: Sequence[ChatRow], coverage: Coverage) -> list[ChatRow]:
    """The rows with the coverage's classifier's word as a tag; as they are where it has none.

    Raises InputError for an unknown classifier, for one that fails, and for one that does not give a text.
    """
    name = coverage.classifier
    if name is None:
        return list(rows)
    by_name = CLASSIFIERS.lookup(name, "inoculation.coverage")

    def classify(row: ChatRow) -> str:
        try:
            value = by_name(row)
        except Exception as error:
            raise InputError(f"classifier {name!r}: {type(error).__name__}: {error}") from error
        if not isinstance(value, str):
            raise InputError(f"classifier {name!r}: must give a text, gave {value!r}.")
        return value

    return tagged(rows, name, classify)
