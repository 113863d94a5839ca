"""One image in a file or a stream → pixels by the rules of docs/images.md; what can't be read is named."""

import errno
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from iceprobe.datasets.base import BadImage
from iceprobe.datasets.pixels import (
    BAND_LEFT_OUT,
    DEEP,
    FIRST_FRAME,
    FULL,
    ORIENTATION,
    TURNED,
    TURNS,
    Notes,
    Reading,
    Unreadable,
    eight_bit_colours,
    finished,
    joined,
    low_bytes,
    orientation,
    raw_mode,
)

# The machine's trouble, not the image's: skipping images because of it would lose good ones.
_NOT_THE_IMAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)

# What `folder:` lists by its endings, and GIF, which tables hold. Pillow's other formats include
# ones that start programs (EPS) or whose decoders fail in ways of their own.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def decode(source: Path | IO[bytes], shown: str, reading: Reading = Reading()) -> Image.Image:
    """The image in ``source`` by the rules of docs/images.md.

    Args:
        source: a file, or its bytes as a stream.
        shown: its name, for the error.
        reading: what the file doesn't say.

    Returns:
        In 8 bits a channel (or a palette), upright, without transparency; of several frames the
        first. :func:`iceprobe.datasets.pixels.seen` says what was done.

    Raises:
        BadImage: if it can't be read, has more pixels than Pillow's limit, or would be lost.
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
    # Pillow's decoders raise whatever a broken file leads them to.
    except Exception as error:
        if getattr(error, "errno", None) in _NOT_THE_IMAGE:
            raise
        raise BadImage(
            f"image {shown!r} can't be read ({one_line(error)[:300]}): "
            "mend or remove it, or pass --on-bad-image skip"
        ) from error


def is_ordinary(source: Path | IO[bytes]) -> bool:
    """Whether an image needs none of the rules: it is read as Pillow reads it. Reads the header."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            layouts = {raw_mode(tile) for tile in image.tile}
            return (
                image.mode in ("1", "L", "P", "RGB")
                and not image.has_transparency_data
                and not any(";16" in layout or "X" in layout for layout in layouts)
                and not _has_frames(image)
                and orientation(image) not in TURNS
            )
    except Exception:  # noqa: BLE001 (reading it will raise the same)
        return False


def turn_of(source: Path | IO[bytes], reading: Reading = Reading()) -> int:
    """The EXIF tag by which :func:`decode` turns the image in ``source``: 1 is as stored."""
    if reading.orientation == "ignore":
        return 1
    with Image.open(source, formats=FORMATS) as image:
        return orientation(image)


def _decoded(source: Path | IO[bytes], reading: Reading) -> Image.Image:
    notes = Notes()
    with Image.open(source, formats=FORMATS) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(
                f"{image.width} x {image.height} pixels exceed Pillow's limit of {limit}"
            )
        tiles = list(image.tile)
        if image.format == "TIFF" and (tag := orientation(image)) in TURNS:
            notes.turn = tag  # Pillow turns these itself
            notes.done.append(TURNED)
        image.load()
        first = (
            image.copy() if image.format == "GIF" else image
        )  # searching for more frames moves a GIF on
        if _has_frames(image):
            notes.done.append(FIRST_FRAME)
    layouts = {raw_mode(tile) for tile in tiles}
    if layouts and all(layout.startswith(("RGBX", "LX")) for layout in layouts):
        notes.done.append(BAND_LEFT_OUT)
    if image.mode not in ("RGB", "RGBA") or not any(";16" in layout for layout in layouts):
        return finished(first, reading, notes, _white(image, layouts))
    # Colours of 16 bits, of which Pillow keeps the upper bytes: the lower ones show the depth.
    values = _sixteen_bit(source, image, tiles)
    if values is not None:
        deep = eight_bit_colours(values, reading, notes, image.mode == "RGBA")
        if (tag := orientation(image)) in TURNS:
            deep.getexif()[ORIENTATION] = tag
        return finished(deep, reading, notes)
    if reading.scale not in (None, FULL):
        raise Unreadable(
            f"has 16-bit colours stored as {min(layouts)}, for which scale= isn't read"
        )
    notes.done.append(DEEP)
    return finished(image, reading, notes)


def _sixteen_bit(
    source: Path | IO[bytes], image: Image.Image, tiles: list[Any]
) -> np.ndarray | None:
    """The values ``(H, W, C)`` of an image of which ``image`` has the upper bytes."""
    if {raw_mode(tile) for tile in tiles} == {"LA;16B"}:  # of a PNG: the four bytes of a pixel
        four = np.asarray(_again(source, [tile._replace(args="RGBA") for tile in tiles]))
        values = four[..., 0::2].astype(np.uint16) << 8 | four[..., 1::2]
        return values[..., [0, 0, 0, 1]]
    lower = [low_bytes(tile) for tile in tiles]
    if any(tile is None for tile in lower):
        return None
    return joined(image, _again(source, lower))


def _again(source: Path | IO[bytes], tiles: list[Any]) -> Image.Image:
    """The same file, its bytes read as ``tiles`` say."""
    if not isinstance(source, Path):
        source.seek(0)
    with Image.open(source, formats=FORMATS) as image:
        image.tile = tiles
        image.load()
        return image


def _white(image: Image.Image, layouts: set[str]) -> float | None:
    """Which value is white, where the file itself says it."""
    if image.format == "PPM" and image.mode == "I":  # Pillow scales by the file's own maximum
        return FULL
    return 4095 if layouts == {"I;12"} else None


def _has_frames(image: Image.Image) -> bool:
    """Whether the file has more frames, pages or pictures than the first."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 (what follows the first is damaged, which isn't read)
        return True


def _what_it_is(source: Path | IO[bytes]) -> str:
    """Why Pillow opens nothing here, in words."""
    known = f"none of {', '.join(FORMATS)}, or damaged at its start"
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                bands = _bands(file)
        else:
            source.seek(0)
            bands = _bands(source)
    except Exception:  # noqa: BLE001 (no TIFF, which is all that was to be found out)
        return known
    if bands <= 3:
        return known
    return (
        f"a TIFF of {bands} bands that Pillow has no layout for; read are 1, 3 and 4; for others "
        "see docs/images.md"
    )


def _bands(file: IO[bytes]) -> int:
    """Samples a pixel of a TIFF."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
    file.seek(directory.next)
    directory.load(file)
    return int(directory[TiffImagePlugin.SAMPLESPERPIXEL])


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
