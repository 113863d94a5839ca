"""Which probes may be reported: those shown to lose less than a margin to every other.

    shown = { p : p − q > −margin for all q, at 5% }

For one p the tests against all q must succeed together, each at 5% (an intersection–union test: Berger
1982, "Multiparameter hypothesis testing and acceptance sampling"), so its p-value is the largest of them;
for all p together they are corrected by Holm. In 95% of runs no probe that truly loses the margin is
shown, however the best was picked: the best is tested like every other.

A probe that scores within the margin of the best, and isn't shown, is undecided. How many test images or
replicates would decide with a power of 80% is computed from its hardest comparison, for the difference
that was observed: the variance of examples, or of replicates, shrinks by their number.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from iceprobe.results.comparison import LEVEL, Comparison, compare_pairs, in_family
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import level
from iceprobe.results.schema import Result
from iceprobe.results.statistics import holm

POWER = 0.8416  # standard errors: the test succeeds in 80% of cases


@dataclass(frozen=True)
class Undecided:
    """A probe that may be good enough, and what would probably show it."""

    comparison: Comparison  # its hardest one
    images: int | None  # test images needed; None where more would not be enough
    # needed on these images; None where more would not do, or images are needed
    replicates: int | None


@dataclass(frozen=True)
class Choice:
    """Probes shown to lose less than the margin to every other, and the undecided ones, cheapest first."""

    shown: list[FittedResult]
    undecided: list[Undecided]


def choose(results: Sequence[FittedResult], margin: float) -> Choice:
    """Compare every probe with every other.

    Args:
        results: on the same images, with predictions.
        margin: of the primary metric, what may be lost.
    """
    pairs: dict[int, list[Comparison]] = defaultdict(list)
    family = compare_pairs(combinations(results, 2))
    indices = combinations(range(len(results)), 2)
    for (i, j), pair, difference in zip(indices, family, in_family(family), strict=True):
        pairs[i].append(replace(pair, difference=difference))
        turned = replace(pair, probe=pair.against, against=pair.probe, difference=-difference)
        pairs[j].append(turned)

    def p_of(one: Comparison) -> float:
        return one.difference.p_above(-margin)

    hardest = {i: max(pairs[i], key=p_of) for i in sorted(pairs)}
    ps = holm([p_of(one) for one in hardest.values()])
    shown = [i for i, p in zip(hardest, ps, strict=True) if p < LEVEL] if hardest else [0]
    top = max(level(one) for one in results)
    near = [i for i in hardest if i not in shown and level(results[i]) > top - margin]
    near.sort(key=lambda i: cost(results[i]))
    return Choice(
        [results[i] for i in shown],
        [Undecided(hardest[i], *needed(hardest[i], margin, len(results))) for i in near],
    )


def cost(one: Result) -> tuple[int, int]:
    """Trainable parameters, then FLOPs."""
    return one.parameters.total, one.flops.per_image


def needed(
    comparison: Comparison, margin: float, candidates: int = 1
) -> tuple[int | None, int | None]:
    """Test images, or replicates, with which ``comparison`` would probably show less than a margin lost.

    It is one of as many tests as there are ``candidates``. Both are None where neither alone would show
    it, or the margin is lost by its figure.
    """
    difference, confidence = comparison.difference, 1 - 2 * LEVEL / candidates
    spread = max(difference.spreads, key=lambda one: one.quantile(confidence) ** 2 * one.variance)
    off = difference.departure(spread, -margin)
    if off < 0.01:
        return None, None
    wanted = (off / (spread.quantile(confidence) + POWER)) ** 2  # of today's variance
    images = comparison.probe.test_images or spread.size
    if not spread.replicates:
        return _rounded(images / wanted), None
    share = spread.replicates / spread.variance
    if wanted > share:
        return _rounded(images * (1 - share) / (wanted - share)), None
    if wanted > 1 - share:
        return None, _rounded(spread.rows * share / (wanted - (1 - share)))
    return None, None


def _rounded(number: float) -> int:
    """Up, to two figures."""
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(round(number / step, 6)) * step
