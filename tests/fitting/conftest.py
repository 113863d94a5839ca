"""A small stored split with something to learn, without a backbone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from iceprobe.tokens import TokenShape

DIM, GRID, CLASSES = 24, (3, 4), 3


@dataclass
class PlantedSplit:
    """Tokens whose class is written into one patch, at a place that changes by image."""

    tokens: Tensor
    prefix: Tensor
    labels: np.ndarray
    live, lengths = False, None
    shape = TokenShape(DIM, GRID[0] * GRID[1], 1, GRID, has_class=True)

    @property
    def mean(self) -> Tensor:
        return self.tokens.mean(1)

    def __len__(self) -> int:
        return len(self.labels)

    def relative_sizes(self, rows: np.ndarray) -> None:
        return None

    def rows(self, name: str, rows: np.ndarray, pinned: bool = False) -> Tensor:
        return getattr(self, name)[torch.from_numpy(np.asarray(rows))]

    def patches(self, rows: np.ndarray, device=None, dtype=None) -> Tensor:
        return self.tokens[torch.from_numpy(np.asarray(rows))].to(device, dtype)


def planted(n: int, seed: int) -> PlantedSplit:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(n, GRID[0] * GRID[1], DIM, generator=generator)
    labels = torch.arange(n) % CLASSES
    place = torch.randint(0, tokens.shape[1], (n,), generator=generator)
    signal = torch.zeros(n, DIM)
    signal[:, 0] = 6  # says "look here"
    signal[torch.arange(n), 1 + labels] = 4
    tokens[torch.arange(n), place] += signal
    prefix = tokens.mean(1, keepdim=True) + 0.1 * torch.randn(n, 1, DIM, generator=generator)
    return PlantedSplit(tokens, prefix, labels.numpy())


@pytest.fixture
def train() -> PlantedSplit:
    return planted(150, seed=0)


@pytest.fixture
def test() -> PlantedSplit:
    return planted(90, seed=1)
