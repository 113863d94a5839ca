"""The kinds of random views by name. This module doesn't import torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Strength:
    """A kind of random view.

    Attributes:
        scale: smallest and largest requested area of a crop, as a part of the image's.
        clamped: whether a crop that doesn't fit is clamped instead of redrawn.
        mirrored: whether half of the views are mirrored.
    """

    scale: tuple[float, float]
    clamped: bool
    mirrored: bool


STRENGTHS = {
    "paper": Strength((0.08, 1.0), True, True),  # the publication, as masked autoencoders' code
    "light": Strength((0.5, 1.0), False, True),  # this project
    "clip": Strength((0.9, 1.0), False, False),  # the publication's vision–language encoders
}
