"""A backbone of images of their own shape, and images of several shapes with a box and a mask each."""

import hashlib

import numpy as np
import torch
from PIL import Image
from torch import nn

from iceprobe.backbones import NativePreprocessing
from iceprobe.backbones.kinds import Ragged
from iceprobe.datasets.base import Dataset, Split
from iceprobe.tokens import Tokens

PATCH, DIM = 4, 8
NATIVE = NativePreprocessing(PATCH, 24, (0.4,), (0.3,), channels=1)


class Patches(nn.Module):
    """A linear map of each patch, shifted by the mean of the image's own; a class token of their mean."""

    preprocessing = NATIVE

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Linear(PATCH * PATCH, DIM)

    def tokens(self, images: Ragged) -> Tokens:
        assert images.coords is not None
        rows = self.embed(images.padded()) * images.mask[..., None]
        mean = rows.sum(1, keepdim=True) / images.mask.sum(1)[:, None, None]
        coords = images.padded(images.coords)
        return Tokens(rows + mean, mean, None, True, {}, images.mask, coords)


class Shapes(Split):
    """Grey images of 12 to 40 pixels a side, brighter on their object, an ellipse in a box."""

    def __init__(self, name: str, count: int, seed: int):
        rng = np.random.default_rng(seed)
        self.pictures, self.objects, boxes = [], [], []
        labels = rng.integers(0, 2, count)
        for label in labels:
            width, height = rng.integers(12, 41, 2)
            x0, y0 = rng.integers(0, (width // 2, height // 2))
            x1, y1 = x0 + width // 2, y0 + height // 2
            across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
            inside = ((2 * across - x0 - x1) / (x1 - x0)) ** 2 + (
                (2 * down - y0 - y1) / (y1 - y0)
            ) ** 2 < 1
            pixels = rng.integers(0, 100, (height, width)) + inside * (60 + 80 * label)
            self.pictures.append(pixels.astype(np.uint8))
            self.objects.append((255 * inside).astype(np.uint8))
            boxes.append((x0, y0, x1, y1))
        names = [f"{name}/{index:05d}.png" for index in range(count)]
        super().__init__(name, labels, names, np.array(boxes, np.float32))
        self.masks = True

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pictures[index])

    def mask(self, index: int) -> Image.Image | None:
        return None if index == 1 else Image.fromarray(self.objects[index])

    def fingerprint(self) -> str:
        return hashlib.sha256(
            b"".join(p.tobytes() for p in self.pictures + self.objects)
        ).hexdigest()


def dataset(train: int = 40, test: int = 14) -> Dataset:
    splits = {"train": Shapes("train", train, 0), "test": Shapes("test", test, 1)}
    return Dataset("python:shapes", "shapes", ["dim", "bright"], splits)
