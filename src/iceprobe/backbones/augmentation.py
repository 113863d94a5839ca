"""Random views of a training image, for augmented and live stores.

    view = normalise(flip(resize(crop)))

The crop has a requested area of s·H·W, s ~ U(scale), a requested aspect of
exp(U(log 3/4, log 4/3)) and a random place in the image; it is resized to S x S (bicubic). Szegedy
et al. (2015), "Going deeper with convolutions". Implementations differ if it doesn't fit:

    clamped   h = min(√(sHW/r), H), w = min(√(sHW·r), W) from one draw: masked autoencoders' code,
              which the publication of Efficient Probing trains with
    redrawn   s and r again, ten times, then a centred crop: torchvision's ``RandomResizedCrop``

Clamped crops are larger (on average 52% against 43% of an image of 500 x 375) and more often span
a whole side (26% against 0.6%). torchvision's transforms use the process's one generator, which
threads share; these functions take a generator.
"""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from iceprobe.backbones.clip_preprocessing import ClipPreprocessing
from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, plural
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.backbones.strengths import STRENGTHS, Strength
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.clips import Clip

RATIO = (3 / 4, 4 / 3)  # width over height of the crop
TRIES = 10  # for a crop within the image, as in torchvision

Augmentation = Callable[[Any, torch.Generator], Inputs]
RandomView = Callable[[Image.Image, torch.Generator], Image.Image]


def random_view(preprocessing: Preprocessing, strength: str = "paper") -> RandomView:
    """A function of an image and a generator that returns a random view of S x S pixels.

    Raises:
        IceprobeError: for an unknown strength.
    """
    if strength not in STRENGTHS:
        raise IceprobeError(unknown("augmentation", strength, STRENGTHS))
    return partial(_view, preprocessing, STRENGTHS[strength])


def augmentation(preprocessing: ExamplePreprocessing, strength: str = "paper") -> Augmentation:
    """The same, normalised for the backbone: float32 ``(C, S, S)`` of an image.

    The view depends on the generator's state only. The function can be pickled.

    Args:
        preprocessing: of the backbone: size, channels, mean and std.
        strength: ``"paper"``, ``"light"`` or ``"clip"``, see `STRENGTHS`.

    Raises:
        IceprobeError: for an unknown strength, and, when it is called, for examples without random views.
    """
    if not preprocessing.augmented:
        return partial(_none, plural(preprocessing.kind))
    frame: Preprocessing = preprocessing.frame
    of_picture = partial(_normalised, frame, random_view(frame, strength))
    if isinstance(preprocessing, ClipPreprocessing):
        return partial(_of_clip, preprocessing, of_picture)
    return of_picture


def view_generator(index: int, view: int) -> torch.Generator:
    """The generator of view ``view`` of the image at ``index`` in its split, in any process."""
    digest = hashlib.sha256(f"{index} {view}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def _none(kinds: str, example: Any, generator: torch.Generator) -> Inputs:
    raise IceprobeError(f"such {kinds} have no random views: leave views and augmentation out")


def _of_clip(
    preprocessing: ClipPreprocessing,
    of_picture: Augmentation,
    clip: Clip,
    generator: torch.Generator,
) -> Inputs:
    """The same random view of every frame."""
    state = generator.get_state()
    return preprocessing.views(
        clip, lambda frame: of_picture(frame, torch.Generator().set_state(state))
    )


def _normalised(
    preprocessing: Preprocessing, view: RandomView, image: Image.Image, generator: torch.Generator
) -> Tensor:
    return preprocessing.normalised(view(image, generator))


def _view(
    preprocessing: Preprocessing,
    strength: Strength,
    image: Image.Image,
    generator: torch.Generator,
) -> Image.Image:
    side = preprocessing.image_size
    crop = clamped_crop if strength.clamped else redrawn_crop
    top, left, height, width = crop(image.size, strength.scale, generator)
    picture = F.resized_crop(
        preprocessing.converted(image),
        top, left, height, width,
        [side, side],
        interpolation=InterpolationMode.BICUBIC,
    )  # fmt: skip
    mirrored = strength.mirrored and torch.rand(1, generator=generator).item() < 0.5
    return F.horizontal_flip(picture) if mirrored else picture


def clamped_crop(
    size: tuple[int, int], scale: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of an image of ``size`` (width, height)."""
    wide, high = size
    width, height = _sides(size, scale, generator)
    width, height = min(max(width, 1), wide), min(max(height, 1), high)
    return (*_corner(wide - width, high - height, generator), height, width)


def redrawn_crop(
    size: tuple[int, int], scale: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of an image of ``size`` (width, height).

    If no try lies within the image: the largest centred crop of the nearest allowed ratio.
    """
    wide, high = size
    for _ in range(TRIES):
        width, height = _sides(size, scale, generator)
        if 0 < width <= wide and 0 < height <= high:
            return (*_corner(wide - width, high - height, generator), height, width)
    ratio = min(max(wide / high, RATIO[0]), RATIO[1])
    width, height = min(wide, round(high * ratio)), min(high, round(wide / ratio))
    return (high - height) // 2, (wide - width) // 2, height, width


def _sides(
    size: tuple[int, int], scale: tuple[float, float], generator: torch.Generator
) -> tuple[int, int]:
    """Requested width and height."""
    area = size[0] * size[1] * torch.empty(1).uniform_(*scale, generator=generator).item()
    logarithm = torch.empty(1).uniform_(*map(math.log, RATIO), generator=generator)
    ratio = logarithm.exp().item()
    return round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))


def _corner(right: int, down: int, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of a crop, given the room to its right and below."""
    top = torch.randint(down + 1, (1,), generator=generator).item()
    left = torch.randint(right + 1, (1,), generator=generator).item()
    return int(top), int(left)
