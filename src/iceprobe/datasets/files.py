"""Images in files: nothing is read until it is asked for, and what can't be read is named."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from iceprobe.datasets.base import BadImage, Split
from iceprobe.errors import IceprobeError
from iceprobe.remote import RemotePath, stream

# The machine's trouble, not the image's: skipping images because of it would lose good ones.
_NOT_THE_IMAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


def decode(source: Path | IO[bytes], shown: str) -> Image.Image:
    """The image in ``source``, decoded, in 8 bits a channel (or a palette).

    Args:
        source: a file, or its bytes as a stream.
        shown: its name, for the error.

    Raises:
        BadImage: if it can't be read or has more pixels than Pillow's limit.
    """
    try:
        with Image.open(source) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(
                    f"{image.width} x {image.height} pixels exceed Pillow's limit of {limit}"
                )
            image.load()
    # What Pillow's decoders raise on broken files, beyond OSError.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if getattr(error, "errno", None) in _NOT_THE_IMAGE:
            raise
        raise BadImage(
            f"image {shown!r} can't be read ({one_line(error)}): "
            "mend or remove it, or pass --on-bad-image skip"
        ) from error
    return _eight_bit(image, shown)


class FileSplit(Split):
    """Image files below one folder.

    Attributes:
        root: the folder that names are relative to, or the prefix on object storage.
    """

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
        path = self.root / self.names[index]
        try:
            source = stream(path)
        except FileNotFoundError as error:
            raise BadImage(f"image {str(path)!r} can't be read: it is gone") from error
        return decode(source, str(path))

    def fingerprint(self) -> str:
        """Sha256 of each file's name, size, time of change (or version) and label; reads no image."""
        return listing_digest(self.root, self.names, self.labels.tolist())


def listing_digest(root: Path | RemotePath, names: Sequence[str], labels: Iterable[object]) -> str:
    """Sha256 over name, size, time of change and label of each file.

    Object storage tells a version (an etag, as a rule) in place of the time, in one listing.

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


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _eight_bit(image: Image.Image, shown: str) -> Image.Image:
    """Bring 16-bit grey to 8 bits (Pillow's own conversion clips it at 255)."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage(
            f"image {shown!r} has 32-bit pixels of unknown range: convert it to 8 or 16 bits, "
            "or pass --on-bad-image skip"
        )
    return image
