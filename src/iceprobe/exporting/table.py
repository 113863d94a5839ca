"""The table of predictions: a row an image or another example, its columns by the task.

classes     file, class, probability, class_2, probability_2, …        the most probable ones, best first
tags        file, cat, dog, …                                          the probability of each
            file, tag, probability, tag_2, …                           with ``top``: the most probable ones
numbers     file, age (years), weight (kg), …                          in the target's unit
"""

from collections.abc import Sequence

from torch import Tensor

from iceprobe.core.text import csv_text
from iceprobe.exporting.examples import way_of
from iceprobe.exporting.exported import ExportedProbe, most_readings

_ONE = {"classes": "class", "tags": "tag"}


class Table:
    """Rows of predictions.

    Args:
        model: that predicts.
        top: how many classes or tags a row; by default five classes, and every tag in its own column.

    Attributes:
        rows: names of the examples, then cells.
        first: heading of the names.

    Raises:
        IceprobeError: for ``top`` of numbers.
    """

    def __init__(self, model: ExportedProbe, top: int | None = None):
        self.task, self.names = model.task, model.classes
        self.most = most_readings(model.task, len(model.classes), top)
        self.ranked = not model.task.several or top is not None
        self.rows: list[list[str]] = []
        self.first = way_of(model.preprocessing.kind).column
        units = model.units or [""] * len(self.names)
        self._titles = [
            f"{name} ({unit})" if unit else name
            for name, unit in zip(self.names, units, strict=True)
        ]

    def add(self, names: Sequence[str], outputs: Tensor) -> None:
        """Rows of the examples called ``names``, from logits or values ``(B, K)``."""
        if self.ranked:
            readings = self.task.readings(outputs, self.names, self.most)
            cells = [[c for one, p in best for c in (one, f"{p:.6g}")] for best in readings]
        else:
            places = [str(k) for k in range(len(self.names))]  # names may be equal
            readings = self.task.readings(outputs, places, len(places))
            cells = [[f"{dict(of_image)[k]:.7g}" for k in places] for of_image in readings]
        self.rows += [[name, *row] for name, row in zip(names, cells, strict=True)]

    @property
    def heading(self) -> list[str]:
        """Names of the columns, each once."""
        if self.ranked:
            one, count = _ONE.get(self.task.outputs, "output"), min(self.most, len(self.names))
            places = ["", *(f"_{place}" for place in range(2, count + 1))]
            return [
                self.first,
                *(f"{what}{place}" for place in places for what in (one, "probability")),
            ]
        found = {self.first: None}  # in order
        for title in self._titles:
            count, name = 1, title
            while name in found:
                count += 1
                name = f"{title}_{count}"
            found[name] = None
        return list(found)

    def csv(self) -> bytes:
        """The table; bytes of a file name that are no UTF-8 are written as ``\\udcXX``."""
        return csv_text([self.heading, *self.rows]).encode("utf-8", "backslashreplace")
