"""The terminal: progress and tables go to stdout, errors alone to stderr."""

import logging
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from iceprobe.core.text import visible
from iceprobe.machine import progress
from iceprobe.results.terminal import Column, TerminalTable

T = TypeVar("T")


class _Outlet(Console):
    """Escapes control characters in names that come from data.

    Lines break between words alone: a word longer than the terminal is wide stays in one piece.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **{"overflow": "ignore", "crop": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


console = _Outlet(highlight=False)


def say(text: object, style: str | None = None) -> None:
    """Print a text as it is: without markup, and without line breaks at the terminal's width."""
    console.print(str(text), style=style, markup=False, soft_wrap=True)


def below(text: str) -> None:
    """Print details of the line before, indented by two."""
    for line in text.splitlines():
        for part in textwrap.wrap(
            line,
            console.width,
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        ):
            say(part)


def table_of(
    items: Sequence[T], cells: Sequence[tuple[Column, Callable[[T], str]]], title: str | None = None
) -> TerminalTable:
    """A table with one row per item; each column comes with the function that makes its cells."""
    rows = [[text(one) for _, text in cells] for one in items]
    return TerminalTable([column for column, _ in cells], rows, title)


class Said(logging.Handler):
    """Warnings of iceprobe on the terminal, above the bars."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:  # errors go to stderr, at the end
            say(record.getMessage(), style="yellow")


class Bars(progress.Bars):
    """Progress bars, or lines, of a command's stages."""

    def __init__(self) -> None:
        super().__init__(console)
