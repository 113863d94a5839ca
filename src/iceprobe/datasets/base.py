"""Data sets: examples with targets in splits, each with a name for error messages."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Union

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.datasets.labels import by_number, check_count, labels_outside
from iceprobe.datasets.pixels import Reading
from iceprobe.datasets.shared_groups import line_of_shared_groups
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.stratified import alone
from iceprobe.tasks.targets import known

TRAIN = "train"


class BadImage(IceprobeError):
    """An image that can't be read; ``--on-bad-image skip`` leaves it out."""


@dataclass(frozen=True)
class Column:
    """What an example has besides its target: its patient, its site, its fold.

    Attributes:
        codes: ``(n,)`` int64, indices into ``values``; −1 where it isn't known.
        values: the names, the same of all splits. They are untrusted text.
    """

    codes: np.ndarray
    values: Sequence[str]

    @classmethod
    def of(cls, splits: Mapping[str, Sequence[str | None]]) -> "dict[str, Column]":
        """A column of each split from its values as text, of which None isn't known.

        Values are in the order of numbers, if all are whole numbers, and of text otherwise.
        """
        values = by_number(
            {value for given in splits.values() for value in given if value is not None}
        )
        place = {value: code for code, value in enumerate(values)} | {None: -1}
        return {
            split: cls(np.array([place[value] for value in given], np.int64), values)
            for split, given in splits.items()
        }

    def take(self, rows: np.ndarray) -> "Column":
        """Some of the examples, in this order."""
        return Column(self.codes[rows], self.values)


class Split(ABC):
    """Examples with targets, in a fixed order.

    Attributes:
        name: ``"train"`` or ``"test"``.
        labels: the targets as the task has them (`tasks/targets.py`): indices of classes ``(n,)`` int64,
            tags ``(n, K)`` uint8, or numbers ``(n, K)`` float64.
        names: n names, unique in the data set; a file's path relative to its folder.
        boxes: ``(n, 4)`` float32, one box per image: ``x0, y0, x1, y1`` in pixels of the original
            image, upper ends exclusive, NaN for an image without a box. ``None`` if the data set
            has none.
        masks, depths: whether images have masks, or depth maps: a number a pixel. Where they have depth
            maps, these are the targets: the task is ``"depth"``, and labels are zeros.
        columns: further ones by name: groups, folds, slices.
        reading: options for decoding image files; ``None`` if images aren't files.
        kind: what :meth:`example` gives: ``"image"``, or another of `iceprobe.backbones.kinds.KINDS`.
        coords: how many numbers say where each image of an example lies; 0 if nothing does.

    Raises:
        IceprobeError: if targets aren't those of the ``task``, names, boxes or a column differ in
            number, or there are both masks and depth maps.
    """

    reading: Reading | None = None
    kind = "image"
    coords = 0

    def __init__(
        self,
        name: str,
        labels: Any,
        names: Sequence[str],
        boxes: np.ndarray | None = None,
        masks: bool = False,
        *,
        depths: bool = False,
        task: str = "classification",
        columns: Mapping[str, Column] | None = None,
    ):
        if masks and depths:
            raise IceprobeError(
                f"split {name!r} has masks and depth maps: give those that are to be predicted alone"
            )
        self.name, self.task = name, "depth" if depths else task
        self.labels: np.ndarray = get_task(self.task).targets(labels, name)
        self.names = list(names)
        self.boxes = None if boxes is None else np.asarray(boxes, np.float32)
        self.columns = dict(columns or {})
        check_count(name, len(self.labels), names=len(self.names))
        if self.boxes is not None:
            check_count(name, len(self.labels), boxes=len(self.boxes))
        for column, given in self.columns.items():
            check_count(name, len(self.labels), **{f"values of {column!r}": len(given.codes)})
        self.masks, self.depths = masks, depths

    @property
    def targets(self) -> np.ndarray:
        """:attr:`labels`."""
        return self.labels

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The decoded image in 8 bits per channel, or a picture of another example; threads may call this.

        Raises:
            BadImage: if it can't be read; the message names the file.
        """

    def example(self, index: int) -> Any:
        """What the backbone's preprocessing reads; of :attr:`kind`. Otherwise as :meth:`image`."""
        return self.image(index)

    @property
    def parts(self) -> np.ndarray | None:
        """How many images each example has, ``(n,)``, where they differ in it: a pass takes only so many."""
        return None

    def source(self, index: int) -> Path | IO[bytes]:
        """The file that :meth:`image` decodes, or its bytes; only for splits with a ``reading``."""
        raise NotImplementedError(f"{type(self).__name__} reads no files")

    def mask(self, index: int) -> Image.Image | None:
        """255 on the object and 0 elsewhere, as large as ``image(index)``; ``None`` without a mask.

        Threads may call this. It raises `BadImage` as ``image`` does.
        """
        return None

    def depth(self, index: int) -> Image.Image | None:
        """Numbers of pixels (`number_map`), as large as ``image(index)``; ``None`` without a depth map.

        Threads may call this. It raises `BadImage` as ``image`` does.
        """
        return None

    def background(self, index: int) -> Image.Image | None:
        """``image(index)`` without its object; known only for composed images, else ``None``."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Sha256 that changes with any image, target, mask or depth map, and with their order."""


