"""The seam: all that the rest of the house knows of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.metrics import Metric

if TYPE_CHECKING:
    from torch import Tensor


class Task(ABC):
    """What the target of an example is.

    Attributes:
        name: as ``--task`` spells it.
        summary: one line for ``iceprobe ls tasks``.
        metrics: by name, in the order of tables.
        primary: the metric that selects and leads, where a data set has no convention of its own.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    primary: ClassVar[str]

    @abstractmethod
    def num_outputs(self, names: Sequence[str]) -> int:
        """K, what a probe's classifier gives, of so many names (of classes, tags or numbers)."""

    @abstractmethod
    def loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """What each member learns by: ``(G, B, K)``, ``(B, …)`` → ``(G,)``, a mean over examples."""

    @abstractmethod
    def record(self, logits: "Tensor") -> Any:
        """What is kept of test examples, of logits ``(G, B, K)``: enough for every metric."""

    @abstractmethod
    def strata(self, targets: NDArray) -> NDArray[np.int64]:
        """By what parts of the training split are stratified: targets ``(n, …)`` → ``(n,)``."""

    @abstractmethod
    def reading(self, logits: "Tensor", names: Sequence[str]) -> str:
        """How the prediction of one example, ``(K,)``, reads."""
