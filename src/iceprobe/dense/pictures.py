"""The picture of a run of dense probes, by its task."""

from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from iceprobe.dense.classes_picture import draw_classes
from iceprobe.dense.numbers_picture import draw_numbers
from iceprobe.results.dense import Dense
from iceprobe.results.depth import Depth
from iceprobe.results.segmentation import Segmentation
from iceprobe.store.reader import Store

_DRAWN: Mapping[str, Callable[..., Image.Image]] = {
    Segmentation.task: draw_classes,
    Depth.task: draw_numbers,
}


def draw(results: Sequence[Dense], store: Store) -> Image.Image:
    """Reported images, their truth and every probe's predictions."""
    return _DRAWN[results[0].task](results, store)
