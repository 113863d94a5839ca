"""Files that are replaced as a whole."""

from collections.abc import Iterable
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.temporary import temporary_file


def check_replaceable(path: Path, option: str = "output") -> None:
    """Raise an `IceprobeError` if ``path`` is no file: as root, a rename could replace a device."""
    if path.exists() and not path.is_file():
        what = "a folder: name a file in it" if path.is_dir() else "no file: name another"
        raise IceprobeError(f"{option} {str(path)!r} is {what}")


def write_atomically(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write ``content``, whole or in parts, so that a reader sees the old file or the whole new one.

    Raises:
        IceprobeError: if there is something else than a file at ``path``, such as a device.
        OSError: with ``path`` as its file name, which that of a full disk lacks; no part is left.
    """
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as file:
            for part in [content] if isinstance(content, bytes) else content:
                file.write(part)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise
