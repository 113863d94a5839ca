"""Image files → 8 bits per channel, by the rules of docs/images.md.

There is one rule each for bit depth, transparency and orientation. A :class:`Reading` replaces them;
an image that they would spoil is refused.
"""

from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from json import dumps
from typing import Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError

FULL = 65535  # of 16 bits
ALPHA = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}
ORIENTATION = 0x0112  # the EXIF tag that says how to turn the stored image
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SEEN = "iceprobe"  # key of an image's info

# What is recorded of an image, and counted in the store's manifest.
TURNED = "turned upright"
ON_WHITE = "laid on white"
FIRST_FRAME = "first frame of several"
DEEP = "16 bits to 8"
BAND_LEFT_OUT = "band beyond RGB left out"
EIGHT_BIT_DEPTH = "depth map of 8 bits"


class Unreadable(Exception):
    """An image that the rules would spoil; the message has the reason and the remedy, not its name."""


@dataclass(frozen=True)
class Reading:
    """How files are decoded; ``None`` follows the rules of docs/images.md.

    Attributes:
        scale: the value of white in files of more than 8 bits; by default 65535 in 16 bits.
        alpha: the background of transparent pixels, ``"white"`` (the rule) or ``"black"``;
            ``"drop"`` takes the colours that are stored under them.
        orientation: ``"upright"`` (the rule) follows the EXIF tag, ``"ignore"`` doesn't.
    """

    scale: float | None = None
    alpha: str | None = None
    orientation: str | None = None

    def said(self) -> dict[str, Any]:
        """The options that were given."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def mark(self, fingerprint: str) -> str:
        """A split's fingerprint, changed if options were given: they change pixels."""
        if not (said := self.said()):
            return fingerprint
        return sha256(f"{fingerprint} {dumps(said, sort_keys=True)}".encode()).hexdigest()


@dataclass
class Seen:
    """What was done to an image beyond decoding it; filled in on the way.

    Attributes:
        done: the descriptions above, and colour conversions.
        largest: the largest value of a file of more than 8 bits.
        turn: the EXIF tag by which it was turned, 1 if it wasn't.
    """

    done: tuple[str, ...] = ()
    largest: float | None = None
    turn: int = 1


def seen(image: Any) -> Seen:
    """What was done to an image or another example with an ``info``; nothing if nobody noted it."""
    return getattr(image, "info", {}).get(_SEEN, Seen())


def note(image: Any, notes: Seen) -> None:
    """Let :func:`seen` return ``notes`` for an image or another example."""
    image.info[_SEEN] = notes


def note_done(example: Any, what: str) -> None:
    """Add ``what`` to what :func:`seen` says was done to an image or another example, once."""
    if what not in (before := seen(example)).done:
        note(example, replace(before, done=(*before.done, what)))


def finished(
    image: Image.Image, reading: Reading, notes: Seen, known_scale: float | None = None
) -> Image.Image:
    """A decoded image in 8 bits per channel without transparency, upright.

    Args:
        image: as Pillow has it after ``load()``.
        reading: how it is decoded.
        notes: completed here, and what :func:`seen` returns for the result.
        known_scale: the value of white, if the file states it.

    Raises:
        Unreadable: if the rules would spoil the image.
    """
    tag = 1 if reading.orientation == "ignore" else orientation(image)
    image = _flat(_eight_bit(image, reading, notes, known_scale), reading.alpha, notes)
    if image.mode in ("CMYK", "YCbCr", "LAB"):
        notes.done += (f"{image.mode} to RGB",)
    if image.mode == "LAB":  # Pillow doesn't convert it to grey
        image = image.convert("RGB")
    if tag in TURNS:
        image = turned(image, tag)
        image.info = {}  # it holds the tag, by which the image would be turned again
        notes.turn = tag
        notes.done += (TURNED,)
    if notes.done:
        note(image, notes)
    return image


def plain(image: Image.Image) -> Image.Image:
    """A picture given in Python, in 8 bits per channel without transparency; it is not turned.

    Raises:
        IceprobeError: if the rules would spoil it.
    """
    try:
        return _flat(_eight_bit(image, Reading(), Seen(), None), None, Seen())
    except Unreadable as error:
        raise IceprobeError(
            f"a picture of mode {image.mode} {error} (or give it in 8 bits, mode RGB or L)"
        ) from error


