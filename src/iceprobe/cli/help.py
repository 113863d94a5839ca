"""``iceprobe help``: pages of the guide in the terminal, and the help of a command."""

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from iceprobe.cli.console import answers, console
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown

#: Topic → its page in docs/; pyproject.toml puts these pages into the wheel.
TOPICS = {
    "start": "index", "install": "install", "tour": "tour", "backbones": "backbones", "data": "data", "bags": "bags",
    "tokens": "tokens", "tasks": "tasks", "images": "images", "clips": "clips", "sound": "sound",
    "choosing": "choosing", "protocols": "protocols", "coordinates": "coordinates",
    "reading": "report", "asking": "asking", "segmentation": "segmentation",
    "measures": "measures", "adaptation": "adaptation", "cluster": "cluster", "probes": "probes",
    "files": "files", "assumptions": "assumptions", "trust": "trust", "trouble": "trouble",
    "first-look": "first_look", "training-loops": "training_loops", "logging": "logging",
    "command-line": "command_line", "published": "published", "publishing": "publishing",
    "versions": "versions",
}  # fmt: skip
_WIDEST = 100  # columns: longer lines are hard to read

# What the guide's pages have and a terminal hasn't, and what stands in its place.
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]*\)(?:\{[^}]*\})?")
_PAGE_LINK = re.compile(r"\[([^\]]+)\]\((?!\w+://)([\w-]*)(?:\.md)?(?:#[^)]*)?\)")


def help(
    context: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(help="A topic or a command; the list of them if left out."),
    ] = None,
) -> None:
    """Show a page of the guide, or the help of a command.

    A page is shown in the pager of the terminal (PAGER), without colours if NO_COLOR is set; where the output
    is piped it is Markdown.

    \\b
    Examples:
      iceprobe help
      iceprobe help tokens
      iceprobe help trouble
      iceprobe help run
    """
    root = context.find_root()
    commands: dict[str, Any] = root.command.commands  # type: ignore[attr-defined]
    if topic is None:
        _show_list(commands)
    elif topic in commands:
        root.command.main([topic, "--help"], standalone_mode=False, prog_name=root.info_name)
    elif (name := topic.lower().replace("_", "-")) in TOPICS:
        _show_page(name)
    else:
        raise IceprobeError(unknown("topic or command", topic, [*TOPICS, *commands]))


def _show_list(commands: Mapping[str, Any]) -> None:
    titles = {name: _page(name).partition("\n")[0].lstrip("# ") for name in TOPICS}
    about = {name: (one.help or "").partition("\n")[0] for name, one in commands.items()}
    listed = [{"name": name, "title": title} for name, title in titles.items()]
    if answers("topics", listed):
        answers("commands", [{"name": name, "title": title} for name, title in about.items()])
        return
    for title, entries in (("Topics", titles), ("Commands", about)):
        console.print(Text(title, style="bold underline"))
        widest = max(map(len, entries)) + 2
        for name, line in entries.items():
            console.print(Text(f"{name:{widest}}", style="bold").append(line, style="not bold"))
        console.print()
    console.print("iceprobe help TOPIC shows a page, iceprobe help COMMAND what it takes.")


def _show_page(name: str) -> None:
    text = _page(name)
    if answers("topics", [{"name": name, "title": text.partition("\n")[0][2:], "text": text}]):
        return
    text = without_links(name, text)
    if not console.is_terminal:
        console.print(Text(text), soft_wrap=True)
        return
    from rich.markdown import Markdown

    page = Markdown(text, hyperlinks=False, code_theme="ansi_dark")
    # less gets what git gives it: colours, no wait where the page fits, the page stays when it ends.
    os.environ.setdefault("LESS", "FRX")
    with console.pager(styles="less" in os.environ.get("PAGER", "less")):
        console.print(page, width=min(console.width, _WIDEST), overflow="fold", crop=True)


def without_links(name: str, text: str) -> str:
    """A page of the guide as Markdown for a terminal: below it the topics that its links lead to."""
    topic_of = {page: topic for topic, page in TOPICS.items()}
    linked = dict.fromkeys(
        topic_of[page] for _, page in _PAGE_LINK.findall(text) if page in topic_of
    )
    text = _COMMENT.sub("", text)
    text = _PICTURE.sub(lambda found: f"*(A picture: {found[1]}.)*" if found[1] else "", text)
    text = _PAGE_LINK.sub(r"\1", text)
    if others := ", ".join(topic for topic in linked if topic != name):
        text = f"{text.rstrip()}\n\n---\n\nSee also `iceprobe help` {others}."
    return text


def _page(name: str) -> str:
    return (_folder() / f"{TOPICS[name]}.md").read_text(encoding="utf-8")


def _folder() -> Traversable:
    """The pages in the wheel, or in the checkout that is installed as it lies."""
    packed = files("iceprobe") / "docs"
    checkout = Path(__file__).parents[3] / "docs"
    if packed.is_dir() or not checkout.is_dir():
        return packed
    return checkout
