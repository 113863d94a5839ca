"""Map-style data sets of torch and torchvision, ``data[i] -> (image, label)``, as splits.

``{"train": ImageFolder(…), "test": ImageFolder(…)}`` is accepted wherever a data set is. Images must not
be resized or normalised: the backbone does that. The files of torchvision's ``ImageFolder`` are read
as by ``folder:``; any other data set is asked for its images by one thread at a time.
"""

import errno
import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Subset

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Dataset, Split
from iceprobe.datasets.columns import Asked
from iceprobe.datasets.files import FileSplit, one_line
from iceprobe.datasets.item_labels import targets_of_items
from iceprobe.datasets.layout import role_of
from iceprobe.datasets.pixels import plain

HOW = (
    'pass {"train": DATA, "test": DATA} with a map-style data set of (image, label) for each, '
    "or a spec string such as folder:DIR"
)
CHECKED = 8  # images read twice, to check that they are the same


class MapSplit(Split):
    """Images of a map-style data set, read by one thread at a time: they may share an open file."""

    def __init__(self, name: str, data: Any, labels: np.ndarray, **more: Any):
        names = [f"{name}/{row:07d}" for row in range(len(labels))]
        super().__init__(name, labels, names, **more)
        self.data = data
        self._lock = threading.Lock()
        self._fingerprint = ""

    def image(self, index: int) -> Image.Image:
        with self._lock:
            image, _ = _pair(self.data, index, self.names[index])
        return _picture(image, self.names[index])

    def fingerprint(self) -> str:
        """Sha256 over pixels and labels of all images; the first call reads all of them."""
        if not self._fingerprint:
            digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
            for row in range(len(self)):
                try:
                    digest.update(_pixels(self.image(row)))
                except BadImage as error:  # the caller may skip it
                    digest.update(str(error).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def from_splits(given: Any, task: str | None = None, unit: str | None = None) -> Dataset:
    """``{"train": data, "test": data}`` → a data set.

    Keys may be any word for a split that ``folder:`` knows; classes are those that the data sets name
    (``classes``, ``class_to_idx``), else the labels of train. Labels that are lists, vectors or fractions
    are tags or numbers, as in a table.

    Args:
        given: the two.
        task: of the labels, if they may be several things.
        unit: of numbers.

    Raises:
        IceprobeError: if it is something else, images aren't PIL images or arrays of 8 bits or differ
            from one reading to the next, or a label is no class.
    """
    if not isinstance(given, Mapping):
        raise IceprobeError(_not_a_mapping(given))
    chosen, assumed = _chosen(given)
    for split, data in chosen.items():
        _check_map_style(split, data)
    if chosen["train"] is chosen["test"]:
        raise IceprobeError(
            "train and test are the same object: pass a data set of its own for each"
        )
    name = type(_innermost(chosen["train"])).__name__.lower()
    files = {split: _files(data) for split, data in chosen.items()}
    raw = {split: _labels(data) for split, data in chosen.items()}
    listed = {split: _class_names(_innermost(data)) for split, data in chosen.items()}
    targets = targets_of_items(raw, listed, Asked(task=task, unit=unit), name)
    labels = targets.labels
    assumed += targets.assumed
    splits: dict[str, Split] = {}
    roots = [os.path.abspath(_innermost(chosen[split]).root) for split in files if files[split]]
    root = Path(os.path.commonpath(roots)) if roots else Path()
    for split, data in chosen.items():
        if paths := files[split]:
            names = [os.path.relpath(path, root) for path in paths]
            splits[split] = FileSplit(split, root, names, labels[split], task=targets.task)
        else:
            splits[split] = MapSplit(split, data, labels[split], task=targets.task)
            assumed += _check_images(splits[split], data)
    if both := set(splits["train"].names) & set(splits["test"].names):
        raise IceprobeError(
            f"{len(both)} images are in train and in test, {min(both)!r} first: keep each in one"
        )
    name = root.name or name
    return Dataset(name, name, targets.names, splits, targets.headline, assumed, targets.units)


def _not_a_mapping(given: Any) -> str:
    kind = type(given).__name__
    if hasattr(given, "batch_size") and hasattr(given, "dataset"):
        return f"a {kind} gives batches: {HOW}; its own is in .dataset"
    if isinstance(given, Path):
        return f"{str(given)!r} is a path: pass it as 'folder:{given}'"
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return f"a {kind} is one split, and probes need one to train on and one to test on: {HOW}"
    return f"a {kind} is no data set: {HOW}"


def _chosen(given: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values for train and test, and a line on the choice unless it is obvious."""
    trains, tests, vals = (
        [key for key in given if role_of(str(key)) == role] for role in ("train", "test", "val")
    )
    tests = tests or vals
    if len(trains) != 1 or len(tests) != 1:
        keys = ", ".join(map(repr, given)) or "none"
        raise IceprobeError(f"splits {keys} are given, one train and one test are wanted: {HOW}")
    train, test = trains[0], tests[0]
    unread = [str(key) for key in given if key not in (train, test)]
    assumed = []
    if unread or (train, test) != ("train", "test"):
        line = f"{train!r} is read as train and {test!r} as test"
        assumed = [f"{line}; {', '.join(unread)} left unread" if unread else line]
    return {"train": given[train], "test": given[test]}, assumed


def _check_map_style(split: str, data: Any) -> None:
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, str):
        raise IceprobeError(
            f"split {split!r} is a {type(data).__name__}, which can't be asked for its i-th image: "
            "pass a map-style data set, with __len__ and __getitem__"
        )
    if not len(data):
        raise IceprobeError(f"split {split!r} is empty: it has no images")


def _innermost(data: Any) -> Any:
    """The data set behind ``torch.utils.data.Subset``."""
    return _innermost(data.dataset) if isinstance(data, Subset) else data


def _rows(data: Any) -> np.ndarray:
    """Indices into the innermost data set."""
    if isinstance(data, Subset):
        return _rows(data.dataset)[np.asarray(data.indices, np.int64)]
    return np.arange(len(data))


def _files(data: Any) -> list[str] | None:
    """The files of torchvision's ``DatasetFolder``, if it loads them unchanged, else ``None``."""
    module = sys.modules.get("torchvision.datasets.folder")
    inner = _innermost(data)
    if module is None or not isinstance(inner, module.DatasetFolder):
        return None
    own = type(inner).__getitem__ is not module.DatasetFolder.__getitem__
    if own or inner.loader is not module.default_loader or inner.transform is not None:
        return None
    return [str(inner.samples[row][0]) for row in _rows(data)]


def _labels(data: Any) -> list[Any]:
    """The label of each item: from a list of labels that agrees with the items, else from all items."""
    inner, rows = _innermost(data), _rows(data)
    for name in ("targets", "labels", "_labels"):
        listed: Any = getattr(inner, name, None)
        if not isinstance(listed, Sequence | np.ndarray) and not hasattr(listed, "detach"):
            continue
        if len(listed) != len(inner):
            continue
        change = getattr(inner, "target_transform", None)
        own = [listed[row] for row in rows.tolist()]
        values = [_plain(label if change is None else change(label)) for label in own]
        if (inner is data and _files(data)) or all(
            np.array_equal(_label(data, row), values[row]) for row in _sampled(len(data))
        ):
            return values
    return [_label(data, row) for row in range(len(data))]


def _sampled(count: int) -> list[int]:
    """At most `CHECKED` rows of ``count``, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, CHECKED).astype(int)).tolist()


def _label(data: Any, row: int) -> Any:
    return _plain(_pair(data, row, f"item {row} of {type(_innermost(data)).__name__}")[1])


def _plain(label: Any) -> Any:
    """A scalar of NumPy or torch as a Python number."""
    return label.item() if hasattr(label, "item") and getattr(label, "ndim", 0) == 0 else label


def _pair(data: Any, row: int, shown: str) -> tuple[Any, Any]:
    """Image and label of an item."""
    try:
        item = data[row]
    except (SyntaxError, ValueError, EOFError, OSError, Image.DecompressionBombError) as error:
        if getattr(error, "errno", None) not in (None, errno.ENOENT):
            raise  # an error of the machine, not of the image
        raise BadImage(
            f"image {shown!r} can't be read ({one_line(error)}): "
            "mend or remove it, or pass --on-bad-image skip"
        ) from error
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    what = f"{type(item).__name__} of {len(item)}" if hasattr(item, "__len__") else repr(item)
    raise IceprobeError(
        f"an item of {type(_innermost(data)).__name__} is a {what}: (image, label) is wanted; wrap "
        "it so that data[i] gives these two"
    )


def _picture(image: Any, shown: str) -> Image.Image:
    """An item's image in 8 bits per channel."""
    if isinstance(image, Image.Image):
        try:
            return plain(image)
        except IceprobeError as error:
            raise BadImage(f"image {shown!r}: {error}") from error
    kind = type(image).__name__
    if hasattr(image, "detach"):  # a tensor: channels first
        array = image.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        return Image.fromarray(np.ascontiguousarray(array))
    raise IceprobeError(
        f"image {shown!r} is a {kind} of {array.dtype} and shape {tuple(array.shape)}: pass the "
        "data set without its transform (transform=None), since the backbone resizes and normalises "
        "itself; PIL images and 8-bit arrays are read"
    )


def _pixels(image: Image.Image) -> bytes:
    return json.dumps([image.mode, image.size]).encode() + image.tobytes()


def _check_images(split: Split, data: Any) -> list[str]:
    """Refuse images that differ from one reading to the next; a line if they are transformed."""
    for row in _sampled(len(split)):
        try:
            once, again = (_pixels(split.image(row)) for _ in range(2))
        except BadImage:
            continue  # extraction refuses or skips it
        if once != again:
            raise IceprobeError(
                f"image {split.names[row]!r} is another one each time it is read: pass the data set "
                "without its random transform (iceprobe augments with views=, CLI --views)"
            )
    inner = _innermost(data)
    if getattr(inner, "transform", None) is None:
        return []
    return [
        f"{split.name}: the transform of {type(inner).__name__} is applied before the backbone's own "
        "preprocessing"
    ]


def _class_names(data: Any) -> list[str] | None:
    named = getattr(data, "classes", None)
    if named is None and isinstance(place := getattr(data, "class_to_idx", None), Mapping):
        named = sorted(place, key=place.__getitem__)
    if named is None or isinstance(named, str):
        return None
    # torchvision's ImageNet has several names per synset.
    return [", ".join(one) if isinstance(one, tuple | list) else str(one) for one in named]
