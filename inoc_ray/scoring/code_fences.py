"""Splits a response into prose and fenced code by its lines, as CommonMark does (spec 0.31, section 4.5)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPENING = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([\w+.-]*)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language as written, in lower case (often empty), and its text."""

    language: str
    code: str


def split_fences(text: str) -> tuple[str, list[Block]]:
    """Return the text without its fenced blocks, and the blocks. A block that is never closed reaches to the end.

    Accepts fences that are indented more than CommonMark allows, because models fence code inside lists. Takes time linear in
    the text's length.
    """
    prose: list[str] = []
    blocks: list[Block] = []
    lines: list[str] = []
    mark = language = ""
    for line in text.splitlines():
        if mark:
            bare = line.strip()
            if len(bare) >= len(mark) and not bare.strip(mark[0]):
                blocks.append(Block(language, "\n".join(lines)))
                mark = ""
            else:
                lines.append(line)
        elif (opening := _OPENING.match(line)) and "`" not in line[opening.end() :]:
            mark, language = opening[1], opening[2].lower()
            lines = []
        else:
            prose.append(line)
    if mark:
        blocks.append(Block(language, "\n".join(lines)))
    return "\n".join(prose), blocks