def orientation(image: Image.Image) -> int:
    """The EXIF tag; 1 (as stored) if there is none."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (metadata that can't be parsed is ignored)
        return 1


def turned(image: Image.Image, tag: int) -> Image.Image:
    """The image as stored → turned by its EXIF tag."""
    return image.transpose(TURNS[tag]) if tag in TURNS else image


def upright_boxes(boxes: np.ndarray, turn: int, size: tuple[int, int]) -> np.ndarray:
    """Boxes on the pixels as stored → boxes on the image as turned.

    Args:
        boxes: ``(k, 4)`` as x0, y0, x1, y1.
        turn: the EXIF tag.
        size: width and height of the turned image.
    """
    if turn not in TURNS:
        return boxes
    width, height = size
    x0, y0, x1, y1 = np.asarray(boxes).T
    if turn >= 5:  # rows became columns
        x0, y0, x1, y1 = y0, x0, y1, x1
    if turn in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if turn in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return np.stack([x0, y0, x1, y1], 1)


def eight_bit_colours(values: np.ndarray, reading: Reading, notes: Seen) -> Image.Image:
    """Values of 16 bits, ``(H, W, 3)`` or ``(H, W, 4)`` with transparency → 8 bits."""
    colours, alpha = values[..., :3], values[..., 3:]
    bands = [_scaled(colours, reading.scale, notes)]
    if alpha.size:  # opaque is the full range, unless it fits into the range of the colours
        own = reading.scale if reading.scale and alpha.max() <= reading.scale else FULL
        bands.append(_scaled(alpha, own, Seen()))
    return Image.fromarray(np.concatenate(bands, -1))


def _eight_bit(
    image: Image.Image, reading: Reading, notes: Seen, known_scale: float | None
) -> Image.Image:
    deep = image.mode.startswith("I;16")
    if not deep and image.mode not in ("I", "F"):
        return image
    if known_scale is not None and image.mode != "F":
        notes.done += (DEEP,)
        return Image.fromarray(_scaled(np.asarray(image), known_scale, Seen()))
    if not deep and reading.scale is None:
        raise Unreadable(
            "has 32-bit pixels of unknown range: say which value is white with scale= "
            "(scale=1.0 for floats from 0 to 1), or convert it to 8 bits"
        )
    return Image.fromarray(_scaled(np.asarray(image), reading.scale, notes))


def _scaled(values: np.ndarray, scale: float | None, notes: Seen) -> np.ndarray:
    """Values of more than 8 bits → uint8, the upper eight bits; refuse values that don't fit."""
    low, high = float(values.min()), float(values.max())
    notes.largest = high
    notes.done += (DEEP,)
    white = FULL if scale is None else scale
    if not (low >= 0 and high <= white):
        raise Unreadable(
            f"has values from {low:g} to {high:g} where white is {white:g}: pass another scale="
        )
    if scale is None and 0 < high <= 255:
        raise Unreadable(
            f"has 16 bits and no value above {high:g}, so it would be black: pass scale=255 if "
            "its values have 8 bits, scale=65535 if it is that dark"
        )
    if not np.issubdtype(values.dtype, np.integer) or white != int(white):
        return np.rint(values * (255 / white)).astype(np.uint8)
    if white == FULL:
        return (values // 256).astype(np.uint8)
    return (values.astype(np.int64) * 256 // (int(white) + 1)).astype(np.uint8)


def _flat(image: Image.Image, alpha: str | None, notes: Seen) -> Image.Image:
    """The image without transparency."""
    if not image.has_transparency_data:
        return image
    full = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
    stored = _without_alpha(image)
    if full.getchannel("A").getextrema() == (255, 255):
        return stored
    if alpha == "drop":
        notes.done += ("transparency dropped",)
        return stored
    colour = alpha or "white"
    notes.done += (f"laid on {colour}",)
    ground = Image.new("RGBA", image.size, ALPHA[colour])
    ground.alpha_composite(full)
    made = ground.convert("RGB")
    if alpha is None and _is_blank(made) and not _is_blank(full):
        raise Unreadable(
            "is all white when its transparent pixels are laid on white: pass alpha=black, or "
            "alpha=drop for the colours stored under them"
        )
    return made


def _without_alpha(image: Image.Image) -> Image.Image:
    """The colours that are stored beside the transparency, as in Pillow's conversion to RGB."""
    if image.mode in ("LA", "La"):
        return image.convert("LA").getchannel("L")
    if image.mode in ("P", "L", "RGB", "1"):
        made = image.copy()
        made.info.pop("transparency", None)
        if made.mode == "P" and made.has_transparency_data:  # a palette with alpha of its own
            made = made.convert("RGBA").convert("RGB")
        return made
    return image.convert("RGBA").convert("RGB")


def _is_blank(image: Image.Image) -> bool:
    return all(low == high for low, high in image.getextrema())  # type: ignore[misc]
