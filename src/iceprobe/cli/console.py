"""What the terminal shows: bars or lines, and tables, go to stdout, errors alone to stderr."""

import logging
import textwrap
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from iceprobe.core.text import visible
from iceprobe.machine import progress


class _Outlet(Console):
    """Shows names from data as they are spelled: no control character of theirs gets through.

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


def below(text: str) -> None:
    """Print what belongs to the line before, set in by two."""
    for line in text.splitlines():
        for part in textwrap.wrap(
            line,
            console.width,
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        ):
            console.print(part, markup=False, soft_wrap=True)


class Said(logging.Handler):
    """Warnings of iceprobe on the terminal, above the bars."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:  # errors go to stderr, at the end
            console.print(record.getMessage(), style="yellow", markup=False, soft_wrap=True)


class Bars(progress.Bars):
    """Bars, or lines, of a command's stages."""

    def __init__(self) -> None:
        super().__init__(console)
