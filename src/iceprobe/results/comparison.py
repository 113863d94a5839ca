"""Which of two probes is better, paired over images; and which of many, corrected for all pairs.

A single difference is clear if its 95% interval leaves out zero. In a family of m pairs it is clear if p is
below 5% by Holm's correction for m, so that in 95% of families nothing false is called clear (Holm 1979, "A
simple sequentially rejective multiple test procedure"). Where the scores themselves choose the pairs (the
best with the rest, neighbours in rank) the family is all K(K−1)/2 pairs, whichever are reported.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.results.examples import examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.intervals import difference_of_scores, unit_scores
from iceprobe.results.predictions import same_targets
from iceprobe.results.primary import level, shared_metric
from iceprobe.results.schema import Result
from iceprobe.results.statistics import Difference, holm, together
from iceprobe.results.varying import value_of, varying
from iceprobe.tasks.metrics import Metric

BASELINES = ("knn", "linear", "logreg", "ridge")  # that a probe with attention has to beat
EFFICIENT = "ep"
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """``probe`` against ``against``, on the same test images.

    Attributes:
        difference: of the two in the primary metric, positive where ``probe`` is better.
        p: two-sided, corrected for the family of ``among`` comparisons.
        among: comparisons that are reported together.
    """

    probe: FittedResult
    against: FittedResult
    difference: Difference
    p: float
    among: int = 1

    @property
    def undertrained(self) -> list[FittedResult]:
        """Which of the two are undertrained: their pair shows no order."""
        return [one for one in (self.probe, self.against) if one.undertrained]

    @property
    def clear(self) -> bool:
        """Whether the pair shows an order: p is below 5%, and both were trained long enough."""
        return self.difference.clear and self.p < LEVEL and not self.undertrained

    @property
    def metric(self) -> Metric:
        """The metric that is compared."""
        return shared_metric(self.probe, self.against)

    @property
    def shown(self) -> Difference:
        """The difference of the scores as they are: below 0 where less is better and ``probe`` is."""
        return self.difference if self.metric.higher_is_better else -self.difference


def warned(*results: Result) -> str:
    """Warnings for the sentence of a comparison: ``" (ep12: its learning rate is the highest tried)"``."""
    return f" ({said})" if (said := warnings_of(*results)) else ""


def warnings_of(*results: Result) -> str:
    """``"ep12: its learning rate is the highest tried; linear: …"``; ``""`` without any."""
    return "; ".join(f"{one.label}: {', '.join(one.warnings)}" for one in results if one.warnings)


def compare_pair(a: FittedResult, b: FittedResult) -> Comparison:
    """a − b in the primary metric, paired over images or groups of them (and over replicates).

    Raises:
        IceprobeError: if predictions weren't kept, or were made on other images.
    """
    return compare_pairs([(a, b)])[0]


def compare_pairs(pairs: Iterable[tuple[FittedResult, FittedResult]]) -> list[Comparison]:
    """:func:`compare_pair` of each, which computes once what a result scores."""
    known: dict[tuple[object, ...], NDArray] = {}

    def scores(one: FittedResult, metric: Metric, groups: NDArray | None) -> NDArray:
        key = (id(one), metric.name, None if groups is None else groups.tobytes())
        if key not in known:
            predicted = one.needed_predictions()
            known[key] = unit_scores(metric, predicted.record, predicted.labels, groups)
        return known[key]

    return [_compared(a, b, scores) for a, b in list(pairs)]


def _compared(a: FittedResult, b: FittedResult, scores: Callable[..., NDArray]) -> Comparison:
    """One pair; ``scores`` of a result, a metric and groups."""
    predicted_a, predicted_b = a.needed_predictions(), b.needed_predictions()
    if a.images != b.images or not same_targets(predicted_a.labels, predicted_b.labels):
        raise IceprobeError(
            f"{a.label!r} on {a.dataset} and {b.label!r} on {b.dataset} were tested on different "
            f"{examples_of(a, b)}: a paired comparison needs the same data set and split"
        )
    metric, groups = shared_metric(a, b), predicted_a.groups
    difference = difference_of_scores(
        metric,
        scores(a, metric, groups),
        scores(b, metric, groups),
        predicted_a.labels,
        groups,
        replicates=are_replicates(a, b),
    )
    difference = difference if metric.higher_is_better else -difference
    return Comparison(a, b, difference, difference.p)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same as one family: Holm's p, and the variance of replicates estimated from all pairs."""
    differences = in_family(comparisons)
    ps = holm([one.p for one in differences])
    return [
        replace(one, difference=difference, p=p, among=len(comparisons))
        for one, difference, p in zip(comparisons, differences, ps, strict=True)
    ]


