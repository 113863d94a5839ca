"""Files and folders that have a temporary name until they are complete, ``.NAME.xxxxxxxx.tmp``.

The writing process locks them. So the next writer of ``NAME`` can tell those of killed processes,
which it removes, from those that are in use.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.folder_lock import locked, opened


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


@contextlib.contextmanager
def new_folder(path: str | Path, option: str, ours: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block succeeds.

    After an error or Ctrl-C nothing is left, neither the folder nor parents created for it.

    Args:
        path: of the new folder; an empty folder may be there.
        option: name of the option that gave ``path``, for the error.
        ours: files that will be written. A folder with no other files, as the same command has left
            it before, is replaced.

    Raises:
        IceprobeError: if there is something else at ``path``.
    """
    final = Path(path).expanduser().resolve()
    if final.exists() and not final.is_dir():
        raise IceprobeError(f"{option} {str(path)!r} is a file: name a new folder")
    present = _files(final)
    if not present <= set(ours):
        raise IceprobeError(
            f"{option} {str(path)!r} is not empty: name a new folder, or remove what is there"
        )
    made = [parent for parent in final.parents if not parent.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(final) as temporary:
            yield temporary
            if present:
                with temporary_folder(final) as aside:
                    os.replace(final, aside / "before")
                    _put(temporary, final, option)
            else:
                _put(temporary, final, option)
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: somebody else uses it
            for parent in made:
                parent.rmdir()
        raise


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
    with contextlib.suppress(OSError), opened(path, os.O_RDONLY) as descriptor:
        if not locked(descriptor, path):
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
                descriptor = until.enter_context(opened(path, os.O_RDONLY))
                if not locked(descriptor, path):
                    continue  # removed by a sweep before it was locked
            except (FileNotFoundError, BlockingIOError):
                continue  # likewise
            except OSError:
                pass  # no locks: then no sweep removes anything either
            yield path
            return


def _put(temporary: Path, final: Path, option: str) -> None:
    try:
        os.replace(temporary, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise IceprobeError(
            f"{option} {str(final)!r} was written by another process meanwhile, and is left as it "
            "is: name another folder"
        ) from error


def _files(folder: Path) -> set[str]:
    """Files and empty folders in a folder, at any depth."""
    if not folder.is_dir():
        return set()
    inside = [path for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())]
    return {path.relative_to(folder).as_posix() for path in inside}
