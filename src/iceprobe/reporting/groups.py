"""Results that can be compared image by image, and their comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

from iceprobe.reporting.finding import Finding, find
from iceprobe.results.comparison import (
    Comparison,
    best_baseline,
    compare_pairs,
    corrected,
    probe_name,
    reference_ep,
)
from iceprobe.results.fitted import FittedResult
from iceprobe.results.sweeps import split_by
from iceprobe.results.tables import leaderboard
from iceprobe.results.varying import draw_of

FEW = 3  # up to so many groups have cost, learning curves and maps on the page


@dataclass(frozen=True)
class Contest:
    """Every other probe of one group against one of them."""

    against: FittedResult
    rows: list[Comparison]
    reach: float  # half the width of the drawing, as a fraction


@dataclass(frozen=True)
class SourceResults:
    """Results that can be compared image by image: of one backbone, data set and protocol."""

    results: list[FittedResult]  # in the order they were asked for
    finding: Finding
    contests: list[Contest]


def grouped(results: Sequence[FittedResult]) -> list[SourceResults]:
    """Results by backbone, data set, protocol, split and draw, in the order they were given."""
    found = split_by(
        results,
        lambda one: (
            one.backbone, one.store.identity, one.dataset, one.protocol, one.split, draw_of(one)
        ),
    ).values()  # fmt: skip
    return [SourceResults(members, find(members), _contests(members)) for members in found]


def _contests(results: Sequence[FittedResult]) -> list[Contest]:
    """Each probe against the best baseline and against EP, where predictions were kept."""
    contests = []
    for opponent in (best_baseline(results), reference_ep(results)):
        if opponent is None or opponent.predictions() is None:
            continue
        others = [one for one in leaderboard(results) if one is not opponent]
        kept = [one for one in others if one.predictions() is not None]
        if rows := corrected(compare_pairs((one, opponent) for one in kept)):
            ends = [abs(end) for row in rows for end in row.difference.interval]
            contests.append(Contest(opponent, rows, max(max(ends) * 1.06, 0.002)))
    return contests


def tiles_of(group: SourceResults) -> list[FittedResult]:
    """The large numbers below the headline: k-NN, the best linear probe, EP."""
    knn, linear = (
        best_baseline([one for one in group.results if probe_name(one) == name])
        for name in ("knn", "linear")
    )
    return [*filter(None, [knn, linear, reference_ep(group.results)])] or group.results[:1]
