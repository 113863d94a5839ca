"""The hash of tokens, as they lie in their files."""

import hashlib

import torch
from torch import Tensor

from iceprobe.datasets.feature_files.examples import Examples


class Content:
    """A hash that example after example is added to: dtype, shape and numbers of each."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, tensor: Tensor) -> None:
        self._digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        self._digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def content_of(examples: Examples, rows: list[int], at_once: int) -> str:
    """The hash of some examples, read in pieces of ``at_once``."""
    content = Content()
    for first in range(0, len(rows), at_once):
        for one in examples.read("features", rows[first : first + at_once]):
            content.add(one)
    return content.hexdigest()
