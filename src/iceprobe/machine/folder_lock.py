"""One writer a folder. The lock is the kernel's, so a process that died holds none."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.machine import file_locks as flock

_NAME = ".lock"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make ``folder`` if needed and hold its lock; leave no lock file, and no empty folder, behind.

    Raises:
        IceprobeError: if another process holds it, saying which.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    owner = os.getpid()
    with _acquired(folder):
        try:
            yield
        finally:
            if os.getpid() == owner:
                # Before it is released: whoever waits sees that it is gone.
                (folder / _NAME).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty: there is a store in it
                    for made_here in made:
                        made_here.rmdir()


def sweep(folder: Path) -> None:
    """Remove the lock file of a writer that was killed after its last file."""
    if (folder / _NAME).exists():
        with contextlib.suppress(IceprobeError), exclusive(folder):  # still held: not ours
            pass


@contextlib.contextmanager
def _acquired(folder: Path) -> Iterator[None]:
    path = folder / _NAME
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as until:
            try:
                descriptor = until.enter_context(flock.opened(path, os.O_RDWR | os.O_CREAT))
            except FileNotFoundError:
                continue  # its last owner has just removed the empty folder
            try:
                if not flock.locked(descriptor, path):
                    continue  # its last owner removed the file between our open and our lock
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