class ArraySplit(Split):
    """Images in memory.

    Attributes:
        images: ``(n, height, width)`` or ``(n, height, width, 3)`` uint8: grey or RGB.
        objects: ``(n, height, width)`` bool, the masks, or ``None``.
        backgrounds: the images without the objects, or ``None``.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        boxes: np.ndarray | None = None,
        objects: np.ndarray | None = None,
        backgrounds: np.ndarray | None = None,
        **more: Any,
    ):
        check_count(name, len(labels), images=len(images))
        super().__init__(name, labels, names, boxes, masks=objects is not None, **more)
        self.images, self.objects, self.backgrounds = images, objects, backgrounds

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def mask(self, index: int) -> Image.Image | None:
        if self.objects is None:
            return None
        return Image.fromarray(self.objects[index].astype(np.uint8) * 255)

    def background(self, index: int) -> Image.Image | None:
        return None if self.backgrounds is None else Image.fromarray(self.backgrounds[index])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for array in (self.images, self.labels, self.boxes, self.objects):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def number_map(numbers: np.ndarray) -> Image.Image:
    """Numbers of pixels ``(height, width)`` → mode F, NaN where one isn't finite and above 0."""
    with np.errstate(over="ignore"):  # what float32 can't hold isn't known
        found = np.asarray(numbers).astype(np.float32)
    return Image.fromarray(np.where(np.isfinite(found) & (found > 0), found, np.float32(np.nan)))


class DepthSplit(ArraySplit):
    """Images in memory, each with a number a pixel.

    Attributes:
        maps: ``(n, height, width)``; what isn't finite and above 0 isn't known.
    """

    def __init__(
        self, name: str, images: np.ndarray, maps: np.ndarray, names: Sequence[str], **more: Any
    ):
        check_count(name, len(images), **{"depth maps": len(maps)})
        super().__init__(name, images, np.zeros(len(images)), names, depths=True, **more)
        self.maps = maps

    def depth(self, index: int) -> Image.Image:
        return number_map(self.maps[index])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(super().fingerprint().encode())
        digest.update(np.ascontiguousarray(self.maps).tobytes())
        return digest.hexdigest()


def check_column(column: str, columns: Iterable[str], spec: str) -> None:
    """Refuse a column of groups that a data set wasn't read with.

    Raises:
        IceprobeError: with those that it was.
    """
    if column not in (known := list(columns)):
        raise IceprobeError(
            f"groups={column!r}: {spec} was read with {', '.join(known) or 'no column'}; name it in the "
            f"data's spec, group={column}, or for tokens of your own as groups"
        )


# What functions accept as a data set; the mapping holds two map-style data sets of torch.
Data = Union["Dataset", str, Mapping[str, Any]]


