"""A new folder that is written as a whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.temporary import temporary_folder


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
