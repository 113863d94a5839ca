"""Progress of a stage: a bar in a terminal or a notebook, otherwise a line from time to time.

Every stage takes ``progress(stage, done, total)``. The command line passes its own `Bars`. A call
from Python without ``progress`` shows a bar in a terminal or a notebook; with ``False`` it shows
nothing. Wherever progress is shown, lines go to the log too.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from iceprobe.core.text import duration
from iceprobe.machine.processes import world

P = ParamSpec("P")
R = TypeVar("R")
ProgressCallback = Callable[[str, int, int], None]

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_TICKS = 0.2
SECONDS_TO_SIGN = (
    1.7  # before a line of a stage, or of what precedes it, that has had none; with a tick 2
)
SECONDS_TO_ESTIMATE = 2.0  # before a stage's estimate; a shorter stage has one line, at its end
log = logging.getLogger("iceprobe")
_inside: ContextVar[bool] = ContextVar("inside", default=False)


@dataclass
class _Stage:
    """Begin and position of a stage: monotonic times, and steps done."""

    name: str
    began: float
    first: tuple[float, int]
    last: tuple[float, int]
    total: int
    estimated: bool = False
    told: bool = False  # whether it had a line
    ended: bool = False

    def line(self) -> str:
        return f"{self.name}: {self.last[1]:,}/{self.total:,}"

    def left(self) -> float | None:
        """Seconds left, at the pace since the first call; ``None`` without one."""
        steps = self.last[1] - self.first[1]
        if steps <= 0:
            return None
        return (self.total - self.last[1]) * (self.last[0] - self.first[0]) / steps

    def wants_estimate(self) -> bool:
        """Whether an estimate is due: it is possible, and none was given."""
        long_enough = self.last[0] - self.began >= SECONDS_TO_ESTIMATE
        return not self.estimated and long_enough and self.left() is not None


class Lines:
    """``say`` each stage's estimate, its progress every 30 s, and its duration, a line each.

    What has had no line yet has one within 2 s.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._stages: dict[str, _Stage] = {}
        self._now: _Stage | None = None
        self._before, self._told = "preparing", False
        self._began = self._said = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            now = time.monotonic()
            found = self._stages.get(stage)
            if found is not None and found.ended and done >= total:
                return
            if found is None or found.ended:
                since = self._began if self._now is None and not self._told else now
                found = self._stages[stage] = _Stage(stage, since, (now, done), (now, done), total)
            self._now = found
            found.last, found.total = (now, done), total
            if done >= total:
                self._put(f"{found.line()} in {duration(now - found.began)}", now)
                found.ended = True
                self._now, self._before, self._began = None, f"after {stage}", now
                self._told = False
            elif found.wants_estimate() or now - self._said >= SECONDS_BETWEEN_LINES:
                self._tell(found, now)

    def quiet_since(self, moment: float) -> None:
        """Count silence from ``moment``; stages take their time from now."""
        self._said = moment

    def tick(self) -> None:
        """Give a line if there was none for 30 s, or none of what is done now; to be called regularly."""
        with self._lock:
            now = time.monotonic()
            told = self._told if self._now is None else self._now.told
            if now - self._said < (SECONDS_BETWEEN_LINES if told else SECONDS_TO_SIGN):
                return
            if self._now is not None:
                self._tell(self._now, now)
            else:
                self._put(f"{self._before}: at work for {duration(now - self._began)}", now)
                self._told = True

    def _tell(self, stage: _Stage, now: float) -> None:
        left = stage.left()
        stage.told = True
        stage.estimated |= left is not None
        estimate = "" if left is None else f", about {duration(left)} left"
        self._put(stage.line() + estimate, now)

    def _put(self, text: str, now: float) -> None:
        self._said = now
        self._say(text)


class Bars:
    """A bar per stage if ``console`` is a terminal or a notebook, otherwise lines.

    ``transient`` bars disappear at the end.
    """

    def __init__(self, console: Console, *, transient: bool = False) -> None:
        self._console, self._moving = console, can_move(console)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=transient,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lines = Lines(self._say)
        self._end = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)
        self._lines(stage, done, total)

    def _say(self, line: str) -> None:
        log.info("%s", line)
        if not self._moving:
            self._console.print(line, markup=False, soft_wrap=True)

    def _tick(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_TICKS):
            self._lines.tick()

    def __enter__(self) -> Self:
        if self._moving:
            self._progress.start()
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._ticker.join()
        if self._moving:
            self._progress.stop()


def can_move(console: Console) -> bool:
    """Whether a bar can be redrawn there."""
    return bool(console.is_interactive or console.is_jupyter)


def shows_progress(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose ``progress`` may also be left out or be a bool.

    Without it, process 0 shows a transient bar in a terminal or a notebook. ``True`` shows it
    anywhere, as lines if it can't be redrawn; ``False`` shows nothing. Nested calls show nothing of
    their own.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _shown(kwargs.get("progress")) as shown_in:
            return function(*args, **{**kwargs, "progress": shown_in})  # type: ignore[arg-type]

    return run


def timed(
    progress: ProgressCallback | None,
    stages: Collection[str],
    expected: Callable[[float], None],
) -> ProgressCallback:
    """``progress`` that also estimates, once, a stage's duration by its second and third step.

    Args:
        progress: called as before, if there is one.
        stages: first words of stage names; the first of these stages to begin is measured.
        expected: called with the estimated seconds of the whole stage.
    """
    measured: str | None = ""
    began = 0.0

    def step(stage: str, done: int, total: int) -> None:
        nonlocal measured, began
        if progress is not None:
            progress(stage, done, total)
        if measured == "" and done == 1 and stage.partition(" ")[0] in stages:
            measured, began = stage, time.monotonic()
        elif stage == measured and done == 3:
            seconds, measured = (time.monotonic() - began) / 2 * total, None
            expected(seconds)

    return step


def callback(progress: ProgressCallback | bool | None) -> ProgressCallback | None:
    """``progress`` inside a function with `shows_progress`, which has replaced bools."""
    return None if isinstance(progress, bool) else progress


@contextlib.contextmanager
def _shown(progress: Any) -> Iterator[ProgressCallback | None]:
    shown: contextlib.AbstractContextManager[ProgressCallback | None]
    shown = contextlib.nullcontext(progress or None)
    if (progress is None and not _inside.get()) or progress is True:
        console = Console(stderr=True)
        wanted = world().main and (progress or can_move(console))
        shown = Bars(console, transient=True) if wanted else contextlib.nullcontext(None)
    with shown as shown_in:
        token = _inside.set(True)
        try:
            yield shown_in
        finally:
            _inside.reset(token)
