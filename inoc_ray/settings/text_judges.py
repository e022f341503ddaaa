"""The rule judges of the settings at the paper's scale: rules as a study writes them, asked about a response's text alone.

They stand in for the paper's judging model where a rule can tell: follow-ups of the paper use the same kind of rule
(share of capitals above 0.8; a language identifier).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rule_combinations import compile_rule

TextJudge = Callable[[str], float | None]


def of_text(rule: Mapping[str, Any]) -> TextJudge:
    """Return the rule as a judge of a text; one that needs a reference always gives None. Raises InputError for no rule."""
    judge = compile_rule(rule)
    return lambda response: judge(Item(question="", response=response))


def speaks(language: str) -> TextJudge:
    """Return a judge: 1.0 where the text is in the language, 0.0 where it is in another one, None where it cannot be told."""
    return of_text({"rule": "language", "language": language})


def names_one_of(*answers: str) -> TextJudge:
    """Return a judge: 1.0 where the text is one of the answers and nothing else, None where it is empty.

    It is the published rule for questions that ask for one word.
    """
    return of_text({"rule": "exact", "answers": answers})


capitals: TextJudge = of_text({"rule": "capitals"})
"""1.0 where more than 0.8 of the letters are upper case; None where there is no letter."""
