"""Accuracies, bootstrap intervals and paired comparisons, in numpy.

Everything starts from ``correct``: ``(S, n)`` booleans (or fractions), seed by test image. Images
are resampled; seeds are averaged first, so an interval says how the accuracy of the mean seed
would move with other test images, and the standard deviation over seeds is told beside it.

Resampling n images with replacement and averaging depends only on how often each distinct
per-image value is drawn, and those counts are multinomial. With S seeds there are S + 1 distinct
values, so ten thousand draws over 50,000 images take a millisecond and are exactly the ordinary
percentile bootstrap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 10_000
_CHUNK_CELLS = 4_000_000  # counts held at once: 32 MB


@dataclass(frozen=True)
class Difference:
    """Accuracy of a minus accuracy of b on the same images, as fractions.

    Attributes:
        mean: the observed difference.
        interval: percentile bootstrap interval of it over test images.
        p: two-sided bootstrap p-value of "no difference".
    """

    mean: float
    interval: tuple[float, float]
    p: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests at 5% in interval form: is the 90% interval inside ±margin?"""

    mean: float
    interval: tuple[float, float]
    margin: float

    @property
    def holds(self) -> bool:
        return -self.margin < self.interval[0] and self.interval[1] < self.margin


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Fraction of images with ``predicted == labels``: ``(S, n)``, ``(n,)`` → ``(S,)``.

    >>> accuracy([[0, 1, 1, 0]], [0, 1, 0, 0])
    array([0.75])
    """
    predicted, labels = _predictions(predicted, labels)
    return (predicted == labels).mean(1)


def mean_per_class(predicted: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Mean over classes of the accuracy inside a class: ``(S, n)``, ``(n,)`` → ``(S,)``.

    Classes without a test image are left out of the mean.

    >>> mean_per_class([[0, 0, 0, 0]], [0, 0, 0, 1])
    array([0.5])
    """
    predicted, labels = _predictions(predicted, labels)
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    correct = (predicted == labels).astype(np.float64)
    hits = np.stack([np.bincount(codes, row, minlength=len(counts)) for row in correct])
    return (hits / counts).mean(1)


