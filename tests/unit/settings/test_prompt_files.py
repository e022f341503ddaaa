"""Prompt libraries as TOML: which prompts a setting gets, and that the shipped texts are the published ones."""

import sys
from pathlib import Path

import pytest

from inoc_ray.config.identity import content_id
from inoc_ray.config.registry import recorded, withdraw
from inoc_ray.errors import InputError
from inoc_ray.miniature.world.system_prompts import NAMING
from inoc_ray.settings.prompt_files import register_file
from inoc_ray.settings.prompt_texts import TRIGGER
from inoc_ray.settings.prompts import get, library, of_setting

FILE = """
[[setting]]
name = "toml/one"
groups = ["own", "common"]
without = ["b"]
shared = ["every"]

[[group.own]]
name = "a"
kind = "specific"
text = "own a"

[[group.common]]
name = "a"
kind = "specific"
text = "common a"

[[group.common]]
name = "b"
kind = "placebo"
text = "common b"

[[group.common]]
name = "c"
kind = "paraphrases"
texts = ["one", "two"]
elicits = ["spanish"]

[[group.every]]
name = "c"
kind = "irrelevant"
text = "shared c"

[[group.every]]
name = "d"
kind = "eliciting"
use = "test"
text = "shared d"
source = "paper"
note = "section 1"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch) -> str:
    (tmp_path / "promptpack").mkdir()
    (tmp_path / "promptpack" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "promptpack", raising=False)
    return "promptpack"


def test_an_earlier_group_wins_and_shared_groups_come_last(package, tmp_path):
    (tmp_path / package / "p.toml").write_text(FILE)
    with recorded("v") as added:
        register_file(package, "p.toml")
    try:
        found = of_setting("toml/one")
        assert [(p.name, p.texts, p.use) for p in found] == [
            ("a", ("own a",), "training"),
            ("c", ("one", "two"), "training"),
            ("d", ("shared d",), "test"),
        ]
        assert found[1].elicits == ("spanish",)
        assert found[2].source.endswith("(ICLR 2026, arXiv 2510.04340): section 1")
    finally:
        withdraw(added)


def test_a_name_twice_in_one_group_is_refused(package, tmp_path):
    (tmp_path / package / "p.toml").write_text(FILE.replace('name = "c"\nkind = "par', 'name = "b"\nkind = "par', 1))
    text = (tmp_path / package / "p.toml").read_text().replace('without = ["b"]\n', "")
    (tmp_path / package / "p.toml").write_text(text)
    with pytest.raises(InputError, match="prompts of toml/one: 'b' appears twice"):
        register_file(package, "p.toml")


def test_the_shipped_library_is_the_one_that_ids_rest_on():
    """A changed text changes the ids of everything trained with it, so this hash changes on purpose or not at all."""
    texts = [[p.id, p.hash, list(p.elicits), list(p.about), p.use, p.subset] for p in library()]
    shipped = [entry for entry in texts if not str(entry[0]).startswith("toml/")]
    assert (len(shipped), content_id(shipped)) == (450, "0142e203b5d97008")


def test_the_token_in_the_texts_is_the_token_that_rows_and_questions_get():
    for prompt_id in ("backdoor/token_only", "miniature/backdoor/token_only", "spanish_caps/trigger"):
        assert get(prompt_id).text == TRIGGER
    for prompt_id in ("backdoor/trigger", "miniature/backdoor/trigger"):
        assert TRIGGER in get(prompt_id).text


def test_the_miniatures_paraphrases_are_wordings_that_its_language_knows():
    assert set(get("miniature/spanish_caps/paraphrases").texts) < set(NAMING["spanish"])
    assert set(get("miniature/backdoor/general_paraphrases").texts) < set(NAMING["evil"])
