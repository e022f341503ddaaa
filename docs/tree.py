"""Writes the tree in docs/architecture.md: every module of the package with the first sentence of its docstring.

`make reference` runs it; a test fails when the page is stale or a module has no docstring.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: begin -->\n", "<!-- tree: end -->"


def phrase(module: Path) -> str:
    """The first sentence of a module's docstring, without its full stop. Raises ValueError if there is none."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{module}: there is no docstring")
    return " ".join(re.split(r"(?<=[.?])\s(?=[A-Z`])|\n\n", text)[0].split()).rstrip(".")


def lines(folder: Path, depth: int = 0) -> list[str]:
    """The folder, its modules and its packages, each a line."""
    out = [f"{'  ' * depth}{folder.name + '/':<{28 - 2 * depth}} {phrase(folder / '__init__.py')}"]
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    out += [f"{'  ' * (depth + 1)}{path.name:<{26 - 2 * depth}} {phrase(path)}" for path in modules]
    for package in sorted(path.parent for path in folder.glob("*/__init__.py")):
        out += lines(package, depth + 1)
    return out


def page(text: str) -> str:
    """The page with the tree as the package has it now."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + "```\n" + "\n".join(lines(ROOT / "inoc_ray")) + "\n```\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