def in_family(comparisons: Sequence[Comparison]) -> list[Difference]:
    """Their differences, with the variance of replicates estimated from all pairs."""
    pairs = [(id(one.probe), id(one.against)) for one in comparisons]
    return together([one.difference for one in comparisons], pairs)


def family(
    ours: Sequence[FittedResult],
    theirs: Sequence[FittedResult],
    *,
    picked: Sequence[FittedResult] = (),
) -> list[Comparison]:
    """Each of ``ours`` with each of ``theirs``, as one family.

    Pairs that show no order are left out, except those of two ``picked`` results.

    Raises:
        IceprobeError: as :func:`compare_pair`.
    """
    wanted = {id(one) for one in picked}
    return corrected(
        compare_pairs(
            (a, b)
            for a in ours
            for b in theirs
            if a is not b and (wanted >= {id(a), id(b)} or (_readable(a) and _readable(b)))
        )
    )


def _readable(one: FittedResult) -> bool:
    """Whether comparisons with it show an order."""
    return not one.undertrained and one.predictions() is not None


def clear_pairs(results: Sequence[FittedResult]) -> set[tuple[int, int]]:
    """Indices (better, worse) of results on the same images that are clearly in this order.

    The family is all pairs of those with predictions and that are not undertrained.
    """
    pairs = list(combinations([i for i, one in enumerate(results) if _readable(one)], 2))
    family = corrected(compare_pairs((results[i], results[j]) for i, j in pairs))
    return {
        (i, j) if one.difference.mean > 0 else (j, i)
        for (i, j), one in zip(pairs, family, strict=True)
        if one.clear
    }


def are_replicates(a: Result, b: Result) -> bool:
    """Whether both are over the same complete repetitions, so that replicates pair by number."""
    return a.variance == b.variance == "replicates" and a.seeds == b.seeds


def compare(
    results_a: Sequence[FittedResult], results_b: Sequence[FittedResult]
) -> list[Comparison]:
    """Two runs on the same images, probe by probe: those that both have, in the order of the first.

    A campaign has a probe several times: it is compared with itself on the same draw and data set,
    and on the same backbone where either run has several. Of a run on a frozen backbone and one that
    adapts it, each probe on the adapted backbone is compared with itself on the frozen one.

    Raises:
        IceprobeError: if the runs share no probe, or weren't tested on the same images.
    """
    names = list(dict.fromkeys([*varying(results_a), *varying(results_b), "draw"]))

    def place(result: FittedResult) -> tuple[str, ...]:
        return (result.label, *(value_of(result, name) for name in names))

    second = {place(result): result for result in results_b}
    pairs = [(one, second[place(one)]) for one in results_a if place(one) in second] or [
        (a, b)
        for a in results_a
        for b in results_b
        if a.probe == b.probe and (a.adaptation is None) != (b.adaptation is None)
    ]
    if not pairs:
        ours, theirs = (
            ", ".join(one.label for one in run) or "none" for run in (results_a, results_b)
        )
        raise IceprobeError(f"the runs share no probe: {ours} against {theirs}")
    return corrected(compare_pairs(pairs))


def best_baseline(results: Sequence[FittedResult]) -> FittedResult | None:
    """The best of k-NN and linear probes: a gain over it is a conservative one."""
    return max((one for one in results if probe_name(one) in BASELINES), key=level, default=None)


def reference_ep(results: Sequence[FittedResult]) -> FittedResult | None:
    """The EP that others are compared with: the best by score; of equals the first.

    The test split picks it, which flatters it where there are several: text that quotes it says of
    how many it is the best.
    """
    return max(efficient(results), key=level, default=None)


def efficient(results: Sequence[FittedResult]) -> list[FittedResult]:
    """All Efficient Probes among the results."""
    return [result for result in results if probe_name(result) == EFFICIENT]


def probe_name(result: Result) -> str:
    """The registered name of a result's probe, "ep" of "ep48?out_dim=96".

    On an adapted backbone the name of the adaptation, so that it is no baseline.
    """
    return parse_spec(result.adaptation or result.probe).name.rstrip("0123456789")
