"""Signals that stop the work: at once, or as soon as it can be saved.

SIGINT (Ctrl-C), SIGTERM (from a scheduler) and SIGUSR1 (its early warning) mean the same. Only the
command line catches them, not the library.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from iceprobe.machine.processes import world

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """A ``signal`` ends the program; ``exit_code`` is 128 + its number, as in shells."""

    def __init__(self, number: int):
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number
        super().__init__(f"stopped by {self.signal.name}")


class _State:
    patience = 0  # nested blocks of `saving_first`
    asked: int | None = None  # the signal that waits


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Let the signals raise :class:`Stopped` in the block; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    try:
        yield
    finally:
        _State.asked = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def saving_first() -> Iterator[None]:
    """In the block, a first signal waits for :func:`stop_if_asked`; a second one doesn't.

    With several processes it doesn't wait: they would have to agree on the step to stop at.
    """
    waits = world().size == 1
    _State.patience += waits
    try:
        yield
    finally:
        _State.patience -= waits


def asked() -> bool:
    """Whether a signal waits."""
    return _State.asked is not None


def stop_if_asked() -> None:
    """Raise :class:`Stopped` if a signal waits."""
    if _State.asked is not None:
        raise Stopped(_State.asked)


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.patience and _State.asked is None:
        _State.asked = number
    else:
        raise Stopped(number)
