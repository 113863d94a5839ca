"""Labels as sources give them, names or numbers → indices into sorted classes."""

from collections.abc import Mapping, Sequence

import numpy as np

from iceprobe.errors import IceprobeError


def numbered(
    values: Mapping[str, Sequence[str | int]], spec: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Number the classes of ``"train"``: by size where all are whole numbers, else by name.

    Args:
        values: of each split, the label of each image.
        spec: of the data set, for the error.

    Returns:
        Names of the classes, and the labels ``(n,)`` of each split.

    Raises:
        IceprobeError: if another split has a class that train has not.
    """
    texts = {split: list(map(str, given)) for split, given in values.items()}
    classes = sorted(set(texts["train"]))
    if all(_is_number(text) for text in classes):
        classes.sort(key=int)
    place = {name: label for label, name in enumerate(classes)}
    for split, given in texts.items():
        if unseen := sorted(set(given) - set(place)):
            raise IceprobeError(
                f"class {unseen[0]!r} is in split {split!r} of {spec!r} but missing from train: "
                "add images of it to train or leave it out"
            )
    return classes, {
        split: np.array([place[text] for text in given], np.int64) for split, given in texts.items()
    }


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()
