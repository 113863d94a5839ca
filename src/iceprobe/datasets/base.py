"""Data sets: labelled images in splits, each image with a name for error messages."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Union

import numpy as np
from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.labels import check_count, labels_outside, whole_labels
from iceprobe.datasets.pixels import Reading

Headline = Literal["top1", "mean_per_class"]


class BadImage(IceprobeError):
    """An image that can't be read; ``--on-bad-image skip`` leaves it out."""


class Split(ABC):
    """Labelled images in a fixed order.

    Attributes:
        name: ``"train"`` or ``"test"``.
        labels: ``(n,)`` int64, indices into the data set's classes.
        names: n names, unique in the data set; a file's path relative to its folder.
        boxes: ``(n, 4)`` float32, one box per image: ``x0, y0, x1, y1`` in pixels of the original
            image, upper ends exclusive, NaN for an image without a box. ``None`` if the data set
            has none.
        masks: whether images have masks.
        reading: options for decoding image files; ``None`` if images aren't files.

    Raises:
        IceprobeError: if labels aren't whole numbers, or names or boxes differ in number.
    """

    reading: Reading | None = None

    def __init__(
        self,
        name: str,
        labels: np.ndarray,
        names: Sequence[str],
        boxes: np.ndarray | None = None,
        masks: bool = False,
    ):
        self.name = name
        self.labels = whole_labels(labels, name)
        self.names = list(names)
        self.boxes = None if boxes is None else np.asarray(boxes, np.float32)
        check_count(name, len(self.labels), names=len(self.names))
        if self.boxes is not None:
            check_count(name, len(self.labels), boxes=len(self.boxes))
        self.masks = masks

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The decoded image in 8 bits per channel; threads may call this.

        Raises:
            BadImage: if it can't be read; the message names the file.
        """

    def source(self, index: int) -> Path | IO[bytes]:
        """The file that :meth:`image` decodes, or its bytes; only for splits with a ``reading``."""
        raise NotImplementedError(f"{type(self).__name__} reads no files")

    def mask(self, index: int) -> Image.Image | None:
        """255 on the object and 0 elsewhere, as large as ``image(index)``; ``None`` without a mask.

        Threads may call this. It raises `BadImage` as ``image`` does.
        """
        return None

    def background(self, index: int) -> Image.Image | None:
        """``image(index)`` without its object; known only for composed images, else ``None``."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Sha256 that changes with any image, label or mask, and with their order."""


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
    ):
        check_count(name, len(labels), images=len(images))
        super().__init__(name, labels, names, boxes, masks=objects is not None)
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


# What functions accept as a data set; the mapping holds two map-style data sets of torch.
Data = Union["Dataset", str, Mapping[str, Any]]


@dataclass(frozen=True)
class Dataset:
    """Labelled images with splits.

    Attributes:
        spec: the spec string that loads this data set again.
        name: short and readable, for folders and tables.
        classes: names of the classes; a label is an index into them. They are untrusted text:
            escape them wherever they are shown.
        splits: ``"train"`` and ``"test"``.
        headline: the accuracy that is conventionally reported on it.
        assumed: assumptions about its files, a line each: logged when it is loaded, kept in the
            store and in every result (docs/assumptions.md).

    Raises:
        IceprobeError: if a label is not the index of a class, or train lacks a class.
    """

    spec: str
    name: str
    classes: Sequence[str]
    splits: Mapping[str, Split]
    headline: Headline = "top1"
    assumed: Sequence[str] = ()

    def __post_init__(self) -> None:
        splits = self.splits.values()
        for split in splits:
            labels = whole_labels(split.labels, split.name)
            check_count(split.name, len(labels), names=len(split.names))
            if len(outside := labels_outside(labels, self.classes)):
                raise IceprobeError(
                    f"label {labels[outside[0]]} of {split.names[outside[0]]!r} in split "
                    f"{split.name!r} of {self.name!r} is no class: {len(self.classes)} are named, "
                    f"0 to {len(self.classes) - 1} ({len(outside)} such labels); mend them or leave "
                    "the images out"
                )
        trained = next((np.unique(s.labels) for s in splits if s.name == "train"), np.array([]))
        for split in splits:
            unseen = np.setdiff1d(split.labels, trained)
            if len(trained) and len(unseen):
                raise IceprobeError(
                    f"class {str(self.classes[unseen[0]])!r} is in split {split.name!r} of "
                    f"{self.name!r} but missing from train: add images of it to train or leave it out"
                )
