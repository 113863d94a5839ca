"""One image in a file or a stream → pixels, by the rules of docs/images.md."""

import errno
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from iceprobe.datasets import pixels
from iceprobe.datasets.base import BadImage
from iceprobe.datasets.pixels import Reading, Unreadable, orientation

# Errors of the machine, not of the image: skipping images because of them would lose good ones.
NOT_THE_IMAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)

# The endings that `folder:` lists, and GIF, which is common in tables. Pillow's other formats include
# some that start programs (EPS) or whose decoders fail in other ways.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def decode(source: Path | IO[bytes], shown: str, reading: Reading = Reading()) -> Image.Image:
    """The image in ``source`` by the rules of docs/images.md.

    Args:
        source: a file, or its bytes as a stream.
        shown: its name in error messages.
        reading: options that replace rules.

    Returns:
        The first frame in 8 bits per channel (or a palette), upright, without transparency.
        :func:`iceprobe.datasets.pixels.seen` says what was done.

    Raises:
        BadImage: if it can't be read, has more pixels than Pillow's limit, or the rules spoil it.
    """
    try:
        return _decoded(source, reading)
    except Unreadable as error:
        raise BadImage(f"image {shown!r} {error}, or pass --on-bad-image skip") from error
    except UnidentifiedImageError as error:
        raise BadImage(
            f"image {shown!r} can't be read ({_what_it_is(source)}): "
            "mend, convert or remove it, or pass --on-bad-image skip"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        if getattr(error, "errno", None) in NOT_THE_IMAGE:
            raise
        raise BadImage(
            f"image {shown!r} can't be read ({one_line(error)[:300]}): "
            "mend or remove it, or pass --on-bad-image skip"
        ) from error


def is_ordinary(source: Path | IO[bytes]) -> bool:
    """Whether no rule changes the image that Pillow reads; only the header is read."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            layouts = set(map(_raw_mode, image.tile))
            return (
                image.mode in ("1", "L", "P", "RGB")
                and not image.has_transparency_data
                and not any(";16" in layout or "X" in layout for layout in layouts)
                and not _has_frames(image)
                and orientation(image) not in pixels.TURNS
            )
    except Exception:  # noqa: BLE001 (reading the image raises the same)
        return False


def turn_of(source: Path | IO[bytes], reading: Reading = Reading()) -> int:
    """The EXIF tag by which :func:`decode` turns the image in ``source``; 1 is as stored."""
    if reading.orientation == "ignore":
        return 1
    with Image.open(source, formats=FORMATS) as image:
        return orientation(image)


def _decoded(source: Path | IO[bytes], reading: Reading) -> Image.Image:
    notes = pixels.Seen()
    with Image.open(source, formats=FORMATS) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(
                f"{image.width} x {image.height} pixels exceed Pillow's limit of {limit}"
            )
        tiles = list(image.tile)
        if image.format == "TIFF" and (tag := orientation(image)) in pixels.TURNS:
            notes.turn = tag  # Pillow turns these itself
            notes.done += (pixels.TURNED,)
        image.load()
        # Looking for more frames moves a GIF to another frame.
        first = image.copy() if image.format == "GIF" else image
        if _has_frames(image):
            notes.done += (pixels.FIRST_FRAME,)
    layouts = set(map(_raw_mode, tiles))
    if layouts and all(layout.startswith(("RGBX", "LX")) for layout in layouts):
        notes.done += (pixels.BAND_LEFT_OUT,)
    if image.mode not in ("RGB", "RGBA") or not any(";16" in layout for layout in layouts):
        return pixels.finished(first, reading, notes, _white(image, layouts))
    # Colours of 16 bits: Pillow keeps the upper bytes, but the depth shows in the lower ones.
    values = _sixteen_bit(source, image, tiles)
    if values is not None:
        deep = pixels.eight_bit_colours(values, reading, notes)
        if (tag := orientation(image)) in pixels.TURNS:
            deep.getexif()[pixels.ORIENTATION] = tag
        return pixels.finished(deep, reading, notes)
    if reading.scale not in (None, pixels.FULL):
        raise Unreadable(
            f"has 16-bit colours stored as {min(layouts)}, for which scale= isn't read"
        )
    notes.done += (pixels.DEEP,)
    return pixels.finished(image, reading, notes)


def _sixteen_bit(
    source: Path | IO[bytes], image: Image.Image, tiles: list[Any]
) -> np.ndarray | None:
    """The 16-bit values ``(H, W, C)`` of an image whose upper bytes are in ``image``."""
    if set(map(_raw_mode, tiles)) == {"LA;16B"}:  # of a PNG: the four bytes of a pixel
        four = np.asarray(_again(source, [tile._replace(args="RGBA") for tile in tiles]))
        values = four[..., 0::2].astype(np.uint16) << 8 | four[..., 1::2]
        return values[..., [0, 0, 0, 1]]
    lower = [_low_bytes(tile) for tile in tiles]
    if any(tile is None for tile in lower):
        return None
    return np.asarray(image).astype(np.uint16) << 8 | np.asarray(_again(source, lower))


def _raw_mode(tile: Any) -> str:
    """The layout of a file's pixels as Pillow's decoder names it."""
    args = tile.args
    return str((args[0] if args else "") if isinstance(args, tuple) else args)


def _low_bytes(tile: Any) -> Any | None:
    """The tile by which Pillow reads the lower bytes, if this one gives the upper ones."""
    bands, _, order = _raw_mode(tile).partition(";16")
    if bands not in ("RGB", "RGBA", "RGBX") or order not in ("L", "B", "N"):
        return None
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    other = f"{bands};16{'B' if order == 'L' else 'L'}"
    args = (other, *tile.args[1:]) if isinstance(tile.args, tuple) else other
    return tile._replace(args=args)


def _again(source: Path | IO[bytes], tiles: list[Any]) -> Image.Image:
    """The same file, decoded by ``tiles``."""
    if not isinstance(source, Path):
        source.seek(0)
    with Image.open(source, formats=FORMATS) as image:
        image.tile = tiles
        image.load()
        return image


def _white(image: Image.Image, layouts: set[str]) -> float | None:
    """The value of white, if the file states it."""
    if image.format == "PPM" and image.mode == "I":  # Pillow scales by the file's own maximum
        return pixels.FULL
    return 4095 if layouts == {"I;12"} else None


def _has_frames(image: Image.Image) -> bool:
    """Whether the file has more frames, pages or pictures than the first."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 (a later frame is damaged, which isn't read)
        return True


def _what_it_is(source: Path | IO[bytes]) -> str:
    """Why Pillow can't open the file: a TIFF with an unknown number of bands, or no image."""
    bands = 0
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            file.seek(0)
            directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(directory.next)
            directory.load(file)
            bands = int(directory[TiffImagePlugin.SAMPLESPERPIXEL])
    except Exception:  # noqa: BLE001 (no TIFF)
        pass
    if bands <= 3:
        return f"none of {', '.join(FORMATS)}, or damaged at its start"
    return (
        f"a TIFF of {bands} bands that Pillow has no layout for; read are 1, 3 and 4; for others "
        "see docs/images.md"
    )


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