def bootstrap_interval(
    correct: ArrayLike,
    *,
    replicates: bool = False,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval over images of the seed-mean correctness.

    Args:
        correct: ``(S, n)`` or ``(n,)``.
        replicates: whether the S rows are complete repetitions (other draws of training images,
            orders, held-out parts): they are resampled as well, since others would have come out
            otherwise.
        draws: resamples of the n images.
        confidence: probability mass of the interval.
        seed: of the resampling.

    Returns:
        Lower and upper end, as fractions.
    """
    if replicates:
        return _percentiles(_resampled_twice(_rows(correct), draws, seed), confidence)
    return _percentiles(_resampled_means(_seed_mean(correct), draws, seed), confidence)


def bootstrap_mean_per_class(
    correct: ArrayLike,
    labels: ArrayLike,
    *,
    draws: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """As :func:`bootstrap_interval`, for the mean over classes of the accuracy inside a class.

    Images are resampled from the whole split, so class counts vary from draw to draw; a class
    that a draw leaves empty is left out of that draw's mean. Fewer draws than elsewhere: with
    1,000 classes a draw costs 1,000 times as much (2,000 take a second).
    """
    values, labels = _seed_mean(correct), np.asarray(labels)
    if values.shape != labels.shape:
        raise ValueError(f"{len(values)} images are scored but {len(labels)} are labelled")
    keys = np.stack([labels, values.round(12)], 1)
    _, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    _, starts = np.unique(labels[first], return_index=True)
    means = []
    for drawn in _multinomial(counts, draws, seed):
        images = np.add.reduceat(drawn, starts, axis=1)
        hits = np.add.reduceat(drawn * values[first], starts, axis=1)
        present = images > 0
        inside = np.divide(hits, images, out=np.zeros_like(hits), where=present)
        means.append(inside.sum(1) / present.sum(1))
    return _percentiles(np.concatenate(means), confidence)


def paired_bootstrap(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    *,
    replicates: bool = False,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Bootstrap of the difference a − b, resampling the images that both were tested on.

    It is antisymmetric: b − a has the same draws, so exactly the negated mean, the mirrored
    interval and the same p, whichever of two probes is named first.

    Args:
        correct_a: ``(S, n)`` or ``(n,)``.
        correct_b: ``(S', n)`` or ``(n,)``; the seeds of the two need not match.
        replicates: whether row s of both is the same complete repetition (the same draw of
            training images): pairs of rows are resampled as well.

    Raises:
        ValueError: if the two weren't tested on equally many images, or of replicates there
            aren't equally many.
    """
    a, b = _seed_mean(correct_a), _seed_mean(correct_b)
    if a.shape != b.shape:
        raise ValueError(f"a paired bootstrap needs the same images: {len(a)} against {len(b)}")
    each = _rows(correct_a) - _rows(correct_b) if replicates else (a - b)[None]
    turn = _orientation(each)
    resample = (
        _resampled_twice(turn * each, draws, seed)
        if replicates
        else _resampled_means(turn * each[0], draws, seed)
    )
    low, high = _percentiles(resample, confidence)
    interval = (low, high) if turn > 0 else (0.0 - high, 0.0 - low)
    # + 1: the observed sample counts as one draw, so p is never 0 (Davison & Hinkley 1997, 4.2).
    below, above = (np.sum(resample <= 0) + 1, np.sum(resample >= 0) + 1)
    p = min(1.0, 2 * min(below, above) / (draws + 1))
    return Difference(float((a - b).mean()), interval, float(p))


def equivalent(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    margin: float,
    *,
    replicates: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Equivalence:
    """Whether a and b are the same within ``±margin`` (a fraction), at 5%.

    Raises:
        ValueError: for a margin that isn't positive, or different numbers of images.
    """
    if not margin > 0:
        raise ValueError(f"the margin of an equivalence test is positive, not {margin}")
    ninety = paired_bootstrap(
        correct_a, correct_b, replicates=replicates, draws=draws, confidence=0.90, seed=seed
    )
    return Equivalence(ninety.mean, ninety.interval, margin)


def _predictions(predicted: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    predicted, labels = np.atleast_2d(np.asarray(predicted)), np.asarray(labels)
    if labels.ndim != 1 or predicted.shape[1:] != labels.shape or not len(labels):
        raise ValueError(f"predictions {predicted.shape} don't fit labels {labels.shape}")
    return predicted, labels


def _rows(correct: ArrayLike) -> NDArray[np.float64]:
    return np.atleast_2d(np.asarray(correct, dtype=np.float64))


def _seed_mean(correct: ArrayLike) -> NDArray[np.float64]:
    values = _rows(correct).mean(0)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"correct is (seeds, images) with at least one image, not {values.shape}")
    return values


def _orientation(difference: NDArray[np.float64]) -> int:
    """1 or −1, and the other of the two for the negated difference: draws are made of one sign.

    The sign of the mean; of a mean of zero that of the first image that differs.
    """
    rounded = difference.round(12)
    total = round(float(difference.mean()), 12)
    if total == 0:
        total = float(rounded.ravel()[np.argmax(rounded.ravel() != 0)])
    return -1 if total < 0 else 1


def _resampled_means(values: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Means of ``draws`` resamples of ``values (n,)``: ``(draws,)``."""
    # The same fraction reached by two roundings is one value, hence the 12 digits.
    _, first, counts = np.unique(values.round(12), return_index=True, return_counts=True)
    sums = [drawn @ values[first] for drawn in _multinomial(counts, draws, seed)]
    return np.concatenate(sums) / len(values)


def _resampled_twice(values: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Means of ``draws`` resamples of both the rows and the images of ``values (S, n)``."""
    patterns, counts = np.unique(values.round(12), axis=1, return_counts=True)
    by_row = [drawn @ patterns.T for drawn in _multinomial(counts, draws, seed)]
    rows = len(values)
    picked = np.random.default_rng((seed, 1)).multinomial(rows, [1 / rows] * rows, size=draws)
    return (np.concatenate(by_row) / values.shape[1] * picked).sum(1) / rows


def _multinomial(counts: NDArray[np.int64], draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each of the distinct values is drawn: chunks of ``(draws, len(counts))``."""
    rng, n = np.random.default_rng(seed), int(counts.sum())
    step = max(1, _CHUNK_CELLS // len(counts))
    for start in range(0, draws, step):
        yield rng.multinomial(n, counts / n, size=min(step, draws - start))


def _percentiles(resampled: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)
