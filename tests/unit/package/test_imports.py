"""Imports go one way: down the layers or within a room, lazily or not, and never in a circle."""

import ast
from pathlib import Path

import pytest

import inoc_ray

LAYERS = (
    ("errors", "console", "variables"),
    ("stopping",),
    ("config",),
    ("store", "scoring"),
    ("study",),
    ("models",),
    ("endpoint", "cluster"),
    ("data",),
    ("settings",),
    ("plan",),
    ("train",),
    ("serve",),
    ("sizing",),
    ("evaluate",),
    ("builders",),
    ("results",),
    ("run",),
    ("cli",),
)
"""Bottom to top. Rooms of one layer do not import each other, but for console, which may know the errors."""
PLUGIN = "miniature"
"""May import every room; no room imports it: it is reached through the registries."""
PACKAGE = Path(inoc_ray.__file__).parent


def name_of(path: Path) -> str:
    """`inoc_ray/plan/ids.py` is plan.ids; a room's __init__ is the room."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def arrows_of(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module → modules of the package that it imports anywhere: at the top, in a function, or for types alone."""
    arrows: dict[str, set[str]] = {name: set() for name in sources}
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            found = []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: write the whole name of what is imported"
                inside = (node.module or "").removeprefix("inoc_ray").lstrip(".")
                if (node.module or "").split(".")[0] == "inoc_ray":
                    inner = [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
                    found = [one if one in sources else inside for one in inner]
            elif isinstance(node, ast.Import):
                found = [a.name.removeprefix("inoc_ray.") for a in node.names if a.name.startswith("inoc_ray.")]
            arrows[name].update(one for one in found if one and one != name)
    return arrows


def upward(arrows: dict[str, set[str]]) -> list[str]:
    """Imports of a room that does not lie below."""
    height = {room: at for at, rooms in enumerate(LAYERS) for room in rooms}
    out = []
    for name, targets in arrows.items():
        room = name.partition(".")[0]
        for target in targets:
            other = target.partition(".")[0]
            if room in ("", PLUGIN) or room == other or (room, other) == ("console", "errors"):
                continue
            if other == PLUGIN or height[other] >= height[room]:
                out.append(f"{name} imports {target}")
    return sorted(out)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other (Tarjan's strongly connected components of two and more)."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for target in arrows.get(name, ()):
            if target not in number:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], number[target])
        if low[name] == number[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in arrows:
        if name not in number:
            visit(name)
    return found


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    return arrows_of({name_of(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")})


def test_every_room_has_its_layer(arrows: dict[str, set[str]]):
    rooms = {name.partition(".")[0] for name in arrows} - {"", PLUGIN}
    assert rooms == {room for layer in LAYERS for room in layer}


def test_no_import_goes_up(arrows: dict[str, set[str]]):
    assert upward(arrows) == []


def test_no_modules_import_each_other(arrows: dict[str, set[str]]):
    assert circles(arrows) == []


def test_the_plugin_is_named_as_data_alone():
    """The list of plugins, and a study's default model: no module treats the plugin otherwise than a user's own."""
    naming = set()
    for path in PACKAGE.rglob("*.py"):
        name = name_of(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            texts = [] if isinstance(node, ast.Expr) else ast.iter_child_nodes(node)
            if any(isinstance(one, ast.Constant) and PLUGIN in str(one.value) for one in texts):
                naming.add(name)
    assert {name for name in naming if name.partition(".")[0] != PLUGIN} == {"config.registry", "study.registered"}


def test_how_the_plugin_was_made_is_needed_by_nothing_that_uses_it(arrows: dict[str, set[str]]):
    workshop = f"{PLUGIN}.workshop"
    assert not [
        n
        for n, targets in arrows.items()
        if not n.startswith(workshop) and any(t.startswith(workshop) for t in targets)
    ]


def test_what_would_go_up_or_round_is_seen():
    """Lazily, for types alone, by `import` and by `from`."""
    seen = arrows_of(
        {
            "errors": "def f():\n    from inoc_ray.plan import ids",
            "plan.ids": "import inoc_ray.cli",
            "cli": "from inoc_ray.errors import InputError",
            "store.a": "if TYPE_CHECKING:\n    from inoc_ray.miniature import settings",
            "miniature.settings": "",
        }
    )
    assert upward(seen) == [
        "errors imports plan.ids",
        "plan.ids imports cli",
        "store.a imports miniature.settings",
    ]
    assert circles(seen) == [["cli", "errors", "plan.ids"]]
