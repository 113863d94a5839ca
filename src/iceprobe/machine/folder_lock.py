"""Kernel locks (`flock`), which end with their process: of open files, and of folders.

A forked child shares its parent's open files and would keep the locks after the parent's death;
close-on-exec doesn't help, as the child calls no exec. So a child closes these files first.
(Closing isn't unlocking: the parent's lock stays.)
"""

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from iceprobe.core.errors import IceprobeError

_NAME = ".lock"
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


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Create ``folder`` if needed and lock it; afterwards remove the lock file and empty folders.

    It is an `IceprobeError` if another process has the lock.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    owner = os.getpid()
    with _acquired(folder):
        try:
            yield
        finally:
            if os.getpid() == owner:
                # Before the lock is released, so that a waiting process sees that it is gone.
                (folder / _NAME).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty: there is a store in it
                    for made_here in made:
                        made_here.rmdir()


def sweep(folder: Path) -> None:
    """Remove the lock file of a writer that was killed."""
    if (folder / _NAME).exists():
        with contextlib.suppress(IceprobeError), exclusive(folder):  # locked: in use
            pass


@contextlib.contextmanager
def _acquired(folder: Path) -> Iterator[None]:
    path = folder / _NAME
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as until:
            try:
                descriptor = until.enter_context(opened(path, os.O_RDWR | os.O_CREAT))
            except FileNotFoundError:
                continue  # the last owner has just removed the empty folder
            try:
                if not locked(descriptor, path):
                    continue  # the last owner removed the file between our open and our lock
            except BlockingIOError:
                owner = os.pread(descriptor, 500, 0).decode(errors="replace")
                raise IceprobeError(
                    f"another process is writing to {folder}{owner and f' ({owner})'}: wait for it "
                    "to end, or end it"
                ) from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
            return
