"""What the results of dense probes share: entries of ``dense.json``, a probe each. Shares are fractions."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer

from iceprobe.results.schema import Flops, InnerPath, Record, Score, StoreReference
from iceprobe.tasks.registry import get_task

if TYPE_CHECKING:
    from iceprobe.tasks.metrics import Metric


class Selection(Record):
    """What held-out training images selected."""

    learning_rate: float  # by the primary metric over seeds after the last epoch
    epoch: int  # up to which it was trained
    tried: list[float]  # learning rates
    images: int  # held out
    best_minus_median: float  # best learning rate − median one, each at its best epoch


class Difference(Record):
    """The primary metric less that of another probe, on the same resampled images."""

    probe: str
    mean: float
    interval: tuple[float, float]


class Dense(Record):
    """One dense probe on one store, over its seeds.

    Attributes:
        task: name of its task, whose primary metric leads.
        probe: ``"linear"`` or ``"ep8"``.
        images: hash of those reported.
        train_images, test_images: how many.
        side: S, pixels of a map's side.
        group: name of the column of groups that intervals are over; None: they are over images.
        beside: how it differs from the first probe of the run, None for that one.
        selection: what was chosen, and on how many images.
        training: optimiser, epochs, images a step, seeds of the run.
        parameters: trainable.
        flops: at inference, an image.
        seeds: of the initialisation.
        seconds: wall time of the whole fit, of all its probes together.
        files: fitted probes, one a seed, relative to the run folder.
        assumed: assumptions about backbone and images, a line each.
        undertrained: signs that its training stopped too early; empty where there are none.
    """

    task: ClassVar[str]

    probe: str
    backbone: str
    dataset: str
    layer: Any = None
    split: str
    images: str
    train_images: int
    test_images: int
    dim: int
    grid: tuple[int, int]
    side: int
    group: str | None = None  # of earlier runs none: intervals were over images
    beside: Difference | None = None
    selection: Selection
    training: dict[str, Any]
    parameters: int
    flops: Flops
    seeds: list[int] = Field(min_length=1)
    seconds: float
    store: StoreReference
    environment: dict[str, str]
    git_commit: str | None
    command: str
    created: str
    files: list[InnerPath] = Field(default_factory=list)
    assumed: list[str] = Field(default_factory=list)  # of earlier runs none
    undertrained: list[str] = Field(default_factory=list)  # of earlier runs unknown

    _probes: list[Any] = PrivateAttr(default_factory=list)
    _run: Path | None = PrivateAttr(None)

    @model_serializer(mode="wrap")
    def _as_before(self, serialised: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the group where there is none, which earlier versions don't know."""
        found: dict[str, Any] = serialised(self)
        return {key: value for key, value in found.items() if key != "group" or value is not None}

    @property
    @abstractmethod
    def score(self) -> Score:
        """The primary metric."""

    @property
    def metrics(self) -> dict[str, Score]:
        """All its scores by name."""
        return {name: value for name, value in self if isinstance(value, Score)}

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """K of its modules."""

    @property
    def metric(self) -> "Metric":
        """The description of the primary metric."""
        return get_task(self.task).metric()

    @property
    def score_unit(self) -> str:
        """What stands directly behind a value of the primary metric: ``"%"``, ``" px"``."""
        return self.metric.unit

    @property
    def label(self) -> str:
        """Its name in tables, unique in its run."""
        return self.probe

    @property
    def probes(self) -> list[Any]:
        """The fitted modules, one a seed: (B, N, D) → (B, N, K). Empty once read from a file."""
        return self._probes

    @property
    def run(self) -> Path | None:
        """The run folder that it was written to or read from."""
        return self._run

    def replaced(
        self,
        *,
        run: str | Path | None = None,
        probes: Sequence[Any] | None = None,
        **fields: Any,
    ) -> Self:
        """The same result with other fields, run folder or modules; what isn't named stays."""
        made = type(self)(**(dict(self) | fields))
        made._run = Path(run) if run is not None else self._run
        made._probes = list(probes) if probes is not None else self._probes
        return made


def best_first(results: Sequence[Dense]) -> list[Dense]:
    """Of one task, by its primary metric."""
    return sorted(results, key=lambda one: -one.metric.sign * one.score.mean)
