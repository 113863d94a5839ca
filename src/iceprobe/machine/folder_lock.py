"""One writer per folder, by a kernel lock, which ends with its process."""

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
    """Create ``folder`` if needed and lock it; afterwards remove the lock file and empty folders.

    Raises:
        IceprobeError: if another process has the lock, with its id and host.
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
                descriptor = until.enter_context(flock.opened(path, os.O_RDWR | os.O_CREAT))
            except FileNotFoundError:
                continue  # the last owner has just removed the empty folder
            try:
                if not flock.locked(descriptor, path):
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
