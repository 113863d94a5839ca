"""The interval of any metric, over test examples (or groups of them) and replicates.

    a mean over examples   Wilson's score interval of fractions, mean ± q·√Var of others (`statistics.py`)
    a formula of weights   one of three, by the number G of independent units and by what it costs

    bootstrap     50 units or more: BCa, with expanded tails (`results/resampling.py`)
    jackknife     fewer: f(M) ± t √V, V = (G − 1)/G Σ_g (f(M_g) − f(M))², M_g the metric without unit g
    linearised    where the bootstrap would take too long: f(M) ± q √Var |f'(M)|, Var of linearised scores

f takes the metric's range to the whole line: the logit between two ends, −ln(b − M) below an end b, and so on.
With few units the bootstrap holds the truth too seldom, whatever its levels: 84% of AUROC's intervals over ten
groups, where the jackknife's are 95% (benchmarks/intervals.py, docs/intervals.md). There a step f(M_g) − f(M)
is 1 at most: without its only errors a metric may be perfect, and f of that infinite.

Replicates add t² G_R to the square of each arm, as in `results/crossed.py`: with the ends L and U over
examples, L' = M − √((M − L)² + t²_{R−1} G_R).

Where no error is seen at all (a metric at an end of its range), the interval is Wilson's of so many right
examples as there are units, or units of the rarer outcome where the metric counts positives: it has a width.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.results.crossed import Spread, spread
from iceprobe.results.enough import UNTRUSTED, caveat, rarest
from iceprobe.results.links import Link
from iceprobe.results.resampling import DRAWS, bootstrap_ends, bootstrapped, left_out
from iceprobe.results.scores import wilson
from iceprobe.results.statistics import (
    Difference,
    accuracy_interval,
    paired_difference,
    score_interval,
)
from iceprobe.results.units import codes_of, number_of, summed
from iceprobe.tasks.metrics import Metric

FEW_UNITS = 50  # below which the jackknife takes the bootstrap's place
MANY_UNITS = 1_000  # from which all methods agree, so that less is spent
MOST_CELLS = 2e9  # element operations of the bootstrap: a minute or so; a tenth with many units
UNDEFINED = 0.05  # of the draws: an interval that leaves out more isn't trusted

Method = Literal["score", "bootstrap", "jackknife", "linearised"]


@dataclass(frozen=True)
class Interval:
    """An interval, how it was found, and why it can't be trusted.

    Attributes:
        low, high: its ends.
        method: see above; ``"score"`` of a mean over examples, and where no error was seen.
        undefined: share of the resampled values that don't exist (no positive drawn), and were left out.
        caveat: in words; None where there is none.
    """

    low: float
    high: float
    method: Method = "score"
    undefined: float = 0.0
    caveat: str | None = None

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high


def interval_of(
    metric: Metric,
    record: Any,
    targets: NDArray,
    groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    method: Method | None = None,
    scores: NDArray | None = None,
) -> Interval | None:
    """The interval of a metric's mean over seeds or replicates; None of a formula and a single unit.

    Args:
        record: what the task recorded of the examples, one row a seed.
        targets: ``(n, …)``.
        groups: ``(n,)``, equal for examples that aren't independent; None: all are.
        method: of a formula; None: :func:`method_for`.
        scores: `Metric.scores` of these, if they are at hand.

    Raises:
        IceprobeError: if the metric can't be computed from the record, or is undefined.
    """
    read = _Read(record)
    scores = metric.needed_scores(read, targets) if scores is None else scores
    said = caveat(metric, targets, groups)
    if metric.formula is None:
        of = accuracy_interval if metric.fraction else score_interval
        low, high = of(scores, metric.strata_of(targets), groups, confidence=confidence)
        return Interval(*_inside(metric, low, high), caveat=said)
    value = float(np.mean(metric.value(read, targets)))
    if (edge := _at_an_end(metric, value, targets, groups, confidence)) is not None:
        return Interval(*edge, caveat=said)
    codes = _codes(groups, len(targets))
    units = 1 + int(codes.max())
    if units < 2:
        return None
    method = method or method_for(units, read.cells)
    drawn = np.ones(1)
    if method == "bootstrap":
        drawn = bootstrapped(metric, read, targets, codes)
    elif method == "jackknife":
        drawn = left_out(metric, read, targets, codes).mean(0)
    defined = drawn[np.isfinite(drawn)]
    method = method if len(defined) else "linearised"
    found, linked = spread(scores, groups=groups, fractions=False), Link.of(metric.range)
    if method == "bootstrap":
        each = np.asarray(scores, np.float64).mean(0)
        ends = bootstrap_ends(value, defined, summed(each - each.mean(), codes), confidence)
    else:
        error = (
            _jackknife(linked, value, defined, units)
            if method == "jackknife"
            else math.sqrt(found.examples) * linked.slope(value)
        )
        ends = linked.around(value, found.quantile_examples(confidence) * error)
    undefined = 1 - len(defined) / len(drawn)
    if undefined > UNDEFINED and said is None:
        said = f"{UNTRUSTED}: in {100 * undefined:.0f}% of the resamples there is no {metric.title}"
    ends = _inside(metric, *_widened(value, *ends, found, confidence))
    return Interval(*ends, method, undefined, said)


def unit_scores(
    metric: Metric, record: Any, targets: NDArray, groups: ArrayLike | None = None
) -> NDArray:
    """What each example scores, ``(S, n)``, for standard errors: `Metric.scores`, of few units jackknifed.

    The linearised scores of a formula vary too little with fewer than 50 units. Those of the jackknife are the
    value M, less what a unit g of n_g examples adds to it::

        s_i = M − n/n_g (G − 1)/G (M_g − M̄)        M̄: mean over units of M_g

    Their spread is the jackknife's variance of M. A difference of two probes' is one of their difference.

    Raises:
        IceprobeError: as :func:`interval_of`.
    """
    codes = _codes(groups, len(targets))
    units = 1 + int(codes.max(initial=0))
    if metric.formula is None or not 1 < units < FEW_UNITS:
        return metric.needed_scores(record, targets)
    values = metric.value(record, targets)[:, None]
    without = left_out(metric, record, targets, codes)
    without = np.where(np.isfinite(without), without, values)
    steps = without - without.mean(1, keepdims=True)
    share = len(targets) / np.bincount(codes) * (units - 1) / units
    found: NDArray = values - (share * steps)[:, codes]
    return found


def difference_of(
    metric: Metric,
    record_a: Any,
    record_b: Any,
    targets: NDArray,
    groups: ArrayLike | None = None,
    *,
    replicates: bool = False,
) -> Difference:
    """a − b in any metric, on the same examples (`statistics.paired_difference`).

    Of formulas it is that of their :func:`unit_scores` with t, in which what both probes share cancels: its
    intervals hold as often as the bootstrap's with the same draws do, or more often, and its p has a tail as far
    out as Holm's correction looks, which 1,000 draws don't.

    Args:
        record_a, record_b: what the task recorded, one row a seed or replicate.
        targets, groups: as of :func:`interval_of`.
        replicates: whether row r of both is the same complete repetition.

    Raises:
        IceprobeError: as :func:`interval_of`.
    """
    a, b = (unit_scores(metric, of, targets, groups) for of in (record_a, record_b))
    return difference_of_scores(metric, a, b, targets, groups, replicates=replicates)


def difference_of_scores(
    metric: Metric,
    a: NDArray,
    b: NDArray,
    targets: NDArray,
    groups: ArrayLike | None = None,
    *,
    replicates: bool = False,
) -> Difference:
    """The same of their :func:`unit_scores`, ``(S, n)`` each."""
    return paired_difference(
        a,
        b,
        metric.strata_of(targets),
        groups,
        replicates=replicates,
        fractions=metric.fraction,
        least=max(_least_variance(metric, of, targets, groups) for of in (a, b)),
    )


def _least_variance(
    metric: Metric, scores: NDArray, targets: NDArray, groups: ArrayLike | None = None
) -> float:
    """What the mean of a formula varies at least; more than 0 where no error is seen: Wilson's width, squared."""
    if metric.formula is None:
        return 0.0
    ends = _at_an_end(metric, float(scores.mean()), targets, groups, 0.95)
    return 0.0 if ends is None else ((ends[1] - ends[0]) / 1.96) ** 2