@dataclass(frozen=True)
class Dataset:
    """Examples with targets, in splits.

    Attributes:
        spec: the spec string that loads this data set again.
        name: short and readable, for folders and tables.
        classes: names of the K outputs: of classes, which a label is an index into, of tags, or of
            numbers. They are untrusted text: escape them wherever they are shown.
        splits: ``"train"`` and ``"test"``.
        headline: the metric that is conventionally reported on it; the task's primary one if empty.
        assumed: assumptions about its files, a line each: logged when it is loaded, kept in the
            store and in every result (docs/assumptions.md).
        units: of the numbers of a regression, ``"kg"``; empty where they aren't known.
        group: name of the column whose equal values are examples that aren't independent.
        fold: name of the column of folds.
        slices: names of the columns by whose values metrics are reported as well.
        maps: a class of this set → the classes of another that stand for it, when a run on the other
            is read on this one (`datasets/matching.py`). A class without an entry goes by its name.

    Raises:
        IceprobeError: if a target is none of the task's, or train lacks an output.
    """

    spec: str
    name: str
    classes: Sequence[str]
    splits: Mapping[str, Split]
    headline: str = "top1"
    assumed: Sequence[str] = ()
    units: Sequence[str] = ()
    group: str | None = None
    fold: str | None = None
    slices: Sequence[str] = ()
    maps: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split in self.splits.values():
            # A source may have changed them after the split was made.
            split.labels = get_task(self.task).targets(split.labels, split.name)
            check_count(split.name, len(split.labels), names=len(split.names))
        if self.task == "classification":
            self._check_classes()
        else:
            self._check_outputs()
        for name in filter(None, (self.group, self.fold, *self.slices)):
            for split in self.splits.values():
                if name not in split.columns:
                    raise IceprobeError(unknown(f"column of {self.name}", name, split.columns))
            named = [list(split.columns[name].values) for split in self.splits.values()]
            if any(one != named[0] for one in named):
                raise IceprobeError(
                    f"column {name!r} of {self.name!r} has other values in each split: a code means one "
                    "name in all of them, make it with Column.of({split: [name, …]})"
                )
        lines = dict.fromkeys([*self.assumed, *self._shared_groups()])  # of a copy: once
        object.__setattr__(self, "assumed", list(lines))

    @property
    def task(self) -> str:
        """Name of the task of its targets."""
        return next((split.task for split in self.splits.values()), "classification")

    @property
    def kind(self) -> str:
        """What its examples are (`Split.kind`)."""
        return next((split.kind for split in self.splits.values()), "image")

    def groups(self, split: str, column: str | None = None) -> np.ndarray | None:
        """Which examples of a split aren't independent, ``(n,)``: those of one group have equal codes.

        Args:
            column: whose values are the groups; None: :attr:`group`, without which there are none.

        Raises:
            IceprobeError: if there is no such column.
        """
        name = column or self.group
        if name is None:
            return None
        check_column(name, self.splits[split].columns, self.spec)
        return alone(self.splits[split].columns[name].codes)

    def _check_classes(self) -> None:
        splits = self.splits.values()
        for split in splits:
            if len(outside := labels_outside(split.labels, self.classes)):
                raise IceprobeError(
                    f"label {split.labels[outside[0]]} of {split.names[outside[0]]!r} in split "
                    f"{split.name!r} of {self.name!r} is no class: {len(self.classes)} are named, "
                    f"0 to {len(self.classes) - 1} ({len(outside)} such labels); mend them or leave "
                    "the images out"
                )
        trained = next((np.unique(s.labels) for s in splits if s.name == TRAIN), np.array([]))
        for split in splits:
            unseen = np.setdiff1d(split.labels, trained)
            if len(trained) and len(unseen):
                raise IceprobeError(
                    f"class {str(self.classes[unseen[0]])!r} is in split {split.name!r} of "
                    f"{self.name!r} but missing from train: add images of it to train or leave it out"
                )

    def _check_outputs(self) -> None:
        task = get_task(self.task)
        for split in self.splits.values():
            if split.task != self.task:
                raise IceprobeError(
                    f"split {split.name!r} of {self.name!r} has targets of {split.task}, and "
                    f"{next(iter(self.splits))!r} of {self.task}: give all the same task="
                )
            if task.several and split.labels.shape[1] != len(self.classes):
                raise IceprobeError(
                    f"split {split.name!r} of {self.name!r} has {split.labels.shape[1]} "
                    f"{task.outputs} an example and {len(self.classes)} are named: give each a name"
                )
            if not known(split.labels).any():
                raise IceprobeError(
                    f"split {split.name!r} of {self.name!r} has no known target: mend the values, "
                    "or leave the split out"
                )
        if TRAIN in self.splits:
            why = task.check_trained(self.splits[TRAIN].labels, self.classes)
            if why is not None:
                raise IceprobeError(f"{self.name}: {why}; mend the targets, or leave it out")

    def _shared_groups(self) -> list[str]:
        """A line on groups that are in train and in another split: the split is the user's, and stays."""
        if self.group is None or TRAIN not in self.splits:
            return []
        trained = self.splits[TRAIN].columns[self.group]
        lines = []
        for split in self.splits.values():
            mine = split.columns[self.group].codes
            both = np.setdiff1d(np.intersect1d(mine, trained.codes), [-1])
            if split.name != TRAIN and len(both):
                names = [trained.values[code] for code in both]
                so = (
                    f"{np.isin(mine, both).sum():,} of {len(mine):,} {split.name} examples aren't "
                    "independent of train"
                )
                places = f"train and in {split.name}"
                lines.append(line_of_shared_groups(self.group, names, places, so))
        return lines
