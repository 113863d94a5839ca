"""Paths that a command will write to, checked before the work and not after it."""

import os
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.core.trust import name_hosts
from iceprobe.machine.files import check_replaceable
from iceprobe.machine.object_storage import is_remote


def check_place(path: Path, option: str) -> Path:
    """See that ``path`` is a folder, or that names on the way allow one; nothing is made here.

    Args:
        path: what was given.
        option: the one that it was given by, for the error.

    Returns:
        The path itself or the nearest parent that is there.

    Raises:
        IceprobeError: if a file is in the way, or a name is too long.
    """
    place = path
    try:
        while not place.exists() and not place.is_symlink():
            place = place.parent
    except OSError as error:
        raise IceprobeError(
            f"{option} {str(path)!r}: {error.strerror}; choose another {option}"
        ) from error
    if not place.is_dir():
        what = "is no folder" if place == path else f"lies below {str(place)!r}, which is no folder"
        raise IceprobeError(f"{option} {str(path)!r} {what}: choose another {option}")
    longest = os.pathconf(place, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in path.parts):
        raise IceprobeError(
            f"{option} {str(path)!r}: a name is longer than {longest} bytes; choose another {option}"
        )
    return place


def check_features(path: Path, option: str) -> None:
    """See that stores can lie in ``path``: a folder, or a URL of object storage.

    Raises:
        IceprobeError: as :func:`check_place`, for a folder.
    """
    if is_remote(path):
        name_hosts(str(path))
    else:
        check_place(path, option)


def check_file(path: Path, option: str) -> None:
    """See that a file can be put at ``path``: where nothing is yet, or a file.

    Raises:
        IceprobeError: if something else is there, or the folder can't be written to.
    """
    check_replaceable(path, option)
    check_writable(path.parent, option)


def check_writable(path: Path, option: str) -> None:
    """See that the folder ``path`` can be written to, or made; nothing is made here.

    Raises:
        IceprobeError: if it can't.
    """
    place = check_place(path, option)
    if not os.access(place, os.W_OK | os.X_OK):
        raise IceprobeError(
            f"{option} {str(path)!r}: {str(place)!r} may not be written to; choose another {option}"
        )
