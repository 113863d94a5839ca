"""A folder that appears whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.temporary import temporary_folder


@contextlib.contextmanager
def new_folder(path: str | Path, option: str, ours: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder to write into, which becomes ``path`` when the block ends well.

    After an error or Ctrl-C nothing is left, neither the folder nor parents made for it.

    Args:
        path: where it will be; may be there if it is empty.
        option: the one that it was given by, for the error.
        ours: files that are about to be written. A folder that holds nothing else, as the same
            command left it before, is replaced.

    Raises:
        IceprobeError: if something is there already.
    """
    final = Path(path).expanduser().resolve()
    if final.exists() and not final.is_dir():
        raise IceprobeError(f"{option} {str(path)!r} is a file: name a new folder")
    if not _files(final) <= set(ours):
        raise IceprobeError(
            f"{option} {str(path)!r} is not empty: name a new folder, or remove what is there"
        )
    made = [parent for parent in final.parents if not parent.exists()]
    replaces = bool(_files(final))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(final) as temporary:
            yield temporary
            if replaces:
                with temporary_folder(final) as aside:
                    os.replace(final, aside / "before")
                    _put(temporary, final, option)
            else:
                _put(temporary, final, option)
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: somebody else's work
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
    """What is in a folder at any depth: files, and folders that hold none."""
    if not folder.is_dir():
        return set()
    inside = [path for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())]
    return {path.relative_to(folder).as_posix() for path in inside}
