"""Fenced blocks of a Markdown page, and the commands in a block of shell."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: its file's name.
        line: of its opening fence, from 1.
        language: what stands behind the fence.
        text: what it holds.
        output: the `text` block that follows it with nothing but an empty line between, if one does.
    """

    page: str
    line: int
    language: str
    text: str
    output: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    lines = page.read_text().splitlines()
    found: list[tuple[Block, int]] = []  # with the line of the closing fence
    start: int | None = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if not fence:
            continue
        if start is None:
            start, language = number, fence[3].strip()
        elif not fence[3].strip():
            text = "".join(f"{line}\n" for line in lines[start + 1 : number])
            found.append((Block(page.name, start + 1, language, text), number))
            start = None
    assert start is None, f"{page.name}:{start}: a fence isn't closed"
    return [_with_output(found, at, lines) for at in range(len(found))]


def _with_output(found: list[tuple[Block, int]], at: int, lines: list[str]) -> Block:
    block, end = found[at]
    if at + 1 == len(found) or found[at + 1][0].language != "text":
        return block
    after = found[at + 1][0]
    if any(line.strip() for line in lines[end + 1 : after.line - 1]):
        return block
    return Block(block.page, block.line, block.language, block.text, after.text)


def commands(block: Block) -> Iterator[str]:
    """The commands of a block of shell, continued lines put together, comments left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=False, punctuation_chars=True)
        words.whitespace_split = True
        kept = list(words)
        special = [word for word in kept if set(word) <= set("();<>|&")]
        assert not special, f"{block.place}: {line!r} has {special[0]!r} for the shell: quote it"
        if kept:
            yield " ".join(kept)
