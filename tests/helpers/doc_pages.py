"""The pages that users read, cut into what is tested: fenced blocks, commands, inline code, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "mlflow" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)


@dataclass(frozen=True)
class Command:
    """One command of a fenced block, on one line, without comment and without `.venv/bin/`."""

    page: Path
    line: str
    below: str
    """The block without a language right below the command's, which shows what it prints; empty where there is none."""


def fenced(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return _FENCED.findall(page.read_text())


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks in these languages."""
    return [text for language, text in fenced(page) if language in languages]


def spans(page: Path) -> list[str]:
    """What stands in `backquotes` in the running text, and in the cells of tables."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    paragraphs = re.split(r"\n\n|\n(?=\|)", text)
    return [re.sub(r"\s+", " ", span) for part in paragraphs for span in re.findall(r"`([^`]+)`", part)]


def commands(page: Path) -> list[Command]:
    """Every command of the page's `sh` blocks."""
    found = []
    for match in _FENCED.finditer(page.read_text()):
        language, text = match.groups()
        if language not in ("sh", "bash"):
            continue
        next_block = _FENCED.match(page.read_text()[match.end() :].lstrip("\n"))
        below = next_block[2] if next_block and not next_block[1] else ""
        for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
            bare = re.sub(r"\s+#\s.*$", "", line).strip().replace(".venv/bin/", "")
            if bare and not bare.startswith("#"):
                found.append(Command(page, bare, below))
    return found


def anchors(page: Path) -> set[str]:
    """The names under which the page's headings can be linked to, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def links(page: Path) -> list[str]:
    """The targets of the page's links and pictures that lead to files of the repository."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
