"""Pictures of a bag: its tokens at their places, coloured by a number of each; how few have the attention."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iceprobe.reporting.pictures import colour, evidence_colour, evidence_opacity

CELLS = 120  # a side at most
FREQUENT = 0.1  # share of the tokens
LEVELS = 100  # colours of a picture
_PLAIN = np.array((223, 228, 233), np.float64)  # a token that says nothing
_WIDE, _HIGH, _LEFT, _BELOW = 190, 128, 34, 30  # of a curve, with its margins


def tile_spacing(coords: NDArray) -> float:
    """How far neighbouring tokens lie apart, in the larger of both directions: ``(N, 2)``.

    It is the most frequent distance of a token from its nearest neighbour: pieces of tissue have grids of their
    own, and where two meet tiles lie nearer. Where no distance is frequent, it is the median.
    """
    from scipy.spatial import cKDTree

    if len(coords) < 2:
        return 1.0
    nearest = cKDTree(coords).query(coords, k=2, p=np.inf)[0][:, 1]
    apart, counts = np.unique(nearest[nearest > 0].round(3), return_counts=True)
    if not len(apart):
        return 1.0
    often = counts.max() >= FREQUENT * counts.sum()
    return float(apart[counts.argmax()] if often else np.median(nearest[nearest > 0]))


def raster(coords: NDArray, values: NDArray, most: int = CELLS) -> NDArray[np.float64]:
    """Values at their places: ``(N, 2)`` as down, right, and ``(N,)`` → ``(H, W)``, NaN where no token is.

    A cell is a tile, or larger where there would be more than ``most`` a side; it shows the value of its tokens
    whose magnitude is largest.
    """
    low = coords.min(0)
    extent = float((coords.max(0) - low).max())
    cell = max(tile_spacing(coords), extent / (most - 1))
    place = np.rint((coords - low) / cell).astype(np.int64)
    cells = np.full(place.max(0) + 1, np.nan)
    order = np.argsort(np.abs(values), kind="stable")  # the last one stays
    cells[place[order, 0], place[order, 1]] = values[order]
    return cells


def attention_uri(coords: NDArray, weights: NDArray) -> str:
    """Attention ``(N,)`` that sums to 1, at its places.

    Colour counts factors: it starts at uniform attention, 1/N, and is full at the largest weight, or at four times
    uniform where that is less.
    """
    times = weights * len(weights)
    full = max(4.0, float(times.max()))
    cells = raster(coords, np.log(times.clip(1e-30)).clip(0) / np.log(full))
    return _uri(cells, colour(np.linspace(0, 1, LEVELS)), 0.0, 1.0)


def evidence_uri(coords: NDArray, evidence: NDArray) -> str:
    """Evidence ``(N,)`` at its places: red speaks for, blue against, the strongest token has full colour."""
    full = float(np.abs(evidence).max()) or 1.0
    scale = np.linspace(-1, 1, LEVELS)
    opacity = evidence_opacity(scale)[:, None]
    colours = (1 - opacity) * _PLAIN + opacity * evidence_colour(scale)
    return _uri(raster(coords, evidence / full), colours, -1.0, 1.0)


def curve_uri(weights: NDArray) -> str:
    """How much of the attention the k tokens with the largest weights have, over k: ``(N,)`` that sum to 1."""
    count = len(weights)
    share = np.sort(weights)[::-1].cumsum().clip(0, 1)
    ks = np.unique(np.geomspace(1, count, 60).round().astype(np.int64))
    across = np.log(ks) / np.log(count) if count > 1 else np.zeros(1)

    def line(values: NDArray) -> str:
        x, y = _LEFT + across * (_WIDE - _LEFT - 6), 6 + (1 - values) * (_HIGH - _BELOW - 6)
        points = zip(x.tolist(), y.tolist(), strict=True)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

    right, bottom = _WIDE - 6, _HIGH - _BELOW
    text = 'font-family="sans-serif" font-size="10" fill="#5d6b7a"'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" height="{_HIGH}">'
        f'<path d="M{_LEFT} 6V{bottom}H{right}" fill="none" stroke="#a9b3bd"/>'
        f'<polyline points="{line(ks / count)}" fill="none" stroke="#a9b3bd" stroke-dasharray="3 3"/>'
        f'<polyline points="{line(share[ks - 1])}" fill="none" stroke="#b5367a" stroke-width="2"/>'
        f'<g {text}><text x="{_LEFT - 4}" y="12" text-anchor="end">100%</text>'
        f'<text x="{_LEFT - 4}" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{bottom + 12}">1</text>'
        f'<text x="{right}" y="{bottom + 12}" text-anchor="end">{count:,}</text>'
        f'<text x="{(_LEFT + right) / 2}" y="{bottom + 24}" text-anchor="middle">tokens, largest first</text></g></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _uri(cells: NDArray, colours: NDArray, low: float, high: float) -> str:
    """A pixel a cell, in ``colours`` from ``low`` to ``high``, transparent where no token is."""
    place = np.nan_to_num((cells - low) / (high - low)).clip(0, 1) * (LEVELS - 1)
    levels = np.where(np.isnan(cells), LEVELS, np.rint(place)).astype(np.uint8)
    picture = Image.fromarray(levels, mode="P")
    picture.putpalette([*colours.round().astype(np.uint8).ravel().tolist(), 255, 255, 255])
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True, transparency=LEVELS)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
