"""The terminal: progress and tables go to stdout, errors alone to stderr.

With ``--json`` a program reads stdout, and what is said to people goes to stderr. With ``--quiet`` only
tables, paths and warnings are said.
"""

import contextlib
import logging
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, Self, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from iceprobe.cli.answer import Answer
from iceprobe.core.text import duration, visible
from iceprobe.machine import progress
from iceprobe.machine.object_storage import RemotePath
from iceprobe.results.terminal import Column, TerminalTable

SECONDS_TO_FIRST_SIGN = 1.2  # and what Python takes to begin: two seconds in all

T = TypeVar("T")


class _Outlet(Console):
    """Escapes control characters in names that come from data.

    Lines break between words alone: a word longer than the terminal is wide stays in one piece.

    Attributes:
        answer: the document that tables go to, where a program reads them.
        brief: whether what is said on the way isn't shown.
        began: when the command, or what it is `at_work` on, began, on the monotonic clock.
        said: when something was printed, signs of life aside.
        signed: what the last sign of life named, and when it was given.
        doing: what it is `at_work` on; of other work that isn't known.
        watched: whether `Bars` report the stages.
    """

    answer: Answer | None = None
    brief: bool = False
    began: float | None = None
    said: float = 0.0
    signed: tuple[str, float] = ("", 0.0)
    doing: str | None = None
    watched: bool = False

    def print(self, *objects: Any, **options: Any) -> None:
        self.said = time.monotonic()
        if self.answer is not None and not self.quiet:
            for table in (one for one in objects if isinstance(one, TerminalTable)):
                self.answer.add(table.name, table.entries)
                for note in table.notes:
                    self.answer.note(note)
            objects = tuple(one for one in objects if not isinstance(one, TerminalTable))
            if not objects:
                return
        super().print(*objects, **{"overflow": "ignore", "crop": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


console = _Outlet(highlight=False)


@contextlib.contextmanager
def answering(command: str, *, as_json: bool, quiet: bool) -> Iterator[None]:
    """What ``command`` says goes where ``--json`` and ``--quiet`` want it.

    The document is printed at its end, after an error too if tables were there before it: as on a terminal.
    """
    was = console.is_interactive
    console.brief = quiet
    if as_json:
        console.answer, console.stderr = Answer(command), True
        console.is_interactive = console.is_terminal and not console.is_dumb_terminal
    finished = False
    try:
        with _signs():
            yield
        finished = True
    finally:
        answer, console.answer = console.answer, None
        console.brief, console.stderr, console.is_interactive = False, False, was
        if answer is not None and not console.quiet and (finished or not answer.empty):
            print(answer, flush=True)


def sign(now: float) -> str | None:
    """What is to be said of a command outside of its stages: a sign of life soon after it has begun, or has last
    said something else, then one every 30 seconds."""
    assert console.began is not None
    torch = sys.modules.get("torch")
    loading = torch is not None and getattr(torch.__spec__, "_initializing", False)
    since = max(console.began, console.said)
    what = console.doing or ("preparing" if since == console.began else "going on")
    what = "loading torch" if loading else what
    named, given = console.signed
    again = named == what and given >= since
    due = progress.SECONDS_BETWEEN_LINES if again else SECONDS_TO_FIRST_SIGN
    if console.watched or now - max(since, given) < due:
        return None
    console.signed = (what, now)
    return f"{what}: at work for {duration(now - console.began)}"


@contextlib.contextmanager
def at_work(what: str) -> Iterator[None]:
    """Work without stages: a spinner in a terminal, elsewhere its signs of life name it."""
    before = console.began, console.doing
    console.began, console.doing = time.monotonic(), what
    try:
        with console.status(what):
            yield
    finally:
        console.began, console.doing = before


@contextlib.contextmanager
def _signs() -> Iterator[None]:
    """Signs of life of a command whose output isn't a terminal, on stderr: stdout has its answer."""
    if console.is_terminal or console.brief or console.quiet:
        yield
        return
    end = threading.Event()
    console.began = time.monotonic()

    def tell() -> None:
        while not end.wait(progress.SECONDS_BETWEEN_TICKS):
            if (line := sign(time.monotonic())) is not None:
                print(line, file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, name="signs", daemon=True)
    teller.start()
    try:
        yield
    finally:
        end.set()
        teller.join()
        console.began = None


def say(text: object, style: str | None = None) -> None:
    """Print a text as it is: without markup, and without line breaks at the terminal's width.

    A path is part of the answer. Other texts are said on the way, and not with ``--quiet``.
    """
    if isinstance(text, PurePath | RemotePath):
        wrote(text)
    elif not console.brief:
        _print(str(text), style)


def wrote(path: object, what: str = "") -> None:
    """Print the path of a file or folder that is part of the answer, with what is in it."""
    if console.answer is None:
        _print(f"{path}: {what}" if what else str(path))
    elif not console.quiet:
        console.answer.wrote(path)


def _print(text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, soft_wrap=True)


def note(text: str, style: str | None = None) -> None:
    """Print what qualifies the numbers: part of the answer, on stderr with ``--quiet``."""
    if console.answer is not None and not console.quiet:
        console.answer.note(text)
    if console.brief:
        if not console.quiet:
            print(visible(text), file=sys.stderr)
    else:
        say(text, style)


def answers(name: str, entries: Iterable[object]) -> bool:
    """Whether a program reads the answer; then ``entries`` are in its document, and nothing is to be printed."""
    if console.answer is None:
        return False
    if not console.quiet:
        console.answer.add(name, entries)
    return True


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
            _print(part)


def table_of(
    items: Sequence[T],
    cells: Sequence[tuple[Column, Callable[[T], str]]],
    title: str | None = None,
    name: str = "rows",
    made_of: Sequence[object] | None = None,
) -> TerminalTable:
    """A table with one row per item; each column comes with the function that makes its cells.

    For programs it is a list ``name`` of the items, or of what else it is ``made_of``.
    """
    rows = [[text(one) for _, text in cells] for one in items]
    entries = items if made_of is None else made_of
    return TerminalTable([column for column, _ in cells], rows, title, name=name, made_of=entries)


class Said(logging.Handler):
    """Warnings of iceprobe on the terminal, above the bars."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:  # errors go to stderr, at the end
            note(record.getMessage(), style="yellow")


class Bars(progress.Bars):
    """Progress bars, or lines, of a command's stages; with ``--quiet`` only the log has them."""

    def __init__(self, *, transient: bool = False) -> None:
        nowhere = Console(quiet=True, force_interactive=False)
        super().__init__(nowhere if console.brief else console, transient=transient)
        if console.began is not None:
            self._lines.quiet_since(max(console.began, console.said, console.signed[1]))

    def __enter__(self) -> Self:
        console.watched = True
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        console.watched, console.said = False, time.monotonic()
