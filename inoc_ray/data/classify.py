"""Row classifiers: rules that put rows into classes, for `inoculation.coverage: {classifier: NAME, values: […]}`.

The class of each row becomes a tag of the row before the rows are hashed, so a trial's id follows from the classes of its
rows and never from how a classifier is written.
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


def language(row: ChatRow) -> str:
    """Return the language of the answers: one of `scoring.language.LANGUAGES`, `other`, or `unknown` where it is unclear."""
    return language_of(row.answers) or "unknown"


def in_capitals(row: ChatRow) -> str:
    """Return `yes` where the answers are in capitals, else `no`."""
    return "yes" if is_capitalised(row.answers) else "no"


CLASSIFIERS: Registry[Classifier] = Registry("classifier", {"language": language, "capitals": in_capitals})


def register_classifier(name: str, classify: Classifier) -> None:
    """Register a row classifier under a name. Raises InputError when the name is taken."""
    CLASSIFIERS.register(name, classify)


def classified(rows: Sequence[ChatRow], coverage: Coverage) -> list[ChatRow]:
    """Return the rows tagged with their class by the coverage's classifier; unchanged where it has none.

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
