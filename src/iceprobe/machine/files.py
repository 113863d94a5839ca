"""Files that a reader never sees half-written."""

from collections.abc import Iterable
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.temporary import temporary_file


def check_replaceable(path: Path, option: str = "output") -> None:
    """See that nothing is at ``path``, or a file that may be replaced.

    A rename would put a file in the place of a device, which for root is everybody's.

    Raises:
        IceprobeError: if a folder, a device, a pipe or a socket is there.
    """
    if path.exists() and not path.is_file():
        what = "a folder: name a file in it" if path.is_dir() else "no file: name another"
        raise IceprobeError(f"{option} {str(path)!r} is {what}")


def write_atomically(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write ``content``, whole or in parts, so that a reader sees the old file or the whole new one, never a part.

    Raises:
        IceprobeError: if something is there that is no file, such as a device.
        OSError: naming ``path`` (a full disk's own names no file); nothing is left of it.
    """
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as file:
            file.writelines([content] if isinstance(content, bytes) else content)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise
