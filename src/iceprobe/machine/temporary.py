"""Files and folders that have another name until they are whole, ``.NAME.xxxxxxxx.tmp``.

Each is locked by the process that writes it. So what a killed process left is known from what
another one is writing now, and whoever makes the same thing again removes the first and leaves the
second alone.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from iceprobe.machine import file_locks as flock


@contextlib.contextmanager
def temporary_file(final: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of ``final``, whole and on the disk, at the block's end.

    After an error nothing is left of it, and ``final`` is as it was.
    """
    sweep(final)
    with _locked(final, folder=False) as path:
        try:
            with path.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(path, final)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def temporary_folder(final: Path) -> Iterator[Path]:
    """A folder beside ``final``; who wants to keep it renames it within the block."""
    sweep(final)
    with _locked(final, folder=True) as path:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def sweep(final: Path) -> None:
    """Remove the temporaries of ``final`` that nobody writes any more."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.[0-9a-f]{{8}}\.tmp")
    try:
        with os.scandir(final.parent) as entries:
            left = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:
        return  # no such folder, or one that lists nothing: then nothing is in anybody's way
    for path in left:
        remove_unless_locked(path)


def remove_unless_locked(path: Path) -> None:
    """Remove a file or folder whose writer is gone. What can't be locked here is left where it is."""
    with contextlib.suppress(OSError), flock.opened(path, os.O_RDONLY) as descriptor:
        if not flock.locked(descriptor, path):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@contextlib.contextmanager
def _locked(final: Path, *, folder: bool) -> Iterator[Path]:
    """A new temporary of ``final``, locked where the file system can."""
    while True:
        path = final.parent / f".{final.name}.{secrets.token_hex(4)}.tmp"
        if folder:
            path.mkdir()
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        with contextlib.ExitStack() as until:
            try:
                descriptor = until.enter_context(flock.opened(path, os.O_RDONLY))
                if not flock.locked(descriptor, path):
                    continue  # swept by another between its making and its lock
            except (FileNotFoundError, BlockingIOError):
                continue  # likewise
            except OSError:
                pass  # no locks here: then nobody sweeps here either
            yield path
            return
