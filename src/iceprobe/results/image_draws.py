"""Bootstrap samples of images, or of groups of images that aren't independent.

    w_i = c_{g(i)}        c multinomial over the G groups, G draws; without groups g(i) = i

The draws depend on seed and number of units alone, so those of two probes on the same images are the same
and their differences are paired.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.units import codes_of, number_of

DRAWS = 2_000
CHUNK_CELLS = 4_000_000  # of drawn weights held at once: 32 MB

Floats = NDArray[np.float64]


def weights_of(
    images: int, groups: NDArray | None = None, draws: int = DRAWS, seed: int = 0
) -> Iterator[Floats]:
    """How often each image is drawn, in parts of the draws: ``(W, n)`` each.

    Args:
        images: n.
        groups: ``(n,)``, equal for images that aren't independent; None: all are.
        draws: how many samples.
        seed: of the draws.
    """
    codes, units = codes_of(groups, images), number_of(groups, images)
    rng, step = np.random.default_rng(seed), max(1, CHUNK_CELLS // images)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        counts = rng.multinomial(units, np.full(units, 1 / units), size=size).astype(np.float64)
        yield counts if codes is None else counts[:, codes]


def resampled(
    metric: Callable[[Floats], Floats],
    images: int,
    groups: NDArray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Floats:
    """A metric of each draw, ``(draws,)``, from the weights of the images ``(W, n)`` → ``(W,)``.

    Other arguments are those of :func:`weights_of`.
    """
    return np.concatenate([metric(one) for one in weights_of(images, groups, draws, seed)])


def interval(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled values; those that are undefined (NaN) are left out."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
