"""From a decoded image to a backbone's input: resize, centre crop, normalise."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_modes_mapping
from torchvision.transforms.v2 import functional as F

from iceprobe.backbones.kinds import ExamplePreprocessing
from iceprobe.backbones.options import ImageOptions
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.pixels import plain

LARGEST_RESIZED = 2**25  # pixels, 100 MB in RGB: 512 to 1 at a shorter side of 256
CROP_PCT = 224 / 256  # of the resized shorter side, as in published linear and attentive probes
CHOICES = {
    "resize": ("shorter", "squash"),
    "order": ("RGB", "BGR"),
    "interpolation": tuple(mode.value for mode in InterpolationMode),
}


def check_image_size(image_size: int, patch: int, model: str) -> None:
    """Refuse an image size that is no multiple of the patch size: models drop the rest silently.

    Raises:
        IceprobeError: names the nearest multiples.
    """
    if image_size % patch:
        near = max(image_size // patch, 1) * patch
        raise IceprobeError(
            f"image_size={image_size} is no multiple of the patch size {patch} of {model}: "
            f"take {near} or {near + patch}"
        )


def check_square(spec: str, height: int, width: int) -> None:
    """Raise IceprobeError for a model whose images aren't square."""
    if height != width:
        raise IceprobeError(
            f"{spec}: its images are {height} x {width} pixels (height x width), iceprobe's are "
            "square: pass image_size= where the model takes square ones, else take it as python: "
            "in a module that resizes its images itself"
        )


def other_crop(spec: str, own: str) -> str:
    """The line that states that a model's own transform (``own``) isn't a centre crop."""
    return f"{spec}: the shorter side is resized and the centre cropped, as for every model; {own}"


class ImagePreprocessing(ExamplePreprocessing):
    """What preprocessings of single images share: colours, statistics, and where a point comes to lie.

    Attributes:
        mean, std: one value a channel in the backbone's order, for pixels in [0, 1].
        interpolation: ``"bicubic"``, ``"bilinear"``, ``"lanczos"`` or ``"nearest"``.
        channels: 3 (colour) or 1 (grey).
        order: of three channels, ``"RGB"`` or ``"BGR"``.
    """

    kind: ClassVar[str] = "image"
    choices: ClassVar[tuple[str, ...]] = ("order", "interpolation")
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    channels: int
    order: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        if self.channels not in (1, 3):
            raise IceprobeError(
                f"a model of {self.channels} channels: images are read as RGB (3) or grey (1), so "
                "mean and std have 3 values or 1; wrap the model in one that makes its channels of "
                "these (docs/images.md, More than three bands)"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise IceprobeError(
                    f"{name}={values} has {len(values)} values for {self.channels} channel(s): "
                    "give one a channel"
                )
            if not all(map(math.isfinite, values)):
                raise IceprobeError(f"{name}={values}: take finite numbers")
        if min(self.std) <= 0:
            raise IceprobeError(f"std={self.std}: standard deviations are above 0")
        for name in self.choices:
            if (value := getattr(self, name)) not in CHOICES[name]:
                raise IceprobeError(f"{name}={value!r}: take one of {', '.join(CHOICES[name])}")

    @property
    def frame(self) -> Self:
        return self

    @abstractmethod
    def placed(self, picture: Image.Image, interpolation: str) -> Image.Image:
        """A picture of any mode, resized (and cropped) as an image of its size is."""

    @abstractmethod
    def transform_boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes on the original image → boxes on the crop, clipped to it.

        Args:
            boxes: ``(k, 4)`` as ``x0, y0, x1, y1`` in pixels with exclusive upper ends.
            size: width and height of the original image.

        Returns:
            ``(k, 4)`` float32; a box wholly outside the crop has no area.
        """

    def crop(self, image: Image.Image) -> Image.Image:
        """The backbone's input as a picture."""
        return self.placed(self.converted(image), self.interpolation)

    def converted(self, image: Image.Image) -> Image.Image:
        """The image as RGB or grey, as the backbone reads it."""
        return plain(image).convert("L" if self.channels == 1 else "RGB")

    def normalised(self, picture: Image.Image) -> Tensor:
        """A converted and placed picture → float32 ``(C, H, W)``."""
        return self.normalised_pixels(F.pil_to_tensor(picture))

    def normalised_pixels(self, pixels: Tensor) -> Tensor:
        """uint8 ``(…, C, H, W)``, channels as PIL has them → float32 of the same shape."""
        if self.order == "BGR":
            pixels = pixels.flip(-3)
        mean = torch.tensor(self.mean, device=pixels.device)
        std = torch.tensor(self.std, device=pixels.device)
        return pixels.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])

    def as_dict(self) -> dict[str, Any]:
        """Its fields as JSON values, without ``resize`` and ``order`` at their defaults.

        So stores and exported folders from before these two fields existed keep their identity.
        """
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
            if key not in ("resize", "order") or value != getattr(type(self), key)
        }


