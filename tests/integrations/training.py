"""A small training run in which everything that a look could disturb counts, and data to look at."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from iceprobe.backbones import Preprocessing

PROBES = ["knn", "linear?input=mean", "ep2"]
QUICK: dict[str, Any] = dict(epochs=3, batch_size=32, learning_rates=[1e-2])


class Encoder(nn.Module):
    """Patches of 4 pixels, with batch norm, dropout, and a buffer that counts forward passes in any mode."""

    preprocessing = Preprocessing(16, (0.5,), (0.25,), channels=1)

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.drop = nn.Conv2d(1, 8, 4, 4), nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        return self.drop(self.norm(self.patch(images)))


class Model(nn.Module):
    """An encoder with a head, part of which is frozen and part always in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Encoder(), nn.Linear(8, 2)
        self.backbone.patch.bias.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).mean((2, 3)))


class Augmented(Dataset):
    """Images in training, augmented with the random numbers of Python, of numpy and of torch."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = torch.full((1, 16, 16), (row % 2) * 1.0) + 0.1 * torch.randn(1, 16, 16)
        image = image.roll(random.randrange(4), 1).flip(1 + int(np.random.randint(2)))
        return image, row % 2


class Labelled(Dataset):
    """Images to look at: light and dark ones. Reading one draws random numbers, which changes nothing of it."""

    def __init__(self, count: int, shift: int = 80):
        self.count, self.shift, self.reads = count, shift, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        self.reads += 1
        random.random(), np.random.rand(), torch.rand(1)
        noise = np.random.default_rng([self.count, row]).integers(0, 90, (20, 20))
        return Image.fromarray((noise + self.shift * (row % 2)).astype(np.uint8)), row % 2


def labelled() -> dict[str, Labelled]:
    return {"train": Labelled(60), "test": Labelled(30)}


def seed() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)


def loader(batch_size: int = 8) -> DataLoader:
    return DataLoader(Augmented(), batch_size=batch_size, shuffle=True)


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    images, labels = batch
    return cross_entropy(model(images), labels)


def drawn() -> list[Any]:
    """The next random numbers of each generator."""
    return [random.random(), np.random.rand(), torch.rand(1).item()]


def assert_same(one: Any, other: Any) -> None:
    """Two trees of tensors are the same, bit by bit."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other
