"""Tasks whose targets are the pixels of an image: what `iceprobe segment` uses of them beside a `Task`."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor


class PixelTask(Task):
    """A target a pixel; probes give K outputs a patch, which are upsampled to the pixels.

    Attributes:
        map: the tensor of a store's shards that its targets are made of, ``(S, S)`` an image.
    """

    pooled: ClassVar[bool] = False
    map: ClassVar[str]

    @abstractmethod
    def truth(self, maps: "Tensor", labels: "Tensor") -> "Tensor":
        """Targets of pixels of some images: their maps ``(B, S, S)`` and labels ``(B,)`` → ``(B, S, S)``."""

    def learning_pixels(self, parts: Iterable["Tensor"]) -> Self:
        """This task for training on images whose targets are ``parts``, ``(b, S, S)`` each.

        Raises:
            IceprobeError: if nothing can be learnt from them.
        """
        return self

    def check_pixels(self, parts: Iterable["Tensor"], split: str) -> None:
        """Refuse a split of whose pixels none has a target, ``parts`` as of :meth:`learning_pixels`.

        Raises:
            IceprobeError: naming the split.
        """
        return

    def strata(self, targets: NDArray[Any]) -> NDArray[Any]:
        """One stratum for all images, ``(n,)``."""
        return np.zeros(len(targets), np.int64)
