"""The images below a folder, here or on object storage: none is left out silently.

A folder that can't be read ends the listing with its name. Files that aren't read as images are
counted by their endings, for whoever says so. Hidden files and folders are left alone.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.files import one_line
from iceprobe.machine.object_storage import RemotePath

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

AnyPath = Path | RemotePath


def images_below(folder: AnyPath) -> tuple[list[str], list[str]]:
    """Paths of the images at any depth, sorted, and of the other files.

    Links are followed, but not into a folder they are in.

    Raises:
        IceprobeError: naming a folder that can't be read.
    """
    images: list[str] = []
    others: list[str] = []
    for path in _files_below(folder):
        (images if is_image(path.rsplit("/", 1)[-1]) else others).append(path)
    return sorted(images), others


def folders_in(folder: AnyPath) -> list[str]:
    """Names of the folders directly in it, sorted.

    Raises:
        IceprobeError: if it can't be read, or holds a link that leads nowhere.
    """
    if isinstance(folder, RemotePath):
        return [name for name in folder.folders() if not _is_hidden(name)]
    try:
        with os.scandir(folder) as entries:
            shown = sorted((e for e in entries if not _is_hidden(e.name)), key=lambda e: e.name)
            for entry in shown:
                if entry.is_symlink() and not os.path.exists(entry.path):
                    raise IceprobeError(
                        f"{entry.path!r} is a link that leads nowhere: mend it or remove it"
                    )
            return [entry.name for entry in shown if entry.is_dir()]
    except OSError as error:
        raise unreadable(error, folder) from error


def files_in(folder: AnyPath) -> list[str]:
    """Names of the files directly in it, sorted; hidden ones aside."""
    if isinstance(folder, RemotePath):
        return [name for name in folder.files() if not _is_hidden(name)]
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not _is_hidden(e.name) and not e.is_dir())
    except OSError as error:
        raise unreadable(error, folder) from error


def see_all(folder: Path) -> None:
    """See that every folder below can be read, for a library that leaves out what can't.

    Raises:
        IceprobeError: naming the folder.
    """
    for _ in _files_below(folder):
        pass


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not _is_hidden(name)


def unreadable(error: OSError, folder: object) -> IceprobeError:
    """What is said of a folder that can't be listed."""
    return IceprobeError(
        f"folder {str(error.filename or folder)!r} can't be read "
        f"({one_line(OSError(error.strerror or str(error)))}): make it readable, or move it away"
    )


def left_out(others: Sequence[str], images: int) -> str:
    """``24 of 323 files aren't read as images (24 .gif, …)``; an example is named."""
    endings = Counter(os.path.splitext(path)[1].lower() or "without ending" for path in others)
    most = [f"{count} {ending}" for ending, count in endings.most_common(4)]
    if (rest := len(others) - sum(count for _, count in endings.most_common(4))) > 0:
        most.append(f"{rest} more")
    return (
        f"{len(others)} of {len(others) + images} files are no images that folder: reads and are "
        f"left out ({', '.join(most)}; {min(others)!r} first)"
    )


def some(names: Iterable[str], most: int = 5) -> str:
    """``a/, b/ and 3 more``."""
    shown = [f"{name}/" if name.isprintable() else f"{name!a}/" for name in names]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def _files_below(folder: AnyPath) -> Iterable[str]:
    if isinstance(folder, RemotePath):
        for name in folder.find():
            if not any(map(_is_hidden, name.split("/"))):
                yield f"{folder}/{name}"
        return

    def stop(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and str(error.filename) == str(folder):
            return  # a split that has no folder for a class
        raise unreadable(error, folder) from error

    for here, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        inside = os.path.realpath(here)
        folders[:] = [
            name
            for name in folders
            if not _is_hidden(name)
            and not _contains(os.path.realpath(os.path.join(here, name)), inside)
        ]
        yield from (os.path.join(here, name) for name in files if not _is_hidden(name))


def _contains(folder: str, inside: str) -> bool:
    return os.path.commonpath([folder, inside]) == folder


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
