"""Labels: each image has one, the index of its class.

Sources give names or numbers; `numbered` and `by_names` convert them to indices into one list of
classes. Where splits have their own lists of names, the names decide, not the numbers.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.classification import Classification


def check_count(split: str, labels: int, **others: int) -> None:
    """Raise `IceprobeError` with both counts unless there is one label per image, name and box."""
    for what, count in others.items():
        if count != labels:
            raise IceprobeError(
                f"split {split!r} has {labels} labels and {count} {what}: give one of each an image"
            )


def labels_outside(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Rows whose label is not the index of a class."""
    return Classification().outside(labels, classes)


def numbered(
    values: Mapping[str, Sequence[str | int]], spec: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Number the classes of ``"train"``: by value if all are whole numbers, else by name.

    Args:
        values: the label of each image of each split.
        spec: of the data set, for the error.

    Returns:
        Names of the classes, and the labels ``(n,)`` of each split.

    Raises:
        IceprobeError: if train lacks a class of another split.
    """
    texts = {split: list(map(str, given)) for split, given in values.items()}
    classes = by_number(set(texts["train"]))
    place = {name: label for label, name in enumerate(classes)}
    for split, given in texts.items():
        if unseen := sorted(set(given) - set(place)):
            raise _missing(unseen[0], split, spec)
    return classes, {
        split: np.array([place[text] for text in given], np.int64) for split, given in texts.items()
    }


def by_number(names: Collection[str]) -> list[str]:
    """Names in the order of numbers, if all are whole numbers, and of text otherwise."""
    ordered = sorted(names)
    return sorted(ordered, key=int) if all(map(_is_number, ordered)) else ordered


def by_names(
    labels: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]], spec: str
) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """Map the labels of all splits to train's list of names.

    Args:
        labels: of each split, ``(n,)`` indices into its own list.
        names: of each split, its list.
        spec: of the data set, for the error.

    Returns:
        The names of classes with images, the labels of each split as indices into them, and
        assumptions.

    Raises:
        IceprobeError: for a label beyond its list, a name listed twice, or a class of another split
            without training images.
    """
    given: dict[str, list[str]] = {}
    for split, own in labels.items():
        listed = [str(name) for name in names[split]]
        if len(set(listed)) < len(listed):
            twice = next(name for name in listed if listed.count(name) > 1)
            raise IceprobeError(
                f"class {twice!r} is twice in the names of split {split!r} of {spec!r}: "
                "give each class a name of its own"
            )
        if len(outside := labels_outside(own, listed)):
            raise IceprobeError(
                f"label {own[outside[0]]} of image {outside[0]} in split {split!r} of {spec!r} has no "
                f"name: {len(listed)} are named, 0 to {len(listed) - 1}; mend it or leave the image "
                "out"
            )
        given[split] = [listed[label] for label in own.tolist()]
    used = {split: set(values) for split, values in given.items()}
    for split, found in used.items():
        if unseen := sorted(found - used["train"]):
            raise _missing(unseen[0], split, spec)
    listed = [str(name) for name in names["train"]]
    classes = [name for name in listed if name in used["train"]]
    place = {name: label for label, name in enumerate(classes)}
    unused = [name for name in listed if name not in place]
    assumed = []
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        assumed = [
            f"{spec}: no image is of class {', '.join(map(repr, unused[:3]))}{more}: "
            f"{len(classes)} of {len(listed)} named classes are read"
        ]
    return (
        classes,
        {s: np.array([place[name] for name in values], np.int64) for s, values in given.items()},
        assumed,
    )


def negative_numbers(classes: Sequence[str], spec: str) -> list[str]:
    """A line for each negative number read as a class: it often means that the label is missing."""
    if not all(map(_is_number, classes)) or set(classes) == {"-1", "1"}:
        return []
    return [
        f"{spec}: label {name} is read as a class of its own"
        for name in classes
        if name.startswith("-")
    ]


def _missing(name: str, split: str, spec: str) -> IceprobeError:
    return IceprobeError(
        f"class {name!r} is in split {split!r} of {spec!r} but missing from train: "
        "add images of it to train or leave it out"
    )


def _is_number(text: str) -> bool:
    return len(text) < 1000 and text.isascii() and text.removeprefix("-").isdigit()
