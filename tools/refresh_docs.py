"""Run the commands shown in docs/*.md again and put their output below them (`make docs`).

    python tools/refresh_docs.py

A command is the first line of a `console` block, ``$ iceprobe …``; what follows it in the block is
its output on a terminal of 80 columns. So tables in the guide are never typed.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```console\n\$ iceprobe (.+)\n(?:.*\n)*?```$", re.MULTILINE)


def refreshed(text: str) -> str:
    """A page with the output of its commands as it is now."""
    return BLOCK.sub(lambda found: _block(found[1]), text)


def _block(arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "iceprobe", *shlex.split(arguments)],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    output = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    return f"```console\n$ iceprobe {arguments}\n{output}\n```"


def main() -> None:
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        if (again := refreshed(text)) != text:
            page.write_text(again)
            print(f"{page.name}: refreshed")


if __name__ == "__main__":
    main()
