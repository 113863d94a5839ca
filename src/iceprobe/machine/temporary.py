"""Files and folders with a temporary name until they are complete, ``.NAME.xxxxxxxx.tmp``.

The writing process locks them. So the next writer of ``NAME`` can tell those of killed processes,
which it removes, from those that are in use.
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
    """A file to write, which replaces ``final``, synced to disk, at the end of the block.

    After an error it is removed, and ``final`` is unchanged.
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
    """A folder beside ``final``, removed after the block unless it was renamed."""
    sweep(final)
    with _locked(final, folder=True) as path:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def sweep(final: Path) -> None:
    """Remove the temporaries of ``final`` whose writers are gone."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.[0-9a-f]{{8}}\.tmp")
    try:
        with os.scandir(final.parent) as entries:
            left = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:
        return  # no such folder, or it can't be listed
    for path in left:
        remove_unless_locked(path)


def remove_unless_locked(path: Path) -> None:
    """Remove a file or folder whose writer is gone, if the file system has locks."""
    with contextlib.suppress(OSError), flock.opened(path, os.O_RDONLY) as descriptor:
        if not flock.locked(descriptor, path):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@contextlib.contextmanager
def _locked(final: Path, *, folder: bool) -> Iterator[Path]:
    """A new temporary of ``final``, locked if the file system has locks."""
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
                    continue  # removed by a sweep before it was locked
            except (FileNotFoundError, BlockingIOError):
                continue  # likewise
            except OSError:
                pass  # no locks: then no sweep removes anything either
            yield path
            return
