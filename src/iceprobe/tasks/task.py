"""The interface of a task: all that the other rooms use of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from iceprobe.tasks.metrics import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from iceprobe.tasks.records import Record

#: The use of a record: ``"scores"``, the fields of the metrics, after each evaluation; ``"predictions"``,
#: those that are reported, of every member's best epoch; ``"everything"``, with the logits for later
#: metrics, of the reported examples.
Keep = Literal["scores", "predictions", "everything"]


class Task(ABC):
    """The kind of target of an example. One file and one registry entry a task.

    Attributes:
        name: as ``--task`` spells it.
        metrics: by name, in the order of tables.
        primary: the metric that selects and comes first, if the data set has no convention.
        pooled: whether a target is of a whole example, so that probes on pooled tokens predict it.
        votes: whether `knn` predicts it.
        solves_linear: whether linear probes are solved for by `fitting/logistic.py`.
        summed: fields of a record that are sums over the examples, ``(G, …)``, in place of one
            entry an example.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    primary: ClassVar[str]
    pooled: ClassVar[bool] = True
    votes: ClassVar[bool] = False
    solves_linear: ClassVar[bool] = False
    summed: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def num_outputs(self, names: Sequence[str]) -> int:
        """K, the outputs of a probe's classifier, for these names of classes, tags or numbers."""

    @abstractmethod
    def loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """The loss of each member, a mean over examples: ``(G, B, K)``, ``(B, …)`` → ``(G,)``; of one
        member alone ``(B, K)`` → ``()``."""

    @abstractmethod
    def record(self, logits: "Tensor", targets: "Tensor", keep: Keep = "everything") -> "Record":
        """The record of some examples, on the CPU.

        Args:
            logits: ``(G, B, K)``; B may be 0.
            targets: ``(B, …)``.
            keep: its use; a task with a small record may keep the same for all.

        Returns:
            Tensors ``(G, B, …)`` by name, enough for every metric. A member with a logit that isn't
            finite must not score. Stored predictions hold them under these names.
        """

    @abstractmethod
    def strata(self, targets: NDArray) -> NDArray[np.int64]:
        """Strata of the training split, of which each gives held-out examples: ``(n, …)`` → ``(n,)``."""

    @abstractmethod
    def readings(
        self, logits: "Tensor", names: Sequence[str], most: int
    ) -> list[list[tuple[str, float]]]:
        """Predictions in words: for logits ``(B, K)`` up to ``most`` names with numbers an example (a class
        or tag and its probability, a quantity and its value)."""

    def metric(self, name: str | None = None) -> Metric:
        """The metric called ``name``, the primary one by default."""
        return self.metrics[self.primary if name is None else name]
