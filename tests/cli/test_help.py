"""``iceprobe help``: pages of the guide, commands, and what is neither."""

import io
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from iceprobe.cli import help as module
from iceprobe.cli.app import GROUPS
from iceprobe.cli.console import _Outlet
from iceprobe.cli.help import TOPICS, without_links

ROOT = Path(__file__).parents[2]


def test_the_wheel_has_the_pages_of_all_topics_and_no_others():
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    forced = hatch["targets"]["wheel"]["force-include"]
    assert forced == {f"docs/{page}.md": f"iceprobe/docs/{page}.md" for page in TOPICS.values()}
    assert all((ROOT / page).is_file() for page in forced)


def test_help_lists_topics_and_commands(iceprobe):
    out = iceprobe("help").out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert set(TOPICS) | {name for group in GROUPS.values() for name in group} <= set(lines)
    assert lines["data"].split(None, 1)[1] == "Your own data"
    assert not set(TOPICS) & {name for group in GROUPS.values() for name in group}


@pytest.mark.parametrize("name", TOPICS)
def test_a_piped_page_is_the_guides_without_its_links(iceprobe, name):
    ended = iceprobe("help", name)
    page = (ROOT / f"docs/{TOPICS[name]}.md").read_text()
    assert ended.out.splitlines()[0] == page.splitlines()[0]
    assert "\x1b" not in ended.out
    for gone in ("<!--", ".md)", "]("):
        assert gone not in ended.out.replace("](http", "")
    for block in page.split("```")[1::2]:
        assert block in ended.out  # code as it is


def test_a_commands_help_is_its_own(iceprobe):
    assert iceprobe("help", "run").out == iceprobe("run", "--help").out
    assert "--grid" in iceprobe("help", "ls").out


def test_a_wrong_topic_is_answered_by_the_nearest(iceprobe):
    ended = iceprobe("help", "tokns")
    assert (ended.code, ended.out) == (2, "")
    assert "unknown topic or command 'tokns'. Did you mean tokens " in ended.err
    assert iceprobe("help", "Command_Line").code == 0


def test_links_become_topics_at_the_end():
    text = "# A\n\n[x](data.md#y), [z](https://a.b), [n](notthere.md), [self](#a)\n\n![p](p.png)\n"
    assert without_links("tour", text) == (
        "# A\n\nx, [z](https://a.b), n, self\n\n*(A picture: p.)*\n\n---\n\nSee also `iceprobe help` data."
    )


@pytest.mark.parametrize(("pager", "colour"), [("less", True), ("cat", False), (None, True)])
def test_a_terminal_has_it_in_its_pager(iceprobe, monkeypatch, pager, colour):
    monkeypatch.delenv("PAGER", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if pager:
        monkeypatch.setenv("PAGER", pager)
    shown: list[str] = []
    monkeypatch.setattr("pydoc.pager", shown.append)
    terminal = _Outlet(file=io.StringIO(), force_terminal=True, width=60, color_system="standard")
    monkeypatch.setattr(module, "console", terminal)
    assert iceprobe("help", "trouble").code == 0
    (page,) = shown
    assert ("\x1b[" in page) == colour
    plain = Console(width=60, color_system=None)
    with plain.capture() as captured:
        plain.print(page)
    assert "When something goes wrong" in captured.get()


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from iceprobe.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for arguments in (["help"], ["help", "data"], ["help", "run"]):
        subprocess.run(
            [sys.executable, "-c", script, *arguments], check=True, capture_output=True, env=env
        )
