"""Backbones as a user would write them, small enough to be exported in a second."""

import torch
from torch import Tensor, nn

from iceprobe.tokens import Tokens


class Bright(nn.Module):
    """Patches of 8 pixels on a 4 x 4 grid; the first of 16 features is the patch's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, stride=8)
        nn.init.constant_(self.patch.weight[:1], 1 / (3 * 64))
        nn.init.zeros_(self.patch.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.patch(images)


def bright() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Bright()


class Wide(nn.Module):
    """D = 64 on a 4 x 4 grid behind a class token: every published probe fits on it."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 64))

    def tokens(self, images: Tensor) -> Tokens:
        x = self.patch(images)
        patches = x.flatten(2).transpose(1, 2)
        cls = self.token + patches.mean(1, keepdim=True)
        return Tokens(patches, cls, (x.shape[2], x.shape[3]), True)


def wide() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Wide()


class Fickle(Wide):
    """What the values are decides what is done: no exporter can write that down."""

    def tokens(self, images: Tensor) -> Tokens:
        if float(images.sum()) > 1e9:
            images = images.flip(0)
        return super().tokens(images)


def fickle() -> nn.Module:
    return Fickle()
