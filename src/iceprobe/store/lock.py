"""One writer a folder. The lock is the kernel's, so a process that died holds none."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from iceprobe.errors import IceprobeError

_NAME = ".lock"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make ``folder`` if needed and hold its lock; leave no lock file, and no empty folder, behind.

    Raises:
        IceprobeError: if another process holds it, saying which.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    descriptor = _acquire(folder)
    try:
        yield
    finally:
        (folder / _NAME).unlink()  # before it is released: whoever waits sees that it is gone
        os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty: there is a store in it
            for made_here in made:
                made_here.rmdir()


def sweep(folder: Path) -> None:
    """Remove the lock file of a writer that was killed after its last shard."""
    if (folder / _NAME).exists():
        with contextlib.suppress(IceprobeError), exclusive(folder):  # still held: not ours
            pass


def _acquire(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # its last owner has just removed the empty folder
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(descriptor, folder / _NAME):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except BlockingIOError:
            owner = os.pread(descriptor, 500, 0).decode(errors="replace")
            os.close(descriptor)
            raise IceprobeError(
                f"another process is writing to {folder}{owner and f' ({owner})'}: wait for it to "
                "end, or end it"
            ) from None
        os.close(descriptor)  # its last owner removed the file between our open and our lock


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
