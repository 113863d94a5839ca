"""Which probes may be reported: those shown to lose less than a margin to every other.

    shown = { p : p − q > −margin for all q, at 5% }

For one p the tests against all q must succeed together, each at 5% (an intersection–union test: Berger
1982, "Multiparameter hypothesis testing and acceptance sampling"), so its p-value is the largest of them;
for all p together they are corrected by Holm. In 95% of runs no probe that truly loses the margin is among
them, however the best was picked: it is tested like every other.

A probe within the margin of the best by its figure, and not shown, is undecided. What would probably
decide (four times in five) is computed from the comparison that stands in its way, if that difference is
as seen: the variance that the test needs is reached with more images as that of the examples shrinks by
their number, or with more replicates as theirs does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from iceprobe.results.comparison import LEVEL, Comparison, compare_pair, in_family
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import level
from iceprobe.results.schema import Result
from iceprobe.results.statistics import holm

POWER = 0.8416  # standard errors: the test succeeds four times in five


@dataclass(frozen=True)
class Undecided:
    """A probe that may be reported, and what would probably show it.

    Attributes:
        comparison: of it with the probe that stands in its way.
        images: test images in place of those there are; None where more wouldn't do.
        replicates: in place of those there are, on these images; None where more wouldn't do, or
            images are what is missing.
    """

    comparison: Comparison
    images: int | None
    replicates: int | None


@dataclass(frozen=True)
class Choice:
    """What may be reported, and what might.

    Attributes:
        shown: probes shown to lose less than the margin to every other.
        undecided: the others within the margin of the best by their figure, the cheapest first.
    """

    shown: list[FittedResult]
    undecided: list[Undecided]


def choose(results: Sequence[FittedResult], margin: float) -> Choice:
    """Lay every probe beside every other.

    Args:
        results: on the same images, with predictions.
        margin: what may be lost, as a fraction.
    """
    pairs: dict[int, list[Comparison]] = {i: [] for i in range(len(results))}
    family = [compare_pair(a, b) for a, b in combinations(results, 2)]
    for (i, j), pair, difference in zip(
        combinations(pairs, 2), family, in_family(family), strict=True
    ):
        pair = replace(pair, difference=difference)
        pairs[i].append(pair)
        pairs[j].append(_turned(pair))
    hardest = {
        i: max(found, key=lambda one: one.difference.p_above(-margin))
        for i, found in pairs.items()
        if found
    }
    ps = holm([one.difference.p_above(-margin) for one in hardest.values()])
    shown = [i for i, p in zip(hardest, ps, strict=True) if p < LEVEL] if hardest else [*pairs]
    top = max(level(one) for one in results)
    near = [i for i in hardest if i not in shown and level(results[i]) > top - margin]
    near.sort(key=lambda i: cost(results[i]))
    return Choice(
        [results[i] for i in shown],
        [Undecided(hardest[i], *needed(hardest[i], margin, len(results))) for i in near],
    )


def cost(one: Result) -> tuple[int, int]:
    """What a probe takes: trainable parameters, then FLOPs."""
    return one.parameters.total, one.flops.per_image


def needed(
    comparison: Comparison, margin: float, candidates: int = 1
) -> tuple[int | None, int | None]:
    """Test images, or replicates, with which ``comparison`` would probably show less than a margin lost.

    It is one of as many tests as there are ``candidates``.

    Both None where neither alone would, or by its figure the margin is lost.
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


def _turned(pair: Comparison) -> Comparison:
    """b − a of a − b."""
    return replace(pair, probe=pair.against, against=pair.probe, difference=-pair.difference)


def _rounded(number: float) -> int:
    """Up, to two figures."""
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(round(number / step, 6)) * step
