"""Labels of a Hugging Face data set: classes go by their names, in each split's own list."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.columns import Targets
from iceprobe.datasets.label_names import in_files
from iceprobe.datasets.labels import by_names, negative_numbers, numbered


@dataclass(frozen=True)
class Source:
    """A data set of the hub, or a folder."""

    name: str
    config: str | None
    revision: str | None


def read_classes(
    source: Source,
    parts: dict[str, str],
    chosen: dict[str, Any],
    label: str,
    spec: str,
) -> tuple[Targets, list[str]]:
    """The classes of a column of labels, and assumptions.

    Args:
        parts: ``"train"`` and ``"test"`` → the names of these splits.
        chosen: the splits.
        label: the column.
    """
    own = {split: table.features[label] for split, table in chosen.items()}
    assumed: list[str] = []
    if "test" in own and own["train"] == own["test"]:
        # Perhaps because the library takes one for all splits.
        found, assumed = in_files(source.name, source.config, source.revision, parts, label)
        own = own | found
    classes, labels, lines = _labels(chosen, label, own, spec)
    return Targets("classification", classes, labels), [*assumed, *lines]


def check_labels(name: str, table: Any, label: str, option: str) -> None:
    """Refuse a column of lists; ``option`` named it."""
    import datasets

    if not isinstance(table.features[label], datasets.ClassLabel | datasets.Value):
        raise IceprobeError(
            f"column {label!r} of {name} holds no single labels: pass {option}=COLUMN, or "
            f"target={label} if its lists are tags or numbers"
        )


def _labels(
    tables: dict[str, Any], column: str, own: dict[str, Any], spec: str
) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """Classes, labels and assumptions, from each split's ``own`` feature of the label column."""
    import datasets

    values = {
        split: table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        for split, table in tables.items()
    }
    for split, table in tables.items():
        # The library has converted text to indices into its own list of names.
        text = getattr(own[split], "dtype", None) in ("string", "large_string")
        if text and isinstance(table.features[column], datasets.ClassLabel):
            own[split] = table.features[column]
    named = {split: isinstance(kind, datasets.ClassLabel) for split, kind in own.items()}
    for split, given in values.items():
        if not given:
            raise IceprobeError(f"split {split!r} of {spec!r} is empty: name another")
        if any(value is None or (named[split] and value < 0) for value in given):
            raise IceprobeError(
                f"labels of split {split!r} of {spec!r} are missing (the hub hides those of some "
                "test splits): name another, as test=validation"
            )
    assumed = []
    if not named["train"]:
        if named.get("test"):
            assumed = [
                f"{spec}: train names no classes, so labels are numbers and test's names unread"
            ]
        numbers = {split: _whole(given, split, spec) for split, given in values.items()}
        classes, labels = numbered(numbers, spec)
        return classes, labels, [*assumed, *negative_numbers(classes, spec)]
    names = {split: kind.names for split, kind in own.items() if named[split]}
    if not named.get("test", True):
        given = values["test"]
        if all(isinstance(value, str) for value in given):
            unseen = sorted(set(given) - set(names["train"]))
            names["test"] = [*names["train"], *unseen]
            values["test"] = [names["test"].index(value) for value in given]
        else:
            assumed = [
                f"{spec}: labels of test are numbers, read as indices into train's list of names"
            ]
            names["test"] = names["train"]
            values["test"] = _whole(given, "test", spec)
    given_labels = {split: np.array(given, np.int64) for split, given in values.items()}
    classes, labels, lines = by_names(given_labels, names, spec)
    return classes, labels, [*assumed, *lines]


def _whole(given: list[Any], split: str, spec: str) -> list[Any]:
    """Labels with whole floats as integers, ``2.0`` as 2."""
    for value in given:
        if isinstance(value, float) and not value.is_integer():
            raise IceprobeError(
                f"label {value} of split {split!r} of {spec!r} is no class: name a column of "
                "whole numbers or text as label=COLUMN, or one of numbers as target=COLUMN"
            )
    return [int(value) if isinstance(value, float) else value for value in given]
