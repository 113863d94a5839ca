import pytest
import torch


@pytest.fixture
def maps():
    """(6, 5, 12) on a grid of 3 × 4: of each image one map on a single patch, one uniform."""
    generator = torch.Generator().manual_seed(0)
    found = (3 * torch.randn(6, 5, 12, generator=generator, dtype=torch.float64)).softmax(-1)
    found[:, 0] = torch.eye(12, dtype=torch.float64)[torch.arange(6)]
    found[:, 1] = 1 / 12
    return found
