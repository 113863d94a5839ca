"""Checks of output paths before the work begins."""

import os
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.trust import name_hosts
from iceprobe.machine.files import check_replaceable
from iceprobe.machine.object_storage import is_remote


def check_place(path: Path, option: str) -> Path:
    """Check that ``path`` is a folder or can become one; nothing is created.

    Args:
        path: to check.
        option: the command line's name of it, for the error.

    Returns:
        The path itself or its nearest existing parent.

    Raises:
        IceprobeError: if a file is in the way, or a name is too long.
    """
    place = path
    try:
        while not place.exists() and not place.is_symlink():
            place = place.parent
    except OSError as error:
        raise _wrong(path, option, f": {error.strerror};") from error
    if not place.is_dir():
        below = "" if place == path else f" lies below {str(place)!r}, which"
        raise _wrong(path, option, f"{below} is no folder:")
    longest = os.pathconf(place, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in path.parts):
        raise _wrong(path, option, f": a name is longer than {longest} bytes;")
    return place


def check_features(path: Path, option: str) -> None:
    """Check that ``path`` can hold stores: a folder (:func:`check_place`), or a URL of object storage."""
    if is_remote(path):
        name_hosts(str(path))
    else:
        check_place(path, option)


def check_file(path: Path, option: str) -> None:
    """Check that a file can be written to ``path``: nothing is there, or a file.

    Raises:
        IceprobeError: if something else is there, or the folder can't be written to.
    """
    check_replaceable(path, option)
    check_writable(path.parent, option)


def check_writable(path: Path, option: str) -> None:
    """Check that the folder ``path`` can be written to, or created; nothing is created.

    Raises:
        IceprobeError: if it can't.
    """
    place = check_place(path, option)
    if not os.access(place, os.W_OK | os.X_OK):
        raise _wrong(path, option, f": {str(place)!r} may not be written to;")


def _wrong(path: Path, option: str, reason: str) -> IceprobeError:
    return IceprobeError(f"{option} {str(path)!r}{reason} choose another {option}")
