"""What the terminal shows: bars or lines, and tables, go to stdout, errors alone to stderr."""

import logging
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from iceprobe import progress
from iceprobe.text import visible


class _Outlet(Console):
    """Shows names from data as they are spelled: no control character of theirs gets through."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


console = _Outlet(highlight=False)


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