def method_for(units: int, cells: int) -> Method:
    """How the interval of a formula is found.

    Args:
        units: G.
        cells: of the largest field of the record that it reads, S · n · K.
    """
    if units < FEW_UNITS:
        return "jackknife"
    most = MOST_CELLS if units < MANY_UNITS else MOST_CELLS / 10
    return "bootstrap" if cells * DRAWS <= most else "linearised"


def _codes(groups: ArrayLike | None, n: int) -> NDArray[np.int64]:
    codes = codes_of(groups, n)
    return np.arange(n) if codes is None else codes


def _at_an_end(
    metric: Metric, value: float, targets: NDArray, groups: ArrayLike | None, confidence: float
) -> tuple[float, float] | None:
    """Wilson's interval where the value is at one of two ends of its range; None elsewhere."""
    low, high = metric.range
    if low is None or high is None or 1e-9 < (value - low) / (high - low) < 1 - 1e-9:
        return None
    found = rarest(metric, targets, groups)
    size = max(1, number_of(groups, len(targets)) if found is None else found[1])
    share = round((value - low) / (high - low))
    from scipy.special import ndtri

    ends = wilson(share, size, -float(ndtri((1 - confidence) / 2)), confidence)
    return low + (high - low) * ends[0], low + (high - low) * ends[1]


def _jackknife(linked: Link, value: float, without: NDArray, units: int) -> float:
    """√V, of the values without a unit."""
    with np.errstate(invalid="ignore"):
        steps = linked.forward(without) - linked.forward(value)
    steps = np.clip(steps, -linked.longest, linked.longest)
    return math.sqrt((units - 1) / max(len(steps), 1) * float(steps @ steps))


def _widened(
    value: float, low: float, high: float, found: Spread, confidence: float
) -> tuple[float, float]:
    """With what replicates add to the square of each arm."""
    if not found.replicates:
        return low, high
    added = found.quantile_replicates(confidence) * math.sqrt(found.replicates)
    return (
        value - math.hypot(max(0.0, value - low), added),
        value + math.hypot(max(0.0, high - value), added),
    )


def _inside(metric: Metric, low: float, high: float) -> tuple[float, float]:
    """The interval without what lies outside the metric's range."""
    least, most = metric.range
    low = low if least is None else max(low, least)
    return low, high if most is None else min(high, most)


class _Read:
    """A record that notes the size of the largest field that was read."""

    def __init__(self, record: Any):
        self._record, self.cells = record, 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        field = getattr(self._record, name, None)
        self.cells = max(self.cells, int(getattr(field, "size", 0)))
        return field
