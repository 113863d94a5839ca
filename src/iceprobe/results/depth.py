"""The result of a probe of dense numbers."""

from typing import ClassVar

from iceprobe.results.dense import Dense
from iceprobe.results.schema import Record, Score


class TrainingMean(Record):
    """What predicting the training mean at every pixel scores: the floor of every probe."""

    rmse: float
    delta1: float
    abs_rel: float


class Depth(Dense):
    """One probe of a number a pixel on one store, over its seeds; further attributes as of a `Dense` result.

    Intervals are 95% percentile bootstraps over images, or groups of them, of the mean seed.

    Attributes:
        number: name of what is predicted; it comes from data.
        unit: of the number; empty where it isn't known.
        rmse: root of the mean squared error over all known pixels of the reported split, in the unit.
        delta1: share of them whose prediction is within a factor of 1.25.
        abs_rel: mean over them of the absolute error by the target.
        mean, deviation: of the known pixels of train, by which targets were standardised.
        pixels: known ones of the reported split; ``all_pixels`` counts the unknown ones as well.
        training_mean: the floor.
    """

    task: ClassVar[str] = "depth"

    number: str
    unit: str
    rmse: Score
    delta1: Score
    abs_rel: Score
    mean: float
    deviation: float
    pixels: int
    all_pixels: int
    training_mean: TrainingMean

    @property
    def score(self) -> Score:
        return self.rmse

    @property
    def score_unit(self) -> str:
        return f" {self.unit}".rstrip()

    @property
    def num_outputs(self) -> int:
        return 1
