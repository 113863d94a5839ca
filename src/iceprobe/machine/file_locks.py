"""Locks of the kernel's on open files (`flock`): they die with the process that took them.

A forked child shares the open file of its parent, and would keep the lock alive after the parent's
death; close-on-exec is no help, since such a child executes nothing. So a child closes all of them
before it does anything else. (Closing is not unlocking: the parent's lock stays.)
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_guard = threading.Lock()  # a fork waits for it, so no lock's descriptor is inherited unseen
_open: set[int] = set()


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """``path`` open for a lock, until the end of the block; in a forked child it is closed at once."""
    with _guard:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        _open.add(descriptor)
    try:
        yield descriptor
    finally:
        with _guard:
            if descriptor in _open:  # not in a child, where the number may be another file's
                _open.remove(descriptor)
                os.close(descriptor)


def locked(descriptor: int, path: Path) -> bool:
    """Lock an open file or folder; False where ``path`` was removed in the meantime.

    Raises:
        BlockingIOError: if another process holds it.
        OSError: where the file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    global _guard
    _guard = threading.Lock()
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()


os.register_at_fork(
    before=lambda: _guard.acquire(),
    after_in_parent=lambda: _guard.release(),
    after_in_child=_forget,
)
