"""Images and attention maps as small pictures inside the page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from iceprobe.analysis.parts import part_picture

SIDE = 132  # pixels of a picture in the file; shown at about half of that on dense screens
_QUALITY = 82
_BOX = (255, 196, 0)

# Dark blue to pale yellow through magenta, evenly lighter: matplotlib's "magma" at nine places.
_RAMP = np.array(
    [
        (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
        (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
    ],
    dtype=np.float64,
)  # fmt: skip


def image_uri(image: Image.Image, box: NDArray | None = None) -> str:
    """The image the backbone saw, with its ground-truth box ``(x0, y0, x1, y1)`` in its pixels."""
    picture = enlarged(image)
    if box is not None and np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]:
        scale = np.array([picture.width / image.width, picture.height / image.height] * 2)
        x0, y0, x1, y1 = (np.asarray(box, dtype=np.float64) * scale).round().astype(int).tolist()
        ends = (max(x0, 0), max(y0, 0), min(x1, picture.width) - 1, min(y1, picture.height) - 1)
        ImageDraw.Draw(picture).rectangle(ends, outline=_BOX, width=2)
    return _jpeg(picture)


def map_uri(image: Image.Image, weights: NDArray) -> str:
    """:func:`map_picture` for the page."""
    return _jpeg(map_picture(image, weights))


def map_picture(image: Image.Image, weights: NDArray) -> Image.Image:
    """Attention ``(H, W)``, summing to 1, over the greyed image.

    Colour starts at uniform attention, 1/(H·W), and is full at the map's maximum, or at four
    times uniform where the maximum is less: a map without a preference stays dark.
    """
    picture = np.asarray(enlarged(image).convert("L"), dtype=np.float64)[..., None]
    uniform = 1 / weights.size
    above = (weights - uniform).clip(0) / (max(float(weights.max()), 4 * uniform) - uniform)
    heat = _upsampled(above, picture.shape[:2])[..., None]
    glow = colour(heat[..., 0])
    # The image stays readable where nothing looks; colour takes over with attention.
    opacity = np.clip(1.25 * np.sqrt(heat), 0.0, 0.82)
    mixed = (1 - opacity) * (0.62 * picture + 12) + opacity * (0.85 * glow + 0.15 * picture)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def part_uris(images: Sequence[Image.Image], parts: Tensor, colours: Sequence[str]) -> list[str]:
    """Images in the colours of parts ``(B, K, H, W)``, of which each sums to 1 over its cells.

    A pixel has the colour of the part that is strongest there, relative to that part's maximum in
    all pictures; it starts at uniform attention, as maps do.
    """
    uniform = 1 / (parts.shape[2] * parts.shape[3])
    above = (parts - uniform).clamp_min(0)
    smooth = F.interpolate(above, (SIDE, SIDE), mode="bilinear", align_corners=False)
    palette = torch.tensor([_rgb(one) for one in colours]) / 255
    painted = part_picture(smooth.flatten(2), palette).unflatten(1, (SIDE, SIDE)).numpy()
    return [_jpeg(_painted(image, one)) for image, one in zip(images, painted, strict=True)]


def _painted(image: Image.Image, paint: NDArray) -> Image.Image:
    """``paint (SIDE, SIDE, 4)`` in [0, 1] over the greyed image."""
    grey = np.asarray(enlarged(image).convert("L").resize((SIDE, SIDE)), np.float64)[..., None]
    opacity = 0.85 * np.sqrt(paint[..., 3:])
    mixed = (1 - opacity) * (0.62 * grey + 12) + opacity * (0.8 * 255 * paint[..., :3] + 0.2 * grey)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _rgb(colour: str) -> list[int]:
    """``"#d9822b"`` → 217, 130, 43."""
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def colour(values: NDArray) -> NDArray:
    """Map values in [0, 1] to colours: ``(...)`` → ``(..., 3)`` in 0 … 255."""
    place = np.clip(values, 0, 1) * (len(_RAMP) - 1)
    return np.stack([np.interp(place, np.arange(len(_RAMP)), _RAMP[:, c]) for c in range(3)], -1)


def _upsampled(weights: NDArray, size: tuple[int, int]) -> NDArray:
    """Bilinear between cell centres, ``(H, W)`` → ``size``."""
    map_ = Image.fromarray(weights.astype(np.float32))
    return np.asarray(map_.resize((size[1], size[0]), Image.Resampling.BILINEAR), dtype=np.float64)


def enlarged(image: Image.Image) -> Image.Image:
    """RGB at :data:`SIDE`; small images are enlarged smoothly."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
