"""Classes of pixels in a sheet of images: the truth, and every probe's prediction."""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from iceprobe.dense.sheet import (
    IMAGES,
    INK,
    LINE,
    MARGIN,
    SIDE,
    Row,
    drawn,
    enlarged,
    fitting,
    font,
    width_of,
)
from iceprobe.probes.segmentation import upsample
from iceprobe.results.segmentation import Segmentation
from iceprobe.results.tables import tenths
from iceprobe.store.reader import Store
from iceprobe.tasks.miou import IGNORE
from iceprobe.tasks.segmentation import truth_of_masks

# Twelve colours that stay apart; more classes take hues at the golden angle.
_COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (240, 130, 200),
    (164, 230, 60), (23, 190, 207), (255, 232, 90), (140, 86, 75), (188, 189, 34), (120, 140, 255),
)  # fmt: skip


def draw_classes(
    results: Sequence[Segmentation], store: Store, images: int = IMAGES
) -> Image.Image:
    """The sheet, of each probe's first seed.

    It shows at most ``images``: the first one of each class, of many classes every k-th.
    """
    first, split = results[0], store[results[0].split]
    rows = _one_a_class(np.asarray(split.labels), images)
    masks, labels = split.masks(rows), torch.from_numpy(np.asarray(split.labels)[rows])
    maps = {"truth": truth_of_masks(masks, labels).numpy()}
    for result in results:
        probe = result.probes[0]
        tokens = split.patches(rows, probe.bias.device, torch.float32)
        with torch.no_grad():
            pixels = upsample(probe(tokens), first.grid, first.side)
        maps[result.probe] = pixels.argmax(1).cpu().numpy()
    scores = {result.probe: f"mIoU {tenths(result.miou.mean)}%" for result in results}
    pictures = store.images(first.split, rows)
    seen = sorted({int(c) for of in maps.values() for c in np.unique(of)} - {0, IGNORE})
    legend = _lines([first.class_names[c] for c in seen], width_of(len(rows)) - 2 * MARGIN)
    sheet, top = drawn(
        [first.class_names[of_class + 1] for of_class in labels.tolist()],
        [
            Row("image", "", [enlarged(picture) for picture in pictures]),
            *(
                Row(
                    title,
                    scores.get(title, ""),
                    [
                        _coloured(picture, one)
                        for picture, one in zip(pictures, called, strict=True)
                    ],
                )
                for title, called in maps.items()
            ),
        ],
        LINE * len(legend),
    )
    pen, small, place = ImageDraw.Draw(sheet), font(13), iter(seen)
    for line in legend:
        left = MARGIN
        for name, wide in line:
            pen.rectangle((left, top + 4, left + 11, top + 15), colour(next(place)))
            pen.text((left + 17, top + 10), name, INK, small, anchor="lm")
            left += wide
        top += LINE
    return sheet


def colour(of_class: int) -> tuple[int, int, int]:
    """Of a class from 1 up."""
    if of_class <= len(_COLOURS):
        return _COLOURS[of_class - 1]
    red, green, blue = colorsys.hsv_to_rgb(of_class * 0.618034 % 1, 0.75, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _one_a_class(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    _, firsts = np.unique(labels, return_index=True)
    chosen = np.linspace(0, len(firsts) - 1, min(count, len(firsts))).round().astype(int)
    return firsts[chosen]


def _coloured(picture: Image.Image, called: NDArray) -> Image.Image:
    """Classes ``(S, S)`` over the dimmed picture; ignored pixels are white."""
    palette = np.zeros((256, 3), np.uint8)
    for of_class in np.unique(called):
        palette[of_class] = (255, 255, 255) if of_class == IGNORE else colour(int(of_class))
    grey = np.asarray(enlarged(picture).convert("L"), np.float64)[..., None]
    labels = Image.fromarray(called.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    painted = palette[np.asarray(labels)].astype(np.float64) * (0.55 + 0.45 * grey / 255)
    on = np.asarray(labels)[..., None] > 0
    return Image.fromarray(np.where(on, painted, 0.4 * grey).astype(np.uint8))


def _lines(names: Sequence[str], width: int) -> list[list[tuple[str, int]]]:
    """The legend's names, each with the width it takes, in lines no wider than the sheet."""
    small, left = font(13), 0
    lines: list[list[tuple[str, int]]] = [[]]
    for name in names:
        shown = fitting(name, small, 2 * SIDE)
        wide = 17 + round(small.getlength(shown)) + 20
        if lines[-1] and left + wide > width:
            lines.append([])
            left = 0
        lines[-1].append((shown, wide))
        left += wide
    return lines
