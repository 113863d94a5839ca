"""Does a measure without labels tell what a probe will score?

Spearman's and Pearson's correlation over stores (layers, backbones) between a measure and the primary metric of
one probe, with percentile bootstrap intervals over the stores. Layers of one backbone aren't independent, so
such an interval is of these stores, not of encoders at large. Fewer than four stores tell nothing, and get no
coefficient.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iceprobe.measures.registry import MEASURES
from iceprobe.measures.schema import Coefficient, Correlation, Measured, Point
from iceprobe.results.agreement import pearson, spearman
from iceprobe.results.fitted import FittedResult
from iceprobe.results.image_draws import interval
from iceprobe.results.sweeps import same_images, split_by

LEAST = 4  # stores
DRAWS = 2_000
_SAME = 1e-12  # spread as a share of the values below which they are one


def correlate(
    measured: Sequence[Measured],
    results: Sequence[FittedResult],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Correlation]:
    """How each measure goes with each probe's score, over the stores that both have.

    Args:
        measured: of :func:`iceprobe.measure`.
        results: of probes on frozen backbones; they name the store that they read. Scores on other images, or by
            another protocol, are a correlation of their own.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        One entry a probe and measure, in the order of the results and of `MEASURES`, wherever there are two
        stores or more.
    """
    by_store = {one.store: one for one in measured}
    matched = [one for one in results if one.adaptation is None and one.store.identity in by_store]
    found = []
    for (on, _), on_images in split_by(matched, same_images).items():
        for (probe,), of_probe in split_by(on_images, lambda one: (one.label,)).items():
            last = {one.store.identity: one for one in of_probe}  # a store counts once
            for name in measures_of(measured):
                points = [
                    Point(store, by_store[store].values[name], one.score.mean)
                    for store, one in last.items()
                    if name in by_store[store].values
                ]
                if len(points) > 1:
                    found.append(
                        _correlation(name, probe, on, of_probe[0].primary, points, draws, seed)
                    )
    return found


def measures_of(measured: Iterable[Measured]) -> list[str]:
    """Measures that some store has a value of, in the order of `MEASURES`."""
    there = {name for one in measured for name in one.values}
    return [name for name in MEASURES if name in there]


def _correlation(
    measure: str, probe: str, on: str, metric: str, points: list[Point], draws: int, seed: int
) -> Correlation:
    record: dict[str, Any] = {
        "measure": measure, "probe": probe, "on": on, "metric": metric, "points": points,
    }  # fmt: skip
    x, y = (np.array([getattr(one, name) for one in points]) for name in ("x", "y"))
    if len(points) < LEAST:
        return Correlation(**record, why=f"{len(points)} stores tell nothing, take {LEAST} or more")
    for side, called in ((x, measure), (y, metric)):
        if np.ptp(side) <= _SAME * np.abs(side).max():
            return Correlation(**record, why=f"{called} is the same on all of them")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(points), size=(draws, len(points)))
    return Correlation(
        **record,
        spearman=_coefficient(spearman, x, y, drawn),
        pearson=_coefficient(pearson, x, y, drawn),
    )


def _coefficient(
    of: Callable[..., NDArray[np.float64]], x: NDArray, y: NDArray, drawn: NDArray
) -> Coefficient:
    """With its interval; draws in which one side is constant are left out."""
    return Coefficient(float(of(x, y)), interval(of(x[drawn], y[drawn])))
