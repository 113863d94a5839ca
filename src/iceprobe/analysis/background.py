"""Background shortcut: what accuracy is lost when all but the object is exchanged.

    shortcut = accuracy(images) − accuracy(images with another background)

A probe that reads the object alone loses nothing; one that leans on its surroundings does.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from iceprobe.results.statistics import Difference, paired_bootstrap


def replace_background(images: Tensor, boxes: Tensor, background: Tensor) -> Tensor:
    """Everything outside the box from elsewhere: ``(B, C, S, S)`` → the same shape.

    A pixel belongs to the box if its centre lies in it; a box without area leaves nothing of its
    image.

    Args:
        images: pixels.
        boxes: ``(B, 4)`` as ``x0, y0, x1, y1`` in pixels with exclusive upper ends.
        background: ``(B, C, S, S)``, such as other images' clutter, or ``(C,)``, such as the mean
            of the data set.
    """
    if background.ndim == 1:
        background = background[:, None, None]
    centres = torch.arange(images.shape[-1], device=images.device) + 0.5
    x, y = centres[None, None, :], centres[None, :, None]
    x0, y0, x1, y1 = (side[:, None, None] for side in boxes.unbind(1))
    inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return torch.where(inside[:, None], images, background)


def shortcut(correct: ArrayLike, replaced: ArrayLike, *, seed: int = 0) -> Difference:
    """The drop in accuracy with its 95% interval, paired over images.

    Args:
        correct: ``(S, n)`` or ``(n,)``, right on the images as they are.
        replaced: the same of images with another background.
    """
    return paired_bootstrap(correct, replaced, seed=seed)
