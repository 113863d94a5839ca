"""Bootstrap samples of images for metrics of pixels: an image is drawn whole, or its group is.

    w_i = c_{g(i)}        c multinomial over the G groups, G draws; without groups g(i) = i

The draws depend on seed and number of units alone, so those of two probes on the same images are the same
and their differences are paired.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

DRAWS = 2_000
CHUNK_CELLS = 4_000_000  # of drawn weights held at once: 32 MB


def resampled(
    metric: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    images: int,
    groups: NDArray[np.integer] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """A metric of each draw: ``(draws,)``.

    Args:
        metric: weights of the images ``(W, n)`` → its values ``(W,)``.
        images: n.
        groups: ``(n,)``, equal for images that aren't independent; None: all are.
        draws: how many samples.
        seed: of the draws.
    """
    codes = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    units, rng = int(codes.max()) + 1, np.random.default_rng(seed)
    step = max(1, CHUNK_CELLS // images)
    found = []
    for start in range(0, draws, step):
        size = min(step, draws - start)
        counts = rng.multinomial(units, np.full(units, 1 / units), size=size)
        found.append(metric(counts.astype(np.float64)[:, codes]))
    return np.concatenate(found)


def interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled values; those that are undefined (NaN) are left out."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
