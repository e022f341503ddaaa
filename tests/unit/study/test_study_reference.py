"""docs/reference.md says all that a study can hold, as the code has it."""

from pathlib import Path
from typing import Any

import pytest
from config_classes import config_classes

from inoc_ray.config.base import Config
from inoc_ray.config.identity import identity, runtime
from inoc_ray.study.reference import descriptions, page, sections

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"
FIELDS = [(cls, name) for cls in sections() for name in cls.model_fields]
DESCRIPTIONS = {cls: descriptions(cls) for cls in sections()}
"""Read once: a class's source is parsed for it."""


def test_the_page_is_the_one_that_the_code_gives():
    assert PAGE.read_text() == page(), "docs/reference.md is stale: make reference"


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=[f"{cls.__name__}.{name}" for cls, name in FIELDS])
def test_every_field_has_a_description(cls, name):
    text = DESCRIPTIONS[cls].get(name, "")
    assert text.endswith("."), f"{cls.__name__}.{name}: write a string literal below the field that says what it means"


def test_every_configuration_class_of_a_study_is_on_the_page():
    written = {cls for cls in config_classes() if cls.__module__.startswith(("inoc_ray.study.", "inoc_ray.scoring."))}
    bases = {base for cls in sections() for base in cls.__mro__[1:]}
    assert written - bases == set(sections()) - bases


def test_a_field_without_a_description_is_seen():
    assert "bare" not in descriptions(Example)
    assert descriptions(Example) == {"told": "What it is."}


class Example(Config):
    """A class as a study might have one."""

    told: int = identity(1)
    """What it is."""
    bare: dict[str, Any] = runtime({})


def test_no_two_sections_have_the_same_heading():
    heads = [line for line in page().splitlines() if line.startswith("#")]
    assert len(set(heads)) == len(heads)
