"""Registries: a name is registered once, an unknown one names the nearest, and modules are imported at the first lookup."""

import subprocess
import sys
from pathlib import Path

import pytest

from inoc_ray.config import registry as registries
from inoc_ray.config.registry import Registry, provide, recorded
from inoc_ray.errors import InputError


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes importable modules that register in `fruits.FRUITS`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written: list[str] = []

    def write(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_name_is_registered_once_and_an_unknown_one_names_the_nearest():
    fruits: Registry[int] = Registry("fruit", {"apple": 1})
    fruits.register("pear", 2)
    assert (fruits["pear"], fruits.get("plum"), list(fruits), fruits.names()) == (
        2,
        None,
        ["apple", "pear"],
        ["apple", "pear"],
    )
    with pytest.raises(InputError, match="fruit 'pear' is registered already; give yours another name"):
        fruits.register("pear", 3)
    with pytest.raises(InputError, match=r"^basket: there is no fruit 'aple' \(did you mean 'apple'\?\)"):
        fruits.lookup("aple", "basket")
    assert ["unhashable"] not in [*fruits]


def test_modules_are_imported_at_the_first_lookup_the_rooms_own_first(modules):
    modules(
        fruits="from inoc_ray.config.registry import Registry\nFRUITS = Registry('test fruit', built_in=('own_fruit',))\n",
        own_fruit="from fruits import FRUITS\nFRUITS.register('own', 1)\n",
        more_fruit="from fruits import FRUITS\nFRUITS.register('more', 2)\n",
    )
    from fruits import FRUITS  # type: ignore[import-not-found]

    provide("test fruit", "more_fruit")
    assert not {"own_fruit", "more_fruit"} & set(sys.modules)
    assert list(FRUITS) == ["own", "more"]


def test_a_module_that_fails_fails_again_and_is_not_passed_over(modules):
    modules(
        fruits="from inoc_ray.config.registry import Registry\nFRUITS = Registry('bad fruit', built_in=('rotten',))\n",
        rotten="1 / 0\n",
    )
    from fruits import FRUITS

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            FRUITS.get("own")


def test_what_a_failing_block_registered_is_taken_out_and_what_it_only_loads_stays(modules):
    modules(
        fruits="from inoc_ray.config.registry import Registry\nFRUITS = Registry('late fruit', built_in=('own_fruit',))\n",
        own_fruit="from fruits import FRUITS\nFRUITS.register('own', 1)\n",
    )
    from fruits import FRUITS

    def fails_halfway() -> None:
        with recorded("v") as added:
            assert registries.plugin_version() == "v"
            assert FRUITS["own"] == 1
            FRUITS.register("mine", 2)
            assert [name for _, name in added] == ["mine"]
            raise KeyError

    with pytest.raises(KeyError):
        fails_halfway()
    assert list(FRUITS) == ["own"]
    assert registries.plugin_version() is None


def test_every_plugin_that_ships_is_cheap_to_import():
    """It is imported at every lookup: no settings, no rows, no third library."""
    program = (
        "import sys\nfrom inoc_ray.config.registry import PLUGINS\nimport importlib\n"
        "for plugin in PLUGINS: importlib.import_module(plugin)\n"
        "heavy = {'pydantic', 'yaml', 'numpy', 'torch', 'inoc_ray.settings', 'inoc_ray.miniature.settings'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
