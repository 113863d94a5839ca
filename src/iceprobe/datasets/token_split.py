"""Examples of which only tokens are known: there are no images. No torch is imported here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset, Split


class TokenSplit(Split):
    """Examples of which only tokens are known; ``content`` is their hash, or that of their names.

    Examples that have names are the same in the tokens of another backbone.
    """

    def __init__(
        self, name: str, labels: np.ndarray, names: Sequence[str], *, content: str, **more: Any
    ):
        super().__init__(name, labels, names, **more)
        self.content = content

    def image(self, index: int) -> Image.Image:
        raise IceprobeError(f"{self.names[index]!r} was given as tokens: there is no image of it")

    def fingerprint(self) -> str:
        return self.content


def hash_names(names: Sequence[str]) -> str:
    """The content of examples with names of their own."""
    return hashlib.sha256(repr(list(names)).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class FeatureSet(Dataset):
    """A data set of tokens.

    Attributes:
        backbone: what made them, as far as is known.
        has_class: whether the first prefix token is a class token.
    """

    backbone: str = "tokens"
    has_class: bool = True


def check_images(dataset: Dataset) -> None:
    """Refuse tokens where a backbone wants images.

    Raises:
        IceprobeError: with what reads tokens.
    """
    if isinstance(dataset, FeatureSet):
        raise IceprobeError(
            f"{dataset.spec} holds tokens, which no backbone reads: probe them with iceprobe fit "
            f'"{dataset.spec}"'
        )
