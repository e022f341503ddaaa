"""The store alone knows its files: no module outside it names one, or leaves the interface to its file system."""

import ast
import re
from pathlib import Path

import pytest

import inoc_ray
from inoc_ray.store import layout

PACKAGE = Path(inoc_ray.__file__).parent
LIBRARIES_READ_PATHS = {
    "results.tracking_artifacts": "MLflow's client uploads files by path",
    "serve.adapters": "vLLM loads an adapter by path",
    "serve.deployment": "vLLM loads a model by path",
    "serve.gate": "vLLM loads an adapter by path",
    "train.snapshot": "safetensors maps its files by path",
    "train.worker": "rows are read line by line from a file",
}
"""Modules that may ask for a path of this machine, and for which library."""
NAMES = {*layout.FILES, layout.REFUSED}
FOLDERS = {
    *layout.FOLDERS,
    layout.ADAPTER,
    layout.TABLES,
    layout.ATTEMPTS,
    layout.CHECKPOINTS,
    layout.FIGURES,
    layout.MLFLOW_ARTIFACTS,
}


def texts_of(tree: ast.AST) -> list[ast.Constant]:
    """Every text of a module that is no docstring."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs]


def breaches(source: str) -> list[str]:
    """What a module outside the store does that only the store may do, with its line."""
    tree = ast.parse(source)
    found = []
    for text in texts_of(tree):
        if text.value.rpartition("/")[2] in NAMES:
            found.append(f"line {text.lineno}: names {text.value}")
        if text.value.rpartition("/")[2].startswith(layout.PREFIXES) or text.value in layout.PREFIXES:
            found.append(f"line {text.lineno}: names a cell's file: {text.value}")
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(op=ast.Div(), right=ast.Constant(value=str(inner))) if inner.partition("/")[0] in FOLDERS:
                found.append(f"line {node.lineno}: names a folder of the store: {inner}")
        if isinstance(node, ast.Attribute) and node.attr == "root" and _name(node.value).endswith("store"):
            found.append(f"line {node.lineno}: takes the storage for a folder")
        if isinstance(node, ast.Import | ast.ImportFrom) and "fcntl" in ast.unparse(node):
            found.append(f"line {node.lineno}: locks without store.lock")
        if isinstance(node, ast.Import | ast.ImportFrom) and re.search(r"store(\.| import )layout", ast.unparse(node)):
            found.append(f"line {node.lineno}: takes names of files from store.layout")
    return found


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def fetches(source: str) -> bool:
    """Whether a module asks a place for a path of this machine."""
    return any(isinstance(n, ast.Attribute) and n.attr == "fetch" for n in ast.walk(ast.parse(source)))


def modules() -> dict[str, str]:
    """The source of every module outside the store."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text()
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "store"
    }


def test_no_module_outside_the_store_names_one_of_its_files():
    found = {name: breaches(source) for name, source in modules().items()}
    # Ray's own temporary folder.
    assert [line.partition(": ")[2] for line in found.pop("cluster.connect")] == ["names a folder of the store: ray"]
    # A word of the page's security policy.
    assert [line.partition(": ")[2] for line in found.pop("serve.chat_page")] == ["names a cell's file: form-action"]
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_paths_are_asked_for_only_where_a_library_wants_them():
    assert {name for name, source in modules().items() if fetches(source)} == set(LIBRARIES_READ_PATHS)


@pytest.mark.parametrize(
    "source",
    [
        'path = folder / "COMMIT.json"',
        'path = store.trial(t) / "adapter" / name',
        'text = f"{folder}/trial.json"',
        'path = folder / f"samples-{start:06d}.parquet"',
        'files = folder.glob("judgments-*")',
        'log = store.root / "logs"',
        "where = str(self.store.root)",
        "import fcntl",
        "from inoc_ray.store.layout import COMMIT",
        "from inoc_ray.store import layout",
        'note = out.with_suffix(".refused")',
    ],
)
def test_the_scan_finds(source):
    assert breaches(source)


def test_the_scan_passes_what_is_no_file_of_a_store():
    source = (
        '"""Beside COMMIT.json."""\nrows = value["rows"] / 2\npath = folder / "config.json"\nplace = store.trial(t)'
    )
    assert breaches(source) == []


def test_every_name_of_the_layout_is_in_its_lists():
    """A name that is added to the layout is guarded from then on."""
    texts = {v for k, v in vars(layout).items() if k.isupper() and not k.startswith("_") and isinstance(v, str)}
    assert texts == {*NAMES, *FOLDERS, *layout.PREFIXES}
    assert set(layout.FOLDERS) < FOLDERS
