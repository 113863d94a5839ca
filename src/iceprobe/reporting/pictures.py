"""Images and attention maps as small pictures inside the page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from iceprobe.analysis.parts import part_picture

SIDE = 132  # pixels of a picture in the file; shown at about half of that on dense screens
_BOX = (255, 196, 0)
AS_IS = "as it is"  # key in the info of a picture that has its size already

# Dark blue to pale yellow through magenta, evenly lighter: matplotlib's "magma" at nine points.
_RAMP = np.array(
    [
        (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
        (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
    ],
    dtype=np.float64,
)  # fmt: skip


_FOR, _AGAINST = (np.array(one, np.float64) for one in ((226, 62, 46), (44, 123, 229)))


def evidence_colour(values: NDArray) -> NDArray:
    """Colours of evidence: ``(...)`` → ``(..., 3)`` in 0 … 255."""
    return np.where(values[..., None] > 0, _FOR, _AGAINST)


def image_uri(image: Image.Image, box: NDArray | None = None, frames: int = 1) -> str:
    """The image that the backbone saw, with its ground-truth box ``(x0, y0, x1, y1)`` in pixels.

    Or ``frames`` of a clip side by side.
    """
    picture = enlarged(image, frames)
    if box is not None and np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]:
        scale = np.array([picture.width / image.width, picture.height / image.height] * 2)
        x0, y0, x1, y1 = (np.asarray(box, dtype=np.float64) * scale).round().astype(int).tolist()
        ends = (max(x0, 0), max(y0, 0), min(x1, picture.width) - 1, min(y1, picture.height) - 1)
        ImageDraw.Draw(picture).rectangle(ends, outline=_BOX, width=2)
    return picture_uri(picture)


def map_uri(image: Image.Image, weights: NDArray, frames: int = 1) -> str:
    """:func:`map_picture` for the page."""
    return picture_uri(map_picture(image, weights, frames))


def map_picture(image: Image.Image, weights: NDArray, frames: int = 1) -> Image.Image:
    """Attention ``(H, W)``, summing to 1, over the greyed image, or over ``frames`` of a clip side by side.

    Colour starts at uniform attention, 1/(H·W), and is full at the map's maximum, or at four
    times uniform where the maximum is less: a map without a preference stays dark.
    """
    grey = enlarged(image, frames).convert("L")
    uniform = 1 / weights.size
    above = (weights - uniform).clip(0) / (max(float(weights.max()), 4 * uniform) - uniform)
    heat = _smooth(above, grey.size, frames)[..., None]
    picture = np.asarray(grey, np.float64)[..., None]
    opacity = np.clip(1.25 * np.sqrt(heat), 0.0, 0.82)
    return _mixed(picture, opacity, 0.85 * colour(heat[..., 0]) + 0.15 * picture)


def evidence_picture(
    image: Image.Image, evidence: NDArray, full: float, frames: int = 1
) -> Image.Image:
    """Evidence ``(H, W)`` over the greyed image: red speaks for, blue against, ``full`` has full colour.

    The image may be ``frames`` of a clip side by side.
    """
    grey = enlarged(image, frames).convert("L")
    values = _smooth(evidence / full if full else evidence, grey.size, frames)
    picture = np.asarray(grey, np.float64)[..., None]
    over = 0.9 * evidence_colour(values) + 0.1 * picture
    return _mixed(picture, evidence_opacity(values)[..., None], over)


def _smooth(cells: NDArray, size: tuple[int, int], frames: int) -> NDArray[np.float64]:
    """Cells ``(H, W)`` at the width and height of a picture of ``frames``, smoothly within each."""
    each = (size[0] // frames, size[1])
    made = [
        Image.fromarray(part.astype(np.float32)).resize(each, Image.Resampling.BILINEAR)
        for part in np.split(cells, frames, 1)
    ]
    return np.concatenate([np.asarray(one, np.float64) for one in made], 1)


def evidence_opacity(values: NDArray) -> NDArray:
    """Of evidence in [−1, 1]: 0 in the middle, so that what says nothing shows the image."""
    opacity: NDArray = 0.9 * np.clip(np.abs(values), 0, 1) ** 0.6
    return opacity


def part_uris(
    images: Sequence[Image.Image], parts: Sequence[Tensor], colours: Sequence[str]
) -> list[str]:
    """Images in the colours of their parts, ``(K, H, W)`` each, which sum to 1 over their cells.

    A pixel has the colour of its strongest part, relative to that part's maximum in all pictures, and
    none below uniform attention.
    """
    sizes = [enlarged(image).size[::-1] for image in images]
    smooth = [
        F.interpolate(
            (part - 1 / part[0].numel()).clamp_min(0)[None],
            size,
            mode="bilinear",
            align_corners=False,
        ).flatten(2)
        for part, size in zip(parts, sizes, strict=True)
    ]
    palette = torch.tensor([ImageColor.getrgb(one) for one in colours]) / 255
    # All pictures in one: a part is as strong as in the one where it is strongest.
    painted = part_picture(torch.cat(smooth, 2), palette)[0].split([one.shape[2] for one in smooth])
    return [
        picture_uri(_painted(image, one.unflatten(0, size).numpy()))
        for image, one, size in zip(images, painted, sizes, strict=True)
    ]


def _painted(image: Image.Image, paint: NDArray) -> Image.Image:
    """``paint (H, W, 4)`` in [0, 1] over the greyed image."""
    grey = np.asarray(enlarged(image).convert("L"), np.float64)[..., None]
    opacity = 0.85 * np.sqrt(paint[..., 3:])
    return _mixed(grey, opacity, 0.8 * 255 * paint[..., :3] + 0.2 * grey)


def _mixed(grey: NDArray, opacity: NDArray, over: NDArray) -> Image.Image:
    """Colours ``over`` the dimmed grey image, which stays readable where they are transparent."""
    mixed = (1 - opacity) * (0.62 * grey + 12) + opacity * over
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def colour(values: NDArray) -> NDArray:
    """Map values in [0, 1] to colours: ``(...)`` → ``(..., 3)`` in 0 … 255."""
    place = np.clip(values, 0, 1) * (len(_RAMP) - 1)
    return np.stack([np.interp(place, np.arange(len(_RAMP)), _RAMP[:, c]) for c in range(3)], -1)


def enlarged(image: Image.Image, frames: int = 1) -> Image.Image:
    """RGB at :data:`SIDE`, each of ``frames`` side by side, a line between two; small images are enlarged smoothly."""
    if frames > 1:
        width, height = image.width // frames, image.height
        starts = range(0, frames * width, width)
        strip = side_by_side([enlarged(image.crop((x, 0, x + width, height))) for x in starts])
        for place in range(strip.width // frames, strip.width, strip.width // frames):
            strip.paste((255, 255, 255), (place - 1, 0, place + 2, strip.height))
        return strip
    if AS_IS in image.info:
        return image.convert("RGB")
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def side_by_side(pictures: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Pictures of equal height in a row on white, ``gap`` pixels apart."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def below_each_other(pictures: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Pictures of equal width in a column on white, ``gap`` pixels apart."""
    turn = Image.Transpose.TRANSPOSE
    return side_by_side([picture.transpose(turn) for picture in pictures], gap).transpose(turn)


def picture_uri(picture: Image.Image, kind: str = "JPEG", quality: int = 82) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=quality, optimize=True)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
