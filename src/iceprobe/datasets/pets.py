"""Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds, and masks of the animals.

A trimap marks each pixel as 1 (animal), 2 (background) or 3 (border, or not classified). The mask is
animal and border together: without the border, thin parts such as ears and tails would be background.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from iceprobe.datasets.base import Split
from iceprobe.datasets.decoding import decode, turn_of
from iceprobe.datasets.files import FileSplit, below, listing_digest
from iceprobe.datasets.pixels import Reading, turned
from iceprobe.machine.object_storage import stream

BACKGROUND = 2
_AS_STORED = Reading(alpha="drop", orientation="ignore")


class PetSplit(FileSplit):
    """Images with trimaps, n names of files relative to ``root``."""

    def __init__(
        self, name: str, root: Path, names: list[str], labels: list[int], trimaps: list[str]
    ):
        super().__init__(name, root, names, labels, masks=True)
        self.trimaps = trimaps

    def mask(self, index: int) -> Image.Image:
        path, image = self.root / self.trimaps[index], self.root / self.names[index]
        trimap = np.asarray(decode(stream(path), str(path), _AS_STORED))
        mask = Image.fromarray(np.where(trimap == BACKGROUND, 0, 255).astype(np.uint8))
        return turned(mask, turn_of(stream(image), self.reading))  # as its image is turned

    def fingerprint(self) -> str:
        """Sha256 over the listings of images and trimaps; no image is read."""
        trimaps = listing_digest(self.root, self.trimaps, self.labels.tolist())
        return hashlib.sha256((super().fingerprint() + trimaps).encode()).hexdigest()


def read_pets(root: Path, name: str, parts: Sequence[str]) -> tuple[Split, list[str]]:
    """Read the parts ``"trainval"`` or ``"test"``; labels on disk count from 1."""
    made = [OxfordIIITPet(root, split=part) for part in parts]
    split = PetSplit(
        name,
        root,
        below(root, [file for part in made for file in part._images]),
        [label for part in made for label in part._labels],
        below(root, [file for part in made for file in part._segs]),
    )
    return split, made[0].classes
