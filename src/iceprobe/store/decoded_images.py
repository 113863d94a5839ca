"""Rows of a split → examples as the backbone sees them, decoded ahead of the forward pass.

An example is decoded once for all of its views, in a thread (``workers=0``) or in a process.
"""

import math
import os
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from iceprobe.backbones.augmentation import augmentation, view_generator
from iceprobe.backbones.kinds import ExamplePreprocessing, Inputs, Ragged, singular
from iceprobe.backbones.native import NativePreprocessing
from iceprobe.backbones.preprocessing import ImagePreprocessing, Preprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.decoding import one_line
from iceprobe.datasets.pixels import Seen, seen, upright_boxes
from iceprobe.store.decoding import decoded_in_order, note_row
from iceprobe.store.examples import named
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.work import Decoded, Work


class ImageDecoder:
    """Rows of a split → examples as the backbone sees them; picklable.

    Args:
        splits: by name.
        preprocessing: of the backbone.
        settings: of the extraction.
        pin: whether inputs are pinned, in threads only.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        preprocessing: ExamplePreprocessing,
        settings: ExtractionSettings,
        pin: bool,
    ):
        self.splits, self.preprocessing = splits, preprocessing
        self.augment = augmentation(preprocessing, settings.augmentation or "paper")
        self.pin = pin

    def __getitem__(self, work: Work) -> Decoded:
        split, preprocessing = self.splits[work.split], self.preprocessing
        inputs = _Filled(preprocessing.shape, work.views, len(work.rows), self.pin)
        picture: ImagePreprocessing | None = (
            preprocessing.frame
        )  # boxes, masks, depth maps: images'
        native = picture if isinstance(picture, NativePreprocessing) else None
        frame = picture if isinstance(picture, Preprocessing) else None
        size = (len(work.rows), *((0, 0) if frame is None else (frame.image_size,) * 2))
        boxes = None if split.boxes is None else np.empty((len(work.rows), 4), np.float32)
        masks = np.zeros(size, np.uint8) if split.masks and native is None else None
        depths = np.full(size, np.nan, np.float32) if split.depths and native is None else None
        covers: list[np.ndarray] = []
        rows: list[int] = []
        bad: list[tuple[int, str]] = []
        done: list[Seen] = []
        for row in work.rows.tolist():
            note_row(row)
            try:
                example = split.example(row)
                mask = _mask(split, row, example) if split.masks else None
                depth = _depth(split, row, example) if depths is not None else None
                inputs.put(0, len(rows), preprocessing.transform(example))
            except BadImage as error:
                bad.append((row, str(error)))
                continue
            except (IceprobeError, MemoryError) as error:
                why = f"can't be made ready ({_described(example)}{one_line(error)})"
                bad.append((row, f"{singular(split.kind)} {split.names[row]!r} {why}"))
                continue
            done.append(seen(example) if depth is None else _both(seen(example), seen(depth)))
            for view in range(1, work.views):
                inputs.put(view, len(rows), self.augment(example, view_generator(row, view)))
            if split.boxes is not None and boxes is not None and picture is not None:
                box = upright_boxes(split.boxes[row : row + 1], done[-1].turn, example.size)
                boxes[len(rows)] = picture.transform_boxes(box, example.size)[0]
            if split.masks and native is not None:
                covers.append(
                    np.zeros(math.prod(native.grid(example.size)), np.float32)
                    if mask is None
                    else native.cover(mask)
                )
            if masks is not None and mask is not None and frame is not None:
                masks[len(rows)] = _placed(frame, mask.convert("L")) > 127
            if depths is not None and depth is not None and frame is not None:
                depths[len(rows)] = _placed(frame, depth)
            rows.append(row)
        good = len(rows)
        return Decoded(
            inputs.first(good),
            np.array(rows, np.int64),
            None if boxes is None else boxes[:good],
            None if masks is None else masks[:good],
            _padded(covers) if split.masks and native is not None else None,
            None if depths is None else depths[:good],
            bad,
            done,
        )


class _Filled:
    """The inputs of a batch: one tensor that is filled where they are alike, else a list a view.

    Args:
        shape: of an input; ``None`` where they differ in their length.
        views: of each example.
        most: examples that may come.
        pin: whether they are pinned.
    """

    def __init__(self, shape: tuple[int, ...] | None, views: int, most: int, pin: bool):
        self._pin = pin
        self._together = torch.empty(views, most, *(shape or (0,)), pin_memory=pin)
        self._array = self._together.numpy()
        self._apart: list[list[Ragged]] | None = None if shape else [[] for _ in range(views)]

    def put(self, view: int, place: int, made: Inputs) -> None:
        """The input at ``place``; those of a view come in order."""
        if isinstance(made, Ragged):
            assert self._apart is not None
            self._apart[view].append(made)
        else:
            self._array[view, place] = made.numpy()

    def first(self, count: int) -> Tensor | list[Ragged]:
        """The first ``count`` inputs of each view; of those that differ in length, views with any."""
        if self._apart is None:
            return self._together[:, :count]
        views = [Ragged.together(view) for view in self._apart if view]
        return [view.pin_memory() for view in views] if self._pin else views


def decoded_images(
    decode: ImageDecoder, work: list[Work], workers: int, gpu: bool
) -> Generator[Decoded, None, None]:
    """The images of each of ``work``, in order; ``workers`` are processes, 0 decodes in threads."""
    readers = workers or decode_threads(gpu)
    return decoded_in_order(
        decode,
        work,
        lambda item, row: named(decode.splits[item.split], row),
        readers=readers,
        ahead=2 * workers if workers else readers + 1,
        processes=workers > 0,
        pin=gpu and workers > 0,
    )


def decode_threads(gpu: bool) -> int:
    """Threads that decode: only two if the forward pass needs the CPU itself."""
    return min(8 if gpu else 2, os.cpu_count() or 1)


def _described(example: Any) -> str:
    """The size of a picture, for a message."""
    if not isinstance(example, Image.Image):
        return ""
    return f"{example.width} x {example.height} pixels, mode {example.mode}: "


def _mask(split: Split, row: int, image: Image.Image) -> Image.Image | None:
    return _as_large(split.mask(row), "mask", split, row, image)


def _depth(split: Split, row: int, image: Image.Image) -> Image.Image | None:
    return _as_large(split.depth(row), "depth map", split, row, image)


def _as_large(
    found: Image.Image | None, what: str, split: Split, row: int, image: Image.Image
) -> Image.Image | None:
    """What belongs to an image, which must have the image's size."""
    if found is not None and found.size != image.size:
        raise BadImage(
            f"{what} of image {split.names[row]!r} has {found.width} x {found.height} pixels and the "
            f"image {image.width} x {image.height}: mend it, or pass --on-bad-image skip"
        )
    return found


def _both(of_image: Seen, of_depth: Seen) -> Seen:
    """What was done to an image and to its depth map."""
    return replace(of_image, done=of_image.done + of_depth.done)


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """Numbers ``(N_i,)`` of each example → ``(b, N)``, zeros beyond its length."""
    most = max(map(len, rows), default=0)
    return (
        np.stack([np.pad(row, (0, most - len(row))) for row in rows])
        if rows
        else np.zeros((0, 0), np.float32)
    )


def _placed(preprocessing: Preprocessing, picture: Image.Image) -> np.ndarray:
    """``(S, S)``: resized and cropped as the image is, without interpolation."""
    return np.asarray(preprocessing.placed(picture, "nearest"))
