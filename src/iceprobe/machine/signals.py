"""Asked to stop by a signal: at once, or where the work at hand can be saved first.

SIGINT (Ctrl-C), SIGTERM (a scheduler's) and SIGUSR1 (its early warning) mean the same. The command
line catches them; the library alone leaves signals to its caller.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from iceprobe.machine.processes import world

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """Ends everything; no error.

    Attributes:
        signal: the one that asked for it.
        exit_code: 128 + its number, as shells say it.
    """

    def __init__(self, number: int):
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number
        super().__init__(f"stopped by {self.signal.name}")


class _State:
    patience = 0  # how many blocks ask for time to save
    asked: int | None = None


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Let the signals raise :class:`Stopped` in the block; Python allows it in the main thread."""
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
    """In the block a first signal waits for :func:`stop_if_asked`; a second one doesn't.

    Of several processes none waits: they would have to agree at which step to stop.
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
