"""The result of a segmentation probe: an entry of ``dense.json``. Shares are fractions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr

from iceprobe.results.schema import Flops, InnerPath, Record, Score, StoreReference


class Selection(Record):
    """What held-out training images selected."""

    learning_rate: float  # by mean IoU over seeds after the last epoch
    epoch: int  # up to which it was trained
    tried: list[float]  # learning rates
    images: int  # held out
    best_minus_median: float  # best learning rate − median one, each at its best epoch


class Difference(Record):
    """Mean IoU less that of another probe, on the same resampled images."""

    probe: str
    mean: float
    interval: tuple[float, float]


class Segmentation(Record):
    """One segmentation probe on one store, over its seeds.

    Attributes:
        probe: ``"linear"`` or ``"ep8"``.
        class_names: background first; they come from data.
        images: hash of those reported.
        train_images, test_images: how many.
        side: S, pixels of a mask's side.
        miou: mean IoU over classes of all pixels of the reported split; its interval is the 95%
            percentile bootstrap over images of the mean seed.
        object_iou: of all classes but background as one: where the object is, whatever it is.
        pixel_accuracy: share of pixels called right.
        iou: of each class, mean over seeds; None where it doesn't occur.
        all_background: the mean IoU of calling every pixel background.
        beside: how it differs from the first probe of the run, None for that one.
        confusion: pixels, truth by prediction, summed over seeds.
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

    probe: str
    backbone: str
    dataset: str
    layer: Any = None
    split: str
    images: str
    class_names: list[str]
    train_images: int
    test_images: int
    dim: int
    grid: tuple[int, int]
    side: int
    miou: Score
    object_iou: Score
    pixel_accuracy: Score
    iou: list[float | None]
    all_background: float
    beside: Difference | None = None
    confusion: list[list[int]]
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

    @property
    def label(self) -> str:
        """Its name in tables, unique in its run."""
        return self.probe

    @property
    def probes(self) -> list[Any]:
        """The fitted modules, one a seed: (B, N, D) → logits (B, N, C). Empty once read from a file."""
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
