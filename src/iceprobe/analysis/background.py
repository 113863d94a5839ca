"""Background shortcut: how much accuracy is lost when everything but the object is replaced.

    shortcut = accuracy(images) − accuracy(images with another background)

Without classes it is how much worse the leading metric gets (`iceprobe.analysis.scoring`).

A probe that reads the object alone loses nothing; one that depends on its surroundings does.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.results.statistics import Difference, paired_difference
from iceprobe.store.forward import autocast
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone
    from iceprobe.store import Store

CLUTTER, MEAN = "clutter of other images", "mean colour"


def replace_background(images: Tensor, boxes: Tensor, background: Tensor) -> Tensor:
    """Everything outside the box replaced: ``(B, C, S, S)`` → the same shape.

    A pixel belongs to the box if its centre lies in it; with a box without area all pixels are replaced.

    Args:
        images: pixels.
        boxes: ``(B, 4)`` as ``x0, y0, x1, y1`` in pixels with exclusive upper ends.
        background: ``(B, C, S, S)``, such as other images' clutter, or ``(C,)``, such as a mean colour.
    """
    if background.ndim == 1:
        background = background[:, None, None]
    centres = torch.arange(images.shape[-1], device=images.device) + 0.5
    x, y = centres[None, None, :], centres[None, :, None]
    x0, y0, x1, y1 = (side[:, None, None] for side in boxes.unbind(1))
    inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return torch.where(inside[:, None], images, background)


def shortcut(
    correct: ArrayLike,
    replaced: ArrayLike,
    classes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    fractions: bool = True,
) -> Difference:
    """The drop in accuracy with its 95% interval, paired over images and over the probe's seeds.

    Args:
        correct: ``(S, n)`` or ``(n,)``, right on the images as they are; or values of another metric whose
            mean it is, higher where it is better.
        replaced: the same of images with another background.
        classes: ``(n,)``, for a mean of each class's accuracy.
        groups: ``(n,)``, equal for images that aren't independent; None: all are.
        fractions: whether these are bound to [0, 1].
    """
    return paired_difference(
        correct, replaced, classes, groups, replicates=True, fractions=fractions
    )


class OtherBackgrounds:
    """Images of a split with another background, as tokens made by their backbone.

    The background of composed images is that of another image, drawn once; elsewhere it is the mean
    colour of the backbone's preprocessing.

    Args:
        store: with boxes and its images.
        split: of it.
        backbone: that made its tokens, on the device where it is to run.

    Attributes:
        name: of the background, as in ``Shortcut.background``.
        rows: of the split, those with a box in the crop.
    """

    def __init__(self, store: "Store", split: str, backbone: "Backbone"):
        self.store, self.split, self.backbone = store, split, backbone
        self.part, self.source = store[split], store.dataset().splits[split]
        if self.part.boxes is None:
            raise IceprobeError(
                f"{store.manifest.dataset.spec} has no boxes, so nothing tells its objects from "
                "their background: leave --background out, or take a data set with boxes"
            )
        self.boxes = torch.from_numpy(self.part.boxes)
        self.rows = np.flatnonzero(((self.boxes[:, 2:] - self.boxes[:, :2]) > 0).all(1).numpy())
        order = np.random.default_rng(0).permutation(len(self.part))
        self.other = np.empty_like(order)
        self.other[order] = np.roll(order, 1)  # one cycle through all: never an image's own
        self.composed = self.source.background(int(self.part.index[0])) is not None
        self.name = CLUTTER if self.composed else MEAN

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Normalised ``(b, C, S, S)`` with what is outside the box replaced."""
        preprocessing = self.backbone.of_images("a measure of other backgrounds")
        pictures = self.store.images(self.split, rows)
        own = torch.stack([preprocessing.normalised(one) for one in pictures])
        background = torch.zeros(own.shape[1])  # the mean, once images are normalised
        if self.composed:
            others = [self.source.background(i) for i in self.part.index[self.other[rows]].tolist()]
            background = torch.stack([preprocessing.transform(one) for one in others if one])
        return replace_background(own, self.boxes[torch.from_numpy(rows)], background)

    def tokens(self, rows: NDArray[np.int64]) -> Tokens:
        """What the backbone makes of :meth:`images`, in the dtype that the store was made in."""
        device = self.backbone.device
        with torch.no_grad(), autocast(device, self.store.manifest.settings.forward_dtype):
            tokens = self.backbone(self.images(rows).to(device))
        return replace(
            tokens,
            patches=tokens.patches.float(),
            prefix=tokens.prefix.float(),
            vectors={name: vector.float() for name, vector in tokens.vectors.items()},
        )