@dataclass(frozen=True)
class Preprocessing(ImagePreprocessing):
    """The evaluation transform of a backbone of images.

    The shorter side is resized to ``int(image_size / crop_pct)`` and the centre is cropped. With
    the usual ``crop_pct`` of 224/256 the resize is ``int(image_size * 256 / 224)``.

    Attributes:
        image_size: S, pixels a side of the backbone's input.
        mean, std: one value a channel in the backbone's order, for pixels in [0, 1].
        interpolation: ``"bicubic"``, ``"bilinear"``, ``"lanczos"`` or ``"nearest"``.
        crop_pct: side of the crop over the resized side, in (0, 1].
        channels: 3 (colour) or 1 (grey).
        resize: ``"shorter"`` (that side is resized, the aspect is kept) or ``"squash"`` (both).
        order: of three channels, ``"RGB"`` or ``"BGR"``.
    """

    augmented: ClassVar[bool] = True
    choices: ClassVar[tuple[str, ...]] = ("resize", "order", "interpolation")

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = CROP_PCT
    channels: int = 3
    resize: str = "shorter"
    order: str = "RGB"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise IceprobeError(f"image_size={self.image_size}: take a number of pixels above 0")
        super().__post_init__()
        if not 0 < self.crop_pct <= 1:
            raise IceprobeError(f"crop_pct={self.crop_pct}: take one in (0, 1]")

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, S, S)``."""
        return self.channels, self.image_size, self.image_size

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height after the resize, of an image of ``size`` (width, height)."""
        width, height = size
        side = int(self.image_size / self.crop_pct)
        if self.resize == "squash":
            return side, side
        if width <= height:
            return side, int(side * height / width)
        return int(side * width / height), side

    def placed(self, picture: Image.Image, interpolation: str) -> Image.Image:
        width, height = self.resized(picture.size)
        mode = InterpolationMode(interpolation)
        if width * height > LARGEST_RESIZED:
            return self._crop_of_strip(picture, width, height, mode)
        resized = F.resize(picture, [height, width], mode)
        return F.center_crop(resized, [self.image_size, self.image_size])

    def _crop_of_strip(
        self, picture: Image.Image, width: int, height: int, mode: InterpolationMode
    ) -> Image.Image:
        """The same crop of an image so long that the resized one would take gigabytes.

        Only the cropped part is resized. Pixels beside it still count at its edges, so the result
        differs only by the rounding of coordinates.
        """
        side = self.image_size
        left, top = round((width - side) / 2.0), round((height - side) / 2.0)
        across, down = picture.width / width, picture.height / height
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
        return picture.resize((side, side), pil_modes_mapping[mode], box)

    def transform(self, image: Image.Image) -> Tensor:
        """The backbone's input: float32 ``(C, S, S)``."""
        return self.normalised(self.crop(image))

    def transform_boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        resized = self.resized(size)
        scale = np.array([resized[0] / size[0], resized[1] / size[1]] * 2)
        # torchvision's centre crop rounds half to even, so does Python.
        left, top = (round((side - self.image_size) / 2.0) for side in resized)
        moved = np.asarray(boxes, np.float64) * scale - np.array([left, top, left, top])
        return moved.clip(0, self.image_size).astype(np.float32)


def stated_transform(
    spec: str,
    images: ImageOptions,
    size: Sequence[int],
    stated: Mapping[str, Any],
    own_crop: str | None,
) -> tuple[Preprocessing, list[str]]:
    """The transform by ``images`` and a library's configuration, and what was assumed.

    Args:
        size: height and width that the model was built for.
        stated: fields of :class:`Preprocessing` in the configuration.
        own_crop: a clause for the assumed line if the library's own crop isn't a centre crop.

    Raises:
        IceprobeError: for images that aren't square, unless ``image_size`` is given.
    """
    height, width = size
    if images.image_size is None:
        check_square(spec, height, width)
    fields = {"image_size": height, **stated}
    if fields["interpolation"] == "random":  # drawn for each training image
        fields["interpolation"] = "bicubic"
    crop = [other_crop(spec, own_crop)] if own_crop and not images.resize else []
    return Preprocessing(**{**fields, **images.given}), crop
