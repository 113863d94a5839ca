"""From a bag of images to a backbone's input: every image, as the backbone reads it alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, Ragged
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.datasets.bags import Bag


@dataclass(frozen=True)
class BagPreprocessing(ExamplePreprocessing):
    """The images of a bag, one after the other.

    Attributes:
        picture: how each is prepared.
    """

    kind: ClassVar[str] = "bag"

    picture: Preprocessing

    def __post_init__(self) -> None:
        if isinstance(self.picture, Mapping):
            object.__setattr__(self, "picture", Preprocessing(**self.picture))

    @property
    def shape(self) -> None:
        """Bags differ in their number of images."""
        return None

    @property
    def frame(self) -> Preprocessing:
        return self.picture

    def transform(self, example: Bag) -> Ragged:
        """``(L, C, S, S)`` of one bag."""
        made = [self.picture.transform(example.image(place)) for place in range(len(example))]
        coords = None if example.coords is None else torch.from_numpy(example.coords)
        return Ragged.of(torch.stack(made), coords)

    def blank(self) -> Inputs:
        """A bag of one image."""
        return Ragged.of(torch.zeros(1, *self.picture.shape))

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "picture": self.picture.as_dict()}
