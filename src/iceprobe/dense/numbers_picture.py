"""Numbers of pixels in a sheet of images: the truth, and every probe's prediction, on one scale of colours."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from iceprobe.dense.sheet import (
    FAINT,
    IMAGES,
    INK,
    LABELS,
    LINE,
    MARGIN,
    SIDE,
    Row,
    drawn,
    enlarged,
    font,
)
from iceprobe.probes.segmentation import upsample
from iceprobe.results.depth import Depth
from iceprobe.results.tables import figure
from iceprobe.store.reader import Store

ENDS = (0.01, 0.99)  # of the scale: quantiles of the shown truth, so that no outlier takes it all
BAR, HIGH = 320, 14  # pixels of the colour bar
UNKNOWN = (214, 217, 222)
# Viridis (van der Walt and Smith 2015), of which equal steps look equal, at tenths.
_COLOURS = np.array([
    (68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140),
    (34, 168, 132), (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37),
])  # fmt: skip


def draw_numbers(results: Sequence[Depth], store: Store, images: int = IMAGES) -> Image.Image:
    """The sheet, of each probe's first seed.

    It shows at most ``images``, evenly spread over those with a known pixel. What lies beyond the ends of
    the scale has their colours; unknown pixels of the truth are grey.
    """
    first, split = results[0], store[results[0].split]
    rows = _spread(split.depths, len(split), images)
    truth = split.depths(rows).numpy()
    maps = {"truth": truth}
    for result in results:
        probe = result.probes[0]
        tokens = split.patches(rows, probe.bias.device, torch.float32)
        with torch.no_grad():
            pixels = upsample(probe(tokens), first.grid, first.side)
        maps[result.probe] = pixels[:, 0].cpu().numpy()
    low, high = np.nanquantile(truth, ENDS).tolist()
    scores = {
        one.probe: f"RMSE {figure(one.rmse.mean, first.metric)}{one.score_unit}" for one in results
    }
    pictures = store.images(first.split, rows)
    sheet, top = drawn(
        [""] * len(rows),
        [
            Row("image", "", [enlarged(picture) for picture in pictures]),
            *(
                Row(title, scores.get(title, ""), [_picture(one, low, high) for one in numbers])
                for title, numbers in maps.items()
            ),
        ],
        2 * LINE,
    )
    _bar(sheet, top, first.unit, low, high, unknown=bool(np.isnan(truth).any()))
    return sheet


def coloured(numbers: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """Numbers of any shape ``(…)`` → colours ``(…, 3)``; NaN is grey."""
    place = np.clip((numbers - low) / max(high - low, 1e-12), 0, 1) * (len(_COLOURS) - 1)
    known = np.isfinite(place)
    steps = np.arange(len(_COLOURS))
    bands = [np.interp(np.where(known, place, 0), steps, band) for band in _COLOURS.T]
    found = np.where(known[..., None], np.stack(bands, -1), UNKNOWN)
    return np.asarray(found.round(), np.uint8)


def _picture(numbers: NDArray, low: float, high: float) -> Image.Image:
    made = Image.fromarray(coloured(numbers, low, high))
    return made.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _spread(depths: Callable[..., torch.Tensor], count: int, images: int) -> NDArray[np.int64]:
    """Rows of up to ``images`` images with a known pixel."""
    rows = np.arange(count)
    there = np.concatenate([
        np.isfinite(depths(part).numpy()).any((1, 2)) for part in np.array_split(rows, -(-count // 256))
    ])  # fmt: skip
    known = rows[there]
    return known[np.linspace(0, len(known) - 1, min(images, len(known))).round().astype(int)]


def _bar(
    sheet: Image.Image, top: int, unit: str, low: float, high: float, *, unknown: bool
) -> None:
    """The colour bar with its ends, its middle and the unit, and what grey is if there is ``unknown``."""
    pen, small = ImageDraw.Draw(sheet), font(13)
    left = MARGIN + LABELS
    ramp = coloured(np.linspace(low, high, BAR), low, high)
    sheet.paste(Image.fromarray(np.repeat(ramp[None], HIGH, 0)), (left, top))
    pen.text((MARGIN, top + HIGH / 2), unit or "scale", INK, small, anchor="lm")
    ends = [f"{low:.3g} or less", f"{(low + high) / 2:.3g}", f"{high:.3g} or more"]
    for text, share, anchor in zip(ends, (0, 0.5, 1), ("la", "ma", "ra"), strict=True):
        pen.text((left + share * BAR, top + HIGH + 4), text, FAINT, small, anchor=anchor)
    if unknown:
        left += BAR + 28
        pen.rectangle((left, top, left + HIGH, top + HIGH), UNKNOWN)
        pen.text((left + HIGH + 8, top + HIGH / 2), "not known", INK, small, anchor="lm")
