"""The result of a segmentation probe."""

from typing import ClassVar

from iceprobe.results.dense import Dense, Difference, Selection
from iceprobe.results.schema import Score

__all__ = ["Difference", "Segmentation", "Selection"]


class Segmentation(Dense):
    """One segmentation probe on one store, over its seeds; further attributes as of a `Dense` result.

    Attributes:
        class_names: background first; they come from data.
        miou: mean IoU over classes of all pixels of the reported split; its interval is the 95%
            percentile bootstrap over images, or groups of them, of the mean seed.
        object_iou: of all classes but background as one: where the object is, whatever it is.
        pixel_accuracy: share of pixels called right.
        iou: of each class, mean over seeds; None where it doesn't occur.
        all_background: the mean IoU of calling every pixel background.
        confusion: pixels, truth by prediction, summed over seeds.
    """

    task: ClassVar[str] = "segmentation"

    class_names: list[str]
    miou: Score
    object_iou: Score
    pixel_accuracy: Score
    iou: list[float | None]
    all_background: float
    confusion: list[list[int]]

    @property
    def score(self) -> Score:
        return self.miou

    @property
    def num_outputs(self) -> int:
        return len(self.class_names)
