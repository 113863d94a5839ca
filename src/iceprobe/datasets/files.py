"""Images in files: nothing is read until it is asked for, and what can't be read is named."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.decoding import decode, one_line
from iceprobe.datasets.pixels import Reading
from iceprobe.machine.object_storage import RemotePath, stream


class FileSplit(Split):
    """Image files below one folder.

    Attributes:
        root: the folder that names are relative to, or the prefix on object storage.
    """

    reading = Reading()

    def __init__(
        self,
        name: str,
        root: Path | RemotePath,
        names: Sequence[str],
        labels: np.ndarray | Sequence[int],
        boxes: np.ndarray | None = None,
        masks: bool = False,
    ):
        super().__init__(name, np.asarray(labels), names, boxes, masks)
        self.root = root

    def image(self, index: int) -> Image.Image:
        return decode(self.source(index), str(self.root / self.names[index]), self.reading)

    def source(self, index: int) -> Path | IO[bytes]:
        path = self.root / self.names[index]
        try:
            return stream(path)
        except FileNotFoundError as error:
            raise BadImage(f"image {str(path)!r} can't be read: it is gone") from error

    def fingerprint(self) -> str:
        """Sha256 of each file's name, size, time of change (or version) and label; reads no image."""
        listed = listing_digest(self.root, self.names, self.labels.tolist())
        return self.reading.mark(listed)


def listing_digest(root: Path | RemotePath, names: Sequence[str], labels: Iterable[object]) -> str:
    """Sha256 over name, size, time of change and label of each file.

    Object storage states a version (an etag, as a rule) in place of the time, in one listing.

    Raises:
        IceprobeError: naming a file that isn't there.
    """
    digest = hashlib.sha256()
    state = _states(root)
    for name, label in zip(names, labels, strict=True):
        try:
            size, changed = state(name)
        except (OSError, KeyError) as error:
            raise IceprobeError(
                f"image {str(root / name)!r} is gone ({one_line(error)}): "
                "put it back, or load the data set again"
            ) from error
        digest.update(json.dumps([name, size, changed, label]).encode() + b"\n")
    return digest.hexdigest()


def _states(root: Path | RemotePath) -> Callable[[str], tuple[int, int | str]]:
    """Name of a file → its size, and what changes when its content does."""
    if isinstance(root, RemotePath):
        return root.find().__getitem__

    def of_file(name: str) -> tuple[int, int]:
        stat = os.stat(os.path.join(root, name))
        return stat.st_size, stat.st_mtime_ns

    return of_file


def below(root: Path, files: Iterable[object]) -> list[str]:
    """Paths that begin with ``root`` → names relative to it (at once, for millions of them)."""
    return [str(file).removeprefix(f"{root}{os.sep}") for file in files]
