"""``dense.json`` and ``dense.csv``: the results of a run of ``iceprobe segment``.

``{"sha256": …, "format": 1, "task": "depth", "segmentations": [Depth, …]}``, fields as in
:mod:`iceprobe.results.segmentation` and :mod:`iceprobe.results.depth`; without a ``task`` they are of
segmentation. Its table has a row for each class of each probe, that of depth a row for each metric.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from iceprobe.core.checksums import unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import csv_text, utf8
from iceprobe.machine.files import write_atomically
from iceprobe.results.dense import Dense
from iceprobe.results.depth import Depth
from iceprobe.results.files import SEGMENTATIONS as JSON_NAME
from iceprobe.results.files import write_sealed
from iceprobe.results.segmentation import Segmentation
from iceprobe.tasks.registry import get_task

FORMAT_VERSION = 1
CSV_NAME, PICTURE_NAME = "dense.csv", "segmentation.png"


def write_segmentation_results(folder: Path, results: Sequence[Dense]) -> None:
    """Write both files atomically, ``dense.json`` last."""
    task = results[0].task
    write_atomically(folder / CSV_NAME, utf8(csv_text(_TABLES[task](results))))
    entries = [result.model_dump(mode="json") for result in results]
    named = {} if task == Segmentation.task else {"task": task}
    document = {"format": FORMAT_VERSION, **named, "segmentations": entries}
    write_sealed(folder / JSON_NAME, document)


def read_segmentations(run: str | Path) -> list[Dense]:
    """Read the results of a run folder; without the modules.

    Raises:
        IceprobeError: if there are none, or not such that this version can read.
    """
    path = Path(run) / JSON_NAME
    try:
        document = parse_json(path.read_bytes())
        if document["format"] != FORMAT_VERSION:
            raise IceprobeError(
                f"{path} has format {document['format']!r}, this iceprobe reads {FORMAT_VERSION}: "
                "use the version that wrote it, or run again"
            )
        document = unseal(document, path, "put it back as it was, or run again")
        kind = _KINDS[document.get("task", Segmentation.task)]
        results = [kind.model_validate(entry) for entry in document["segmentations"]]
    except OSError as error:
        raise IceprobeError(
            f"no segmentations at {path} ({error.strerror}): name a folder that `iceprobe segment` "
            "made"
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise IceprobeError(f"{path} is damaged ({type(error).__name__}): run again") from error
    return [result.replaced(run=path.parent) for result in results]


def _of_classes(results: Sequence[Segmentation]) -> list[list[object]]:
    rows: list[list[object]] = [["probe", "class", "iou", "pixels", "called", "hits"]]
    for result in results:
        called = [sum(column) for column in zip(*result.confusion, strict=True)]
        for c, (name, iou) in enumerate(zip(result.class_names, result.iou, strict=True)):
            cell = "" if iou is None else f"{iou:.6g}"
            of_class = result.confusion[c]
            rows.append([result.probe, name, cell, sum(of_class), called[c], of_class[c]])
    return rows


def _of_metrics(results: Sequence[Depth]) -> list[list[object]]:
    rows: list[list[object]] = [
        ["probe", "metric", "unit", "value", "low", "high", "training_mean"]
    ]
    for result in results:
        for name, metric in get_task(result.task).metrics.items():
            score, floor = getattr(result, name), getattr(result.training_mean, name)
            unit = result.unit if metric.unit_of_target else ""
            numbers = (score.mean, *(score.interval or ("", "")), floor)
            rows.append([result.probe, name, unit, *(f"{one:.6g}" for one in numbers)])
    return rows


_KINDS: dict[str, type[Dense]] = {one.task: one for one in (Segmentation, Depth)}
_TABLES: dict[str, Callable[..., list[list[object]]]] = {
    Segmentation.task: _of_classes,
    Depth.task: _of_metrics,
}
