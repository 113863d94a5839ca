"""The kinds of random views by name. Importing this doesn't import torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Strength:
    """A kind of random view.

    Attributes:
        scale: least and largest part of the image's area that a crop is asked to take.
        clamped: whether a crop that doesn't fit is cut off, and not redrawn.
        mirrored: whether every other view is mirrored.
        source: where it is from.
    """

    scale: tuple[float, float]
    clamped: bool
    mirrored: bool
    source: str


STRENGTHS = {
    "paper": Strength((0.08, 1.0), True, True, "the publication, as masked autoencoders' code"),
    "light": Strength((0.5, 1.0), False, True, "this project"),
    "clip": Strength((0.9, 1.0), False, False, "the publication's vision–language encoders"),
}
