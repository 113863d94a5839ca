"""Images in files, decoded when they are asked for; errors name the file."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.decoding import decode, one_line
from iceprobe.datasets.pixels import Reading
from iceprobe.machine.object_storage import RemotePath, stream


class FileSplit(Split):
    """Image files below ``root``, a folder or a prefix on object storage; names are relative to it."""

    reading = Reading()

    def __init__(
        self,
        name: str,
        root: Path | RemotePath,
        names: Sequence[str],
        labels: np.ndarray | Sequence[int],
        boxes: np.ndarray | None = None,
        masks: bool = False,
        **more: Any,
    ):
        super().__init__(name, np.asarray(labels), names, boxes, masks, **more)
        self.root = root

    def image(self, index: int) -> Image.Image:
        return decode(self.source(index), str(self.root / self.names[index]), self.reading)

    def source(self, index: int) -> Path | IO[bytes]:
        path = self.root / self.names[index]
        try:
            return stream(path)
        except FileNotFoundError as error:
            raise BadImage(f"{self.kind} {str(path)!r} can't be read: it is gone") from error

    def fingerprint(self) -> str:
        """Sha256 of each file's name, size, time of change (or version) and label; reads no image."""
        return self.reading.mark(listing_digest(self.root, self.names, self.labels.tolist()))


def listing_digest(root: Path | RemotePath, names: Sequence[str], labels: Iterable[object]) -> str:
    """Sha256 over name, size, time of change (or version) and label of each file.

    Raises:
        IceprobeError: naming a file that isn't there.
    """
    digest = hashlib.sha256()
    remote = root.find() if isinstance(root, RemotePath) else {}
    for name, label in zip(names, labels, strict=True):
        try:
            size, changed = (
                remote[name] if isinstance(root, RemotePath) else state(os.path.join(root, name))
            )
        except (OSError, KeyError) as error:
            raise IceprobeError(
                f"file {str(root / name)!r} is gone ({one_line(error)}): "
                "put it back, or load the data set again"
            ) from error
        digest.update(json.dumps([name, size, changed, label]).encode() + b"\n")
    return digest.hexdigest()


def state(path: str | Path | RemotePath) -> tuple[int, int | str]:
    """Size of a file and its time of change; on object storage its version, an etag as a rule."""
    if isinstance(path, RemotePath):
        return path.state()
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def below(root: Path | RemotePath, files: Iterable[object]) -> list[str]:
    """Paths that begin with ``root`` → names relative to it; fast enough for millions of them."""
    start = f"{str(root).rstrip('/')}/"
    return [str(file).removeprefix(start) for file in files]
