"""Host memory for tokens."""

import numpy as np
import torch
from torch import Tensor


def fresh(rows: int, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool = False) -> Tensor:
    """An empty ``(rows, *shape)`` tensor in pinned memory or in NumPy's.

    NumPy asks the system for huge pages, torch doesn't: a batch of 77 MB takes 38 page faults instead
    of 19,000, which took three quarters of the time of a gather from the page cache.
    """
    if pinned:
        return torch.empty(rows, *shape, dtype=dtype, pin_memory=True)
    return torch.from_numpy(np.empty((rows, *shape), f"i{dtype.itemsize}")).view(dtype)


def flat_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous host tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data
