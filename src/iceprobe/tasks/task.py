"""The interface of a task: all that the other rooms use of it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.targets import known

if TYPE_CHECKING:
    from torch import Tensor

    from iceprobe.tasks.records import Record

#: The use of a record: ``"scores"``, the fields of the metrics, after each evaluation; ``"predictions"``,
#: those that are reported, of every member's best epoch; ``"everything"``, with the logits for later
#: metrics, of the reported examples.
Keep = Literal["scores", "predictions", "everything"]

#: How classes or tags count in the loss: alike, or each as much as any other.
ClassWeight = Literal["none", "balanced"]


class Task(ABC):
    """The kind of target of an example. One file and one registry entry a task.

    Attributes:
        name: as ``--task`` spells it.
        outputs: what its K outputs are called: ``"classes"``, ``"tags"``, or ``"numbers"`` where they are in the
            unit of the targets, and no logits.
        metrics: by name, in the order of tables.
        primary: the metric that selects and comes first, if the data set has no convention.
        target_dtype: of targets in memory and in a store.
        several: whether a target is K numbers, ``(n, K)``, in place of one, ``(n,)``.
        pooled: whether a target is of a whole example, so that probes on pooled tokens predict it.
        weighs_classes: whether it has classes or tags: its loss takes class weights, and ``shots`` of each
            can be drawn.
        solver: how linear probes are solved for their optimum (`fitting/linear.py`): the loss's name
            there, or None if they are trained.
        exclusive: whether an example has one of its outputs: those of other classes than a test set's can
            then be left out.
        unknown: the value of a target that isn't known, where a target is K numbers.
        summed: fields of a record that are sums over the examples, ``(G, …)``, in place of one
            entry an example.
    """

    name: ClassVar[str]
    outputs: ClassVar[str] = "outputs"
    metrics: ClassVar[Mapping[str, Metric]]
    primary: ClassVar[str]
    target_dtype: ClassVar[str] = "int64"
    several: ClassVar[bool] = False
    pooled: ClassVar[bool] = True
    weighs_classes: ClassVar[bool] = False
    solver: ClassVar[str | None] = None
    exclusive: ClassVar[bool] = False
    unknown: ClassVar[float] = float("nan")
    summed: ClassVar[frozenset[str]] = frozenset()

    #: μ and σ of the outputs, ``(K,)`` each: a probe's logits z are handed out as σ z + μ. None: as they are.
    scaling: "tuple[Tensor, Tensor] | None" = None
    #: Weights that `learning` found, ``(K,)`` float64 on the CPU, of classes or of tags where an example has
    #: them. None: all count alike.
    weights: "Tensor | None" = None

    @abstractmethod
    def num_outputs(self, names: Sequence[str]) -> int:
        """K, the outputs of a probe's classifier, for these names of classes, tags or numbers."""

    def targets(self, given: Any, split: str) -> NDArray[Any]:
        """Targets as a source gives them → as this task has them, ``(n,)`` or ``(n, K)``.

        Raises:
            IceprobeError: naming the row of what is none.
        """
        return np.asarray(given, self.target_dtype)

    def check_trained(self, targets: NDArray[Any], names: Sequence[str]) -> str | None:
        """What of the K outputs can't be learnt from these training targets, in words; None if all can."""
        return None

    def outside(self, targets: NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
        """Rows whose target is of no output that has a name."""
        return np.empty(0, np.int64)

    def occurring(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        """The outputs that some example has, or of which it is known whether or how much."""
        if not self.several:
            return np.unique(targets)
        return np.flatnonzero(known(targets).any(0))

    def placed(self, targets: NDArray[Any], place: NDArray[np.int64], outputs: int) -> NDArray[Any]:
        """Targets of another data set as those of ``outputs`` outputs: its output k is ours at ``place[k]``.

        −1 is none of ours. Where a target is K numbers, those that the other set lacks aren't known.
        """
        if not self.several:
            return place[targets]
        found = np.full((len(targets), outputs), self.unknown, targets.dtype)
        found[:, place[place >= 0]] = targets[:, place >= 0]
        return found

    def learning(self, targets: NDArray[Any], class_weight: ClassWeight = "none") -> Self:
        """This task for training on these targets: with its scaling and its weights."""
        return self

    @abstractmethod
    def loss(
        self, logits: "Tensor", targets: "Tensor", everyone: "Tensor | None" = None
    ) -> "Tensor":
        """The loss of each member, a mean over examples: ``(G, B, K)``, ``(B, …)`` → ``(G,)``; of one
        member alone ``(B, K)`` → ``()``.

        ``everyone`` are the targets of the whole batch, where these are one process's part of it: the
        losses of the parts add up to the whole batch's.
        """

    def averaged(self, outputs: "Tensor", parts: int) -> "Tensor":
        """Outputs of an example from those of its parts, which a probe reads each by itself.

        Of numbers, and of a task that says nothing else, their mean; of classes and tags the logits of the mean
        probability.

        Args:
            outputs: ``(…, B · parts, K)``, those of an example one after the other.
            parts: of an example, 1 or more.

        Returns:
            ``(…, B, K)``; of one part ``outputs`` themselves.
        """
        if parts == 1:
            return outputs
        return self._averaged(outputs.unflatten(-2, (-1, parts)))

    def _averaged(self, outputs: "Tensor") -> "Tensor":
        """``(…, parts, K)`` → ``(…, K)``."""
        return outputs.mean(-2)

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

    def voted(
        self,
        weights: "Tensor",
        neighbours: "Tensor",
        outputs: int,
        targets: "Tensor",
        keep: Keep = "everything",
    ) -> "Record":
        """The record of k-NN, one member.

        Args:
            weights: ``(n, k)`` of each neighbour.
            neighbours: their targets, ``(n, k, …)``.
            outputs: K.
            targets: ``(n, …)`` of the examples.
            keep: as of :meth:`record`.
        """
        raise NotImplementedError

    def tuned(self, record: "Record", targets: NDArray[Any]) -> "Record":
        """What is set on held-out examples for later metrics, ``(G, …)`` each, from a record of them; none by
        default. Metrics find it in the record of other examples by its name."""
        return {}

    @property
    def votes(self) -> bool:
        """Whether k-NN predicts its targets."""
        return type(self).voted is not Task.voted

    @abstractmethod
    def strata(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Strata of the training split, of which each gives held-out examples: ``(n, …)`` → codes ``(n,)``, or
        where an example is of several ``(n, K)`` bool."""

    @abstractmethod
    def readings(
        self, logits: "Tensor", names: Sequence[str], most: int
    ) -> list[list[tuple[str, float]]]:
        """Predictions in words: for logits ``(B, K)`` up to ``most`` names with numbers an example (a class
        or tag and its probability, a quantity and its value)."""

    def metric(self, name: str | None = None, usual: str = "") -> Metric:
        """The metric called ``name``; by default the one called ``usual``, as data sets name one by their
        convention, or the primary one.

        Raises:
            IceprobeError: if there is none of the ``name``, with the nearest ones.
        """
        if name is not None and name not in self.metrics:
            raise IceprobeError(unknown(f"metric of {self.name}", name, self.metrics))
        return self.metrics[name or (usual if usual in self.metrics else self.primary)]

    def as_hard_as(self, outputs: int) -> float:
        """How many balanced classes are as hard to guess: its loss of guessing is the logarithm."""
        return float(outputs)

    def target_shape(self, outputs: int) -> tuple[int, ...]:
        """Of one example's target."""
        return (outputs,) if self.several else ()

    def bound(self, **found: Any) -> Self:
        """A copy with these attributes."""
        other = copy.copy(self)
        for name, value in found.items():
            setattr(other, name, value)
        return other
