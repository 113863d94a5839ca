"""A folder that appears whole or not at all."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from iceprobe.errors import IceprobeError


@contextlib.contextmanager
def new_folder(path: str | Path, option: str) -> Iterator[Path]:
    """A temporary folder to write into, which becomes ``path`` when the block ends well.

    After an error or Ctrl-C nothing is left, neither the folder nor parents made for it.

    Args:
        path: where it will be; may be there if it is empty.
        option: the one that it was given by, for the error.

    Raises:
        IceprobeError: if something is there already.
    """
    final = Path(path).expanduser().resolve()
    if final.exists() and not final.is_dir():
        raise IceprobeError(f"{option} {str(path)!r} is a file: name a new folder")
    if final.is_dir() and any(final.iterdir()):
        raise IceprobeError(
            f"{option} {str(path)!r} is not empty: name a new folder, or remove what is there"
        )
    made = [parent for parent in final.parents if not parent.exists()]
    temporary = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        try:
            os.replace(temporary, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise IceprobeError(
                f"{option} {str(path)!r} was written by another process meanwhile, and is left as "
                "it is: name another folder"
            ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: somebody else's work
            for parent in made:
                parent.rmdir()
        raise
