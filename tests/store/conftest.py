"""A small backbone with honest weights, and small images."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.datasets.base import ArraySplit, BadImage, Dataset
from iceprobe.tokens import Tokens

SIDE, DIM, GRID = 16, 8, (4, 4)
PREPROCESSING = Preprocessing(SIDE, (0.4,), (0.3,), crop_pct=1.0, channels=1)


class Reader(nn.Module):
    """Patches by a convolution, a class token from their mean; counts its forward passes."""

    def __init__(self, scale: float = 1.0, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Conv2d(1, DIM, SIDE // GRID[0], SIDE // GRID[0])
        self.scale, self.images = scale, 0

    def forward(self, images: Tensor) -> Tokens:
        self.images += len(images)
        patches = self.embed(images).flatten(2).transpose(1, 2) * self.scale
        prefix = torch.stack([patches.mean(1), patches.amax(1)], 1)
        return Tokens(patches, prefix, GRID, has_class=True)


def make_backbone(scale: float = 1.0, seed: int = 0, **settings) -> Backbone:
    backbone = Backbone(
        Reader(scale, seed), PREPROCESSING, spec="test:small", name="small", settings=settings
    )
    backbone.reader.images = 0
    return backbone


class Images(ArraySplit):
    """Grey images with a box and a mask each, some of which can't be read."""

    def __init__(self, *arguments, bad: tuple[int, ...] = ()):
        super().__init__(*arguments)
        self.bad, self.masks = bad, True
        # The box, less its upper left corner: not the same seen in a mirror.
        self.objects = np.zeros_like(self.images)
        for (x0, y0, x1, y1), mask in zip(self.boxes.astype(int), self.objects, strict=True):
            mask[y0:y1, x0:x1], mask[y0 : y0 + 5, x0 : x0 + 5] = 255, 0

    def image(self, index: int):
        if index in self.bad:
            raise BadImage(f"image {self.names[index]} can't be read")
        return super().image(index)

    def mask(self, index: int):
        return Image.fromarray(self.objects[index])

    def fingerprint(self) -> str:
        masks = hashlib.sha256(self.objects.tobytes()).hexdigest()
        return super().fingerprint() + masks


def make_split(name: str, count: int, seed: int, bad: tuple[int, ...] = ()) -> Images:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 8, (count, 2))
    return Images(
        name,
        rng.integers(0, 256, (count, 20, 20), dtype=np.uint8),
        rng.integers(0, 3, count),
        [f"{name}/{index:05d}.png" for index in range(count)],
        np.concatenate([corner, corner + 10], 1),
        bad=bad,
    )


def make_dataset(
    train: int = 50, test: int = 12, seed: int = 0, bad: tuple[int, ...] = ()
) -> Dataset:
    return Dataset(
        spec="test:images",
        name="images",
        classes=["a", "b", "<script>"],
        splits={
            "train": make_split("train", train, seed, bad),
            "test": make_split("test", test, seed + 1),
        },
    )


SMALL = dict(batch_size=4, shard_images=10)  # 5 shards of 4 + 4 + 2 images, and 2 of test


def content(folder: Path) -> dict[str, bytes]:
    """Name → bytes of everything below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def backbone() -> Backbone:
    return make_backbone()


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset()
