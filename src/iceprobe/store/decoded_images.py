"""Rows of a split → images as the backbone sees them, decoded ahead of the forward pass.

An image is decoded once for all of its views, in a thread (``workers=0``) or in a process.
"""

import os
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from iceprobe.backbones.augmentation import augmentation, view_generator
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Split
from iceprobe.datasets.decoding import one_line
from iceprobe.datasets.pixels import Seen, seen, upright_boxes
from iceprobe.store.decoding import decoded_in_order, note_row
from iceprobe.store.format import ExtractionSettings
from iceprobe.store.work import Decoded, Work

if TYPE_CHECKING:
    from iceprobe.backbones.preprocessing import Preprocessing


class ImageDecoder:
    """Rows of a split → images as the backbone sees them; picklable.

    Args:
        splits: by name.
        preprocessing: of the backbone.
        settings: of the extraction.
        pin: whether images are pinned, in threads only.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        preprocessing: "Preprocessing",
        settings: ExtractionSettings,
        pin: bool,
    ):
        self.splits, self.preprocessing = splits, preprocessing
        self.augment = augmentation(preprocessing, settings.augmentation or "paper")
        self.pin = pin

    def __getitem__(self, work: Work) -> Decoded:
        split, preprocessing = self.splits[work.split], self.preprocessing
        side = preprocessing.image_size
        images = torch.empty(
            work.views, len(work.rows), preprocessing.channels, side, side, pin_memory=self.pin
        )
        boxes = None if split.boxes is None else np.empty((len(work.rows), 4), np.float32)
        masks = np.zeros((len(work.rows), side, side), np.uint8) if split.masks else None
        depths = np.full((len(work.rows), side, side), np.nan, np.float32) if split.depths else None
        pixels = images.numpy()
        rows: list[int] = []
        bad: list[tuple[int, str]] = []
        done: list[Seen] = []
        for row in work.rows.tolist():
            note_row(row)
            try:
                image = split.image(row)
                mask = _mask(split, row, image) if masks is not None else None
                depth = _depth(split, row, image)
                pixels[0, len(rows)] = preprocessing.transform(image).numpy()
            except BadImage as error:
                bad.append((row, str(error)))
                continue
            except (IceprobeError, MemoryError) as error:
                size = f"{image.width} x {image.height} pixels, mode {image.mode}"
                why = f"can't be made ready ({size}: {one_line(error)})"
                bad.append((row, f"image {split.names[row]!r} {why}"))
                continue
            done.append(seen(image) if depth is None else _both(seen(image), seen(depth)))
            for view in range(1, work.views):
                made = self.augment(image, view_generator(row, view))
                pixels[view, len(rows)] = made.numpy()
            if split.boxes is not None and boxes is not None:
                box = upright_boxes(split.boxes[row : row + 1], done[-1].turn, image.size)
                boxes[len(rows)] = preprocessing.transform_boxes(box, image.size)[0]
            if masks is not None and mask is not None:
                masks[len(rows)] = _placed(preprocessing, mask.convert("L")) > 127
            if depths is not None and depth is not None:
                depths[len(rows)] = _placed(preprocessing, depth)
            rows.append(row)
        good = len(rows)
        return Decoded(
            images[:, :good],
            np.array(rows, np.int64),
            None if boxes is None else boxes[:good],
            None if masks is None else masks[:good],
            None if depths is None else depths[:good],
            bad,
            done,
        )


def decoded_images(
    decode: ImageDecoder, work: list[Work], workers: int, gpu: bool
) -> Generator[Decoded, None, None]:
    """The images of each of ``work``, in order; ``workers`` are processes, 0 decodes in threads."""
    readers = workers or decode_threads(gpu)
    return decoded_in_order(
        decode,
        work,
        lambda item, row: decode.splits[item.split].names[row],
        readers=readers,
        ahead=2 * workers if workers else readers + 1,
        processes=workers > 0,
        pin=gpu and workers > 0,
    )


def decode_threads(gpu: bool) -> int:
    """Threads that decode: only two if the forward pass needs the CPU itself."""
    return min(8 if gpu else 2, os.cpu_count() or 1)


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


def _placed(preprocessing: "Preprocessing", picture: Image.Image) -> np.ndarray:
    """``(S, S)``: resized and cropped as the image is, without interpolation."""
    return np.asarray(preprocessing.placed(picture, "nearest"))
