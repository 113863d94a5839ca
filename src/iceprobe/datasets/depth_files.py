"""A depth map in a file → a number a pixel: PNG and TIFF of one band, and NumPy's ``.npy``.

Numbers are multiplied by a scale, such as 0.001 for millimetres that are to be metres. What isn't finite
and above 0 isn't known.
"""

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from iceprobe.datasets.base import BadImage, number_map
from iceprobe.datasets.decoding import FORMATS, NOT_THE_IMAGE, one_line
from iceprobe.datasets.pixels import EIGHT_BIT_DEPTH, Seen, note

_MAGIC = b"\x93NUMPY"
_NUMBERS = "fiu"  # kinds of arrays


class _NoNumbers(Exception):
    """A file without one number a pixel; the message says what it has."""


def read_depth(source: Path | IO[bytes], shown: str, scale: float = 1.0) -> Image.Image:
    """The numbers in ``source``, mode F, NaN where one isn't known; the pixels as they are stored.

    Args:
        source: a file, or its bytes as a stream.
        shown: its name in error messages.
        scale: what numbers are multiplied by.

    Returns:
        :func:`iceprobe.datasets.pixels.seen` says of it whether the file had 8 bits a pixel.

    Raises:
        BadImage: if it can't be read, or has no one number a pixel.
    """
    try:
        numbers = _numbers(source)
    except _NoNumbers as error:
        raise BadImage(
            f"depth map {shown!r} {error}: write one number a pixel as 16-bit PNG or TIFF, float TIFF or "
            ".npy, or pass --on-bad-image skip"
        ) from error
    except FileNotFoundError as error:
        raise BadImage(f"depth map {shown!r} can't be read: it is gone") from error
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        if getattr(error, "errno", None) in NOT_THE_IMAGE:
            raise
        raise BadImage(
            f"depth map {shown!r} can't be read ({one_line(error)[:300]}): mend or remove it, or pass "
            "--on-bad-image skip"
        ) from error
    found = number_map(numbers.astype(np.float64) * scale)
    if numbers.dtype.itemsize == 1:
        note(found, Seen(done=(EIGHT_BIT_DEPTH,)))
    return found


def _numbers(source: Path | IO[bytes]) -> np.ndarray:
    """``(height, width)`` in the dtype of the file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _numbers(file)
    start = source.read(len(_MAGIC))
    source.seek(0)
    if start == _MAGIC:
        numbers = np.load(source, allow_pickle=False)
        if numbers.ndim != 2 or numbers.dtype.kind not in _NUMBERS:
            raise _NoNumbers(f"has the shape {numbers.shape} and type {numbers.dtype}")
        return np.asarray(numbers)
    with Image.open(source, formats=FORMATS) as image:
        if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
            raise _NoNumbers(f"has the mode {image.mode}")
        image.load()
        return np.asarray(image)
