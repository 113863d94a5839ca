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
from iceprobe.datasets.labels import check_count, check_labels, whole_labels
from iceprobe.datasets.pixels import Reading

Headline = Literal["top1", "mean_per_class"]


class BadImage(IceprobeError):
    """An image that can't be read: ``--on-bad-image skip`` leaves it out."""


class Split(ABC):
    """Labelled images in a fixed order.

    Attributes:
        name: ``"train"`` or ``"test"``.
        labels: ``(n,)`` int64, indices into the data set's classes.
        names: n names, unique in the data set; a file's path relative to its folder.
        boxes: ``(n, 4)`` float32, one box an image as ``x0, y0, x1, y1`` in pixels of the original
            image with exclusive upper ends, or ``None`` where the data set has none. A row of NaN
            is an image without a box.
        masks: whether images have masks.
        reading: how its files become pictures, where they don't say it themselves; ``None`` where
            there are no files.

    Raises:
        IceprobeError: if labels aren't whole numbers, or not as many as names and boxes.
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
        """The decoded image in 8 bits a channel; may be called from several threads.

        Raises:
            BadImage: if it can't be read; the message names the file.
        """

    def source(self, index: int) -> Path | IO[bytes]:
        """The file that :meth:`image` decodes, or its bytes; only for splits with a ``reading``.

        Raises:
            BadImage: if it is gone.
        """
        raise NotImplementedError(f"{type(self).__name__} reads no files")

    def mask(self, index: int) -> Image.Image | None:
        """Where the object is: 255 on it and 0 elsewhere, in the size of ``image(index)``.

        ``None`` where that image has no mask, and always where ``masks`` is false. May be called
        from several threads.

        Raises:
            BadImage: if it can't be read; the message names the file.
        """
        return None

    def background(self, index: int) -> Image.Image | None:
        """``image(index)`` without its object, in the same size.

        ``None`` where that isn't known; it is known of images that were composed.
        """
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Sha256 of what the split holds: changes with any image, label or mask and their order."""


class ArraySplit(Split):
    """Images held in memory.

    Attributes:
        images: ``(n, height, width)`` or ``(n, height, width, 3)`` uint8: grey or RGB.
        objects: ``(n, height, width)`` bool, the masks, or ``None`` where there are none.
        backgrounds: the images without the objects, where that is known.
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


# What functions take for a data set: one, a spec string, or two map-style data sets of torch.
Data = Union["Dataset", str, Mapping[str, Any]]


@dataclass(frozen=True)
class Dataset:
    """Labelled images with splits.

    Attributes:
        spec: the spec string that loads this data set again.
        name: short and readable, for folders and tables.
        classes: names of the classes; a label is an index into them. They come from data: escape
            them wherever they are shown.
        splits: ``"train"`` and ``"test"``.
        headline: the accuracy that is reported on it by convention.
        assumed: what was assumed about its files, a line each: logged when it is loaded, kept in the
            store and in every result (docs/assumptions.md).

    Raises:
        IceprobeError: if a label is no index of a class, or a class is missing from train.
    """

    spec: str
    name: str
    classes: Sequence[str]
    splits: Mapping[str, Split]
    headline: Headline = "top1"
    assumed: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_labels(self.name, self.classes, list(self.splits.values()))
