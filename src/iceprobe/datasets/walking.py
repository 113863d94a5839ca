"""The images, videos or recordings below a folder, local or on object storage: none is left out silently.

A folder that can't be read is an error. Other files are counted by their endings for a report. Hidden
files and folders are ignored.
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

# Containers of video that FFmpeg reads, by the endings that data sets have. GIF is an image here.
VIDEOS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv")

# What libsndfile reads, by the endings that data sets have.
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif")

AnyPath = Path | RemotePath


def images_below(
    folder: AnyPath, endings: tuple[str, ...] = EXTENSIONS
) -> tuple[list[str], list[str]]:
    """Paths of the images at any depth, or of files of other ``endings``, sorted, and of the rest.

    Links are followed, except to a folder that contains them.

    Raises:
        IceprobeError: naming a folder that can't be read.
    """
    images: list[str] = []
    others: list[str] = []
    for path in _files_below(folder):
        (images if is_image(path.rsplit("/", 1)[-1], endings) else others).append(path)
    return sorted(images), others


def folders_in(folder: AnyPath) -> list[str]:
    """Names of the folders directly in it, sorted; a broken link raises `IceprobeError`."""
    return _entries(folder, folders=True)


def files_in(folder: AnyPath) -> list[str]:
    """Names of the files directly in it, sorted."""
    return _entries(folder, folders=False)


def _entries(folder: AnyPath, folders: bool) -> list[str]:
    if isinstance(folder, RemotePath):
        names = folder.folders() if folders else folder.files()
        return [name for name in names if not _is_hidden(name)]
    try:
        with os.scandir(folder) as entries:
            shown = sorted((e for e in entries if not _is_hidden(e.name)), key=lambda e: e.name)
            for entry in shown if folders else ():
                if entry.is_symlink() and not os.path.exists(entry.path):
                    raise IceprobeError(
                        f"{entry.path!r} is a link that leads nowhere: mend it or remove it"
                    )
            return [entry.name for entry in shown if entry.is_dir() == folders]
    except OSError as error:
        raise unreadable(error, folder) from error


def is_image(name: str, endings: tuple[str, ...] = EXTENSIONS) -> bool:
    """Whether a file's name ends as an image's does, or in one of other ``endings``."""
    return name.lower().endswith(endings) and not _is_hidden(name)


def unreadable(error: OSError, folder: object) -> IceprobeError:
    """The error for a folder that can't be listed."""
    return IceprobeError(
        f"folder {str(error.filename or folder)!r} can't be read "
        f"({one_line(OSError(error.strerror or str(error)))}): make it readable, or move it away"
    )


def left_out(
    others: Sequence[str], images: int, source: str = "folder", what: str = "images"
) -> str:
    """``24 of 323 files are no images … (24 .gif, …; 'a/b.gif' first)``."""
    endings = Counter(os.path.splitext(path)[1].lower() or "without ending" for path in others)
    common = endings.most_common(4)
    most = [f"{count} {ending}" for ending, count in common]
    if (rest := len(others) - sum(count for _, count in common)) > 0:
        most.append(f"{rest} more")
    return (
        f"{len(others)} of {len(others) + images} files are no {what} that {source}: reads and are "
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
            return  # a split without a folder for a class
        raise unreadable(error, folder) from error

    for here, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        inside = os.path.realpath(here)
        folders[:] = [
            name
            for name in folders
            if not _is_hidden(name)
            and not Path(inside).is_relative_to(os.path.realpath(os.path.join(here, name)))
        ]
        yield from (os.path.join(here, name) for name in files if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
