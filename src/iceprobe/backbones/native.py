"""Images of their own shape: resized to at most ``max_tokens`` whole patches, and cut into these.

    scale s: the largest with ⌈s·h/p⌉ · ⌈s·w/p⌉ ≤ max_tokens      h, w of the image, p of a patch

The image is resized to ``p⌈s·h/p⌉`` by ``p⌈s·w/p⌉`` pixels: its aspect changes by less than a patch a side,
nothing is cropped, and a small image is enlarged. This is NaFlex's rule: timm's ``get_image_size_for_seq`` and
SigLIP 2's ``get_image_size_for_max_num_patches`` find s by the same bisection.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from iceprobe.backbones.kinds import Ragged
from iceprobe.backbones.options import FEWEST, MOST, NATIVE, ImageOptions
from iceprobe.backbones.preprocessing import ImagePreprocessing, Preprocessing
from iceprobe.core.errors import IceprobeError

LARGEST_SCALE, PRECISION = 100.0, 1e-5  # of the bisection, in both libraries

Grid = tuple[int, int]


def native_grid(height: int, width: int, patch: int, max_tokens: int) -> Grid:
    """Rows and columns of patches of an image of ``height`` x ``width`` pixels."""

    def grid(scale: float) -> Grid:
        rows, columns = (max(math.ceil(side * scale / patch), 1) for side in (height, width))
        return rows, columns

    low, high = PRECISION / 10, LARGEST_SCALE
    while high - low >= PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(grid(middle)) <= max_tokens else (low, middle)
    return grid(low)


def patches_of(pixels: Tensor, patch: int) -> Tensor:
    """Pixels ``(…, C, H, W)``, both a multiple of p → patches ``(…, N, p·p·C)`` as NaFlex has them.

    Row by row, in each of them pixel by pixel with the channels innermost.
    """
    cells = pixels.unflatten(-1, (-1, patch)).unflatten(
        -3, (-1, patch)
    )  # (…, C, rows, p, columns, p)
    return cells.movedim(-5, -1).transpose(-4, -3).flatten(-3).flatten(-3, -2)


def pixels_of(patches: Tensor, grid: Grid, patch: int) -> Tensor:
    """The inverse of :func:`patches_of`."""
    cells = patches.unflatten(-1, (patch, patch, -1)).unflatten(
        -4, grid
    )  # (…, rows, columns, p, p, C)
    return cells.transpose(-4, -3).movedim(-1, -5).flatten(-2).flatten(-3, -2)


@dataclass(frozen=True)
class NativePreprocessing(ImagePreprocessing):
    """The evaluation transform of a backbone that takes images of any shape.

    Its input is a `Ragged` of patches ``(N, p·p·C)``, as of `patches_of`; ``coords`` are row and column.

    Attributes:
        patch_size: p, pixels a side of a patch.
        max_tokens: most patches of an image.
        mean, std, interpolation, channels, order: as of `Preprocessing`.
    """

    augmented: ClassVar[bool] = False

    patch_size: int
    max_tokens: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    channels: int = 3
    order: str = "RGB"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not FEWEST <= self.max_tokens <= MOST:
            raise IceprobeError(f"max_tokens={self.max_tokens}: take {FEWEST} to {MOST}")

    @property
    def shape(self) -> None:
        """Inputs differ in their length."""
        return None

    def grid(self, size: tuple[int, int]) -> Grid:
        """Rows and columns of patches of an image of ``size`` (width, height)."""
        return native_grid(size[1], size[0], self.patch_size, self.max_tokens)

    def placed(self, picture: Image.Image, interpolation: str) -> Image.Image:
        """The whole picture, as large as the backbone sees it."""
        sides = [side * self.patch_size for side in self.grid(picture.size)]
        return F.resize(picture, sides, InterpolationMode(interpolation))

    def transform(self, image: Image.Image) -> Ragged:
        return self.patchified(self.normalised(self.crop(image)))

    def patchified(self, pixels: Tensor) -> Ragged:
        """Normalised pixels ``(C, H, W)``, both a multiple of p → one example."""
        rows, columns = (side // self.patch_size for side in pixels.shape[1:])
        coords = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        return Ragged.of(patches_of(pixels, self.patch_size), coords.view(-1, 2).float())

    def blank(self) -> Ragged:
        """An image of exactly ``max_tokens`` patches, as near to a square as these allow."""
        rows = max(n for n in range(1, math.isqrt(self.max_tokens) + 1) if not self.max_tokens % n)
        sides = rows * self.patch_size, self.max_tokens // rows * self.patch_size
        return self.patchified(torch.zeros(self.channels, *sides))

    def transform_boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        rows, columns = self.grid(size)
        ends = np.array([columns, rows] * 2, np.float64) * self.patch_size
        scale = ends / np.array([*size, *size])
        return (np.asarray(boxes, np.float64) * scale).clip(0, ends).astype(np.float32)

    def cover(self, mask: Image.Image) -> np.ndarray:
        """Which part of each patch lies on the object: a mask as large as the image → ``(N,)`` float32."""
        inside = np.asarray(self.placed(mask.convert("L"), "nearest")) > 127
        rows, columns = (side // self.patch_size for side in inside.shape)
        cells = inside.reshape(rows, self.patch_size, columns, self.patch_size)
        return cells.mean((1, 3), dtype=np.float64).reshape(-1).astype(np.float32)


def image_preprocessing(**fields: Any) -> ImagePreprocessing:
    """That of images by its fields: with ``max_tokens`` they keep their shape."""
    return NativePreprocessing(**fields) if "max_tokens" in fields else Preprocessing(**fields)


def native_transform(
    spec: str,
    images: ImageOptions,
    patch: int | None,
    stated: Mapping[str, Any],
    most: int,
) -> tuple[NativePreprocessing, list[str]]:
    """The transform by ``images`` and a library's configuration, and what was assumed.

    Args:
        patch: pixels a side of the model's patches; ``None`` for a model without square ones.
        stated: fields of `NativePreprocessing` in the configuration.
        most: tokens of the images that the model was built for, unless ``stated`` has ``max_tokens``.

    Raises:
        IceprobeError: if the model has no patches, or an option is of a crop.
    """
    if patch is None:
        raise IceprobeError(
            f"{spec}: image_size={NATIVE} is for vision transformers with square patches, and this model has "
            "none: give image_size= a number of pixels"
        )
    for key in ("crop_pct", "resize"):
        if getattr(images, key) is not None:
            raise IceprobeError(
                f"{spec}: image_size={NATIVE} crops nothing and keeps the aspect: leave {key} out"
            )
    fields = {key: value for key, value in images.given.items() if key != "image_size"}
    if stated.get("interpolation") == "random":  # drawn for each training image
        stated = {**stated, "interpolation": "bicubic"}
    assumed = [] if "max_tokens" in {**stated, **fields} else [
        f"{spec}: max_tokens={most}, as many as images of the model's own size have"
    ]  # fmt: skip
    return NativePreprocessing(
        **{"max_tokens": most, **stated, **fields, "patch_size": patch}
    ), assumed
