"""Score intervals of an accuracy and of a paired difference.

    Wilson   { p : |p̂ − p| ≤ q √(p(1−p)/m) }                      m = p̂(1−p̂) / Var
    Tango    { Δ : |d̂ − Δ| ≤ q √((2c̃ + Δ(1−Δ))/m) }               m = (b + c − d̂²) / Var

b and c are the shares of examples (and replicates) that only the first and only the second reads,
d̂ = b − c, c̃ the likeliest c if the difference is Δ; m is the *effective* number of examples, n for a
single row, and q the spread's quantile (:mod:`iceprobe.results.crossed`). Unlike mean ± q·√Var both stay
inside their range, and have a width where no error or no disagreement was seen (Wilson 1927; Tango 1998,
"Equivalence test and confidence interval for the difference in proportions for the paired-sample
design"; effective sizes: Korn and Graubard 1998). Of a few errors Wilson's end next to 0 lies too
far from it (Brown, Cai and DasGupta 2001, "Interval estimation for a binomial proportion", 4.1.1): the
exact one-sided bound takes its place where it lies nearer.
"""

import math

FEW = 25  # examples that differ, below which McNemar's test is exact


def wilson(p: float, size: float, q: float, confidence: float) -> tuple[float, float]:
    """The interval of a share ``p`` of ``size`` examples."""
    return _below(p, size, q, confidence), 1 - _below(1 - p, size, q, confidence)


def _below(p: float, size: float, q: float, confidence: float) -> float:
    if p * size < 1e-9:
        return 0.0
    centre = p + q * q / (2 * size)
    half = q * math.sqrt(max(0.0, p * (1 - p)) / size + q * q / (4 * size * size))
    low = (centre - half) / (1 + q * q / size)
    from scipy.special import betaincinv

    exact = float(betaincinv(p * size, max(0.0, 1 - p) * size + 1, 1 - confidence))
    return max(0.0, min(low, exact))


def tango(b: float, c: float, size: float, q: float) -> tuple[float, float]:
    """The interval of b − c, where b and c are shares of ``size`` examples."""
    return _lowest(b, c, size, q), 0.0 - _lowest(c, b, size, q)


def departure(b: float, c: float, size: float, delta: float) -> float:
    """How many standard errors b − c lies above a difference of ``delta``."""
    linear = -b - c + (2 - b + c) * delta
    root = math.sqrt(max(0.0, linear * linear + 8 * c * delta * (1 - delta)))
    likeliest = (root - linear) / 4
    variance = max(0.0, 2 * likeliest + delta * (1 - delta))
    distance = b - c - delta
    if abs(distance) < 1e-12:
        return 0.0
    return distance * math.sqrt(size / variance) if variance else math.copysign(math.inf, distance)


def mcnemar(b: int, c: int) -> float:
    """Two-sided p of the exact test that of ``b + c`` examples that differ half fall on either side."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))


def _lowest(b: float, c: float, size: float, q: float) -> float:
    """Where the departure, which falls with the difference, reaches ``q``: by halving, to 1e-15."""
    low, high = -1.0, b - c
    for _ in range(52):
        middle = (low + high) / 2
        if departure(b, c, size, middle) > q:
            low = middle
        else:
            high = middle
    return high
