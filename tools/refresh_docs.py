"""Run what docs/*.md shows again and put its output below it (`make docs`).

    python tools/refresh_docs.py [PAGE.md …]

Three things are never typed:

- a `console` block begins with ``$ iceprobe …``; what follows is its output on a terminal of 80 columns;
- a `text` block right behind a `python` block is what that block prints. A page's blocks run in order
  in one namespace and an empty folder, and pictures that they leave there go to docs/;
- between ``<!-- demo -->`` and ``<!-- end -->`` stands the README's table of the demo.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONSOLE = re.compile(r"^```console\n\$ iceprobe (.+)\n(?:.*\n)*?```$", re.MULTILINE)
PYTHON = re.compile(r"^```python\n((?:.*\n)*?)```\n(?:\n```text\n((?:.*\n)*?)```\n)?", re.MULTILINE)
DEMO = re.compile(r"(?<=<!-- demo -->\n).*?(?=<!-- end -->)", re.DOTALL)
TABLE = re.compile(r"^\| probe \|.*\n(?:\|.*\n)+", re.MULTILINE)


def refreshed(text: str) -> str:
    """A page with the output of its commands, and the demo's table, as they are now."""
    text = CONSOLE.sub(lambda found: console(found[1]), text)
    return DEMO.sub(lambda _: _demo_table(), text)


def executed(text: str) -> str:
    """A page with the output of its Python blocks, run in the working folder up to the last that shows any."""
    blocks = list(PYTHON.finditer(text))
    shown = [number for number, found in enumerate(blocks) if found[2] is not None]
    names: dict[str, Any] = {"__name__": "page"}
    outputs = [_printed(found[1], names) for found in blocks[: max(shown, default=-1) + 1]]
    printed = iter(outputs)

    def again(found: re.Match[str]) -> str:
        output = next(printed, None)
        if found[2] is None or output is None:
            return found[0]
        return f"```python\n{found[1]}```\n\n```text\n{output}```\n"

    return PYTHON.sub(again, text)


def _printed(code: str, names: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, "<page>", "exec"), names)
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())


def console(arguments: str) -> str:
    """The block of ``$ iceprobe ARGUMENTS``."""
    done = subprocess.run(
        [sys.executable, "-m", "iceprobe", *shlex.split(arguments)],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    output = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
    return f"```console\n$ iceprobe {arguments}\n{output}\n```"


def small(picture: Path, to: Path) -> None:
    """A picture as pages show it: 1,240 pixels wide at most, in 256 colours."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    image.thumbnail((1240, 2000))
    # Few pixels of a colour of their own, a point of a chart, keep it.
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    few.save(to, optimize=True)


def _demo_table() -> str:
    found = TABLE.search((ROOT / "README.md").read_text())
    assert found, "README.md has no table of the demo"
    return f"\n{found[0]}\n"


@contextlib.contextmanager
def _empty_folder() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def main() -> None:
    asked = sys.argv[1:]
    for page in sorted(DOCS.glob("*.md")):
        if asked and page.name not in asked:
            continue
        text = page.read_text()
        with _empty_folder() as folder:
            again = executed(refreshed(text))
            for picture in folder.glob("*.png"):
                if f"]({picture.name})" in text:
                    small(picture, DOCS / picture.name)
        if again != text:
            page.write_text(again)
            print(f"{page.name}: refreshed")


if __name__ == "__main__":
    main()
