"""Locks on open files by the kernel (`flock`), which end with the process that took them.

A forked child shares its parent's open files and would keep the locks after the parent's death;
close-on-exec doesn't help, as the child calls no exec. So a child closes these files first. (Closing
isn't unlocking: the parent's lock stays.)
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_guard = threading.Lock()  # a fork waits for it, so that a child knows all descriptors
_open: set[int] = set()


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """``path``, open for a lock until the end of the block; a forked child closes it at once."""
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
    """Lock an open file or folder; False if ``path`` was removed in the meantime.

    Raises:
        BlockingIOError: if another process has the lock.
        OSError: if the file system has no locks.
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
