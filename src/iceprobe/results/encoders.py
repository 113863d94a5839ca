"""What was found of each encoder on one set of test images, and the order of encoders."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.agreement import Agreement, agreement
from iceprobe.results.choice import Choice, Undecided, choose, cost
from iceprobe.results.comparison import Comparison, compare_pair, efficient, family, probe_name
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import level, shared_metric
from iceprobe.results.sweeps import Ranked, clear_order, rank
from iceprobe.results.tables import leaderboard
from iceprobe.tasks.metrics import Metric

LINEAR = "linear"
#: Probes that don't train how they aggregate.
PLAIN = ("knn", LINEAR, "logreg", "ridge", "max", "mean_value")
#: What is missing → the spec to add.
REMEDIES = {"linear probe": "linear?input=mean", "k-NN": "knn", "attentive probe": "ep32"}


@dataclass(frozen=True)
class Encoder:
    """One frozen backbone, or layer of it, on one set of test images."""

    backbone: str  # its spec
    best: FittedResult  # by the primary metric, of those that aren't undertrained
    cheapest: FittedResult  # fewest parameters of those shown; ``best`` where none is
    leanest: FittedResult  # fewest FLOPs of them
    loss: Comparison | None  # ``cheapest`` minus ``best``; None where they are the same
    attentive: FittedResult | None  # the best probe that trains its aggregation
    attentive_of: int  # how many such probes there are
    gains: list[Comparison]  # ``attentive`` minus each linear probe, the best linear probe first
    linear: list[FittedResult]  # best first
    knn: list[FittedResult]  # best first
    paired: bool = True  # whether all predictions were kept; no gains, nothing shown otherwise
    undertrained: list[FittedResult] = field(default_factory=list)  # none of the above
    shown: bool = True  # whether some are shown to lose less than the margin to every other probe
    undecided: list[Undecided] = field(default_factory=list)  # cheaper than what is shown
    of: int = 1  # how many probes ``best`` is the best of

    @property
    def ran(self) -> list[FittedResult]:
        """All results that are named above."""
        every = [self.best, self.cheapest, *filter(None, [self.attentive]), *self.linear, *self.knn]
        every += [one.comparison.probe for one in self.undecided]
        return list({id(one): one for one in (*every, *self.undertrained)}.values())

    @property
    def missing(self) -> list[str]:
        """Which keys of ``REMEDIES`` weren't run on it."""
        names = {probe_name(one) for one in self.ran}
        there = (LINEAR in names, "knn" in names, bool(names - {*PLAIN}))
        return [name for name, found in zip(REMEDIES, there, strict=True) if not found]


@dataclass(frozen=True)
class Order:
    """Backbones under a linear probe and under an attentive one, each best first."""

    linear: list[Ranked]
    attentive: list[Ranked]
    agreement: Agreement | None  # of the two; None where predictions weren't kept
    changes: bool = False  # whether the two put a pair clearly in different orders
    holds: bool = False  # whether all pairs are clearly in the same order under both


def encoder_of(backbone: str, everything: Sequence[FittedResult], margin: float) -> Encoder:
    """What the results of one backbone show, where a cheaper probe may lose less than ``margin``."""
    weak = [one for one in everything if one.undertrained]
    results = [one for one in everything if not one.undertrained] or everything
    best = min(results, key=lambda one: (-level(one), *cost(one)))
    ranked = leaderboard(results)
    attending = [one for one in ranked if probe_name(one) not in PLAIN]
    linear = [one for one in ranked if probe_name(one) == LINEAR]
    attentive = next(iter(attending), None)
    paired = all(one.predictions() is not None for one in results)
    choice = choose(results, margin) if paired else Choice([], [])
    may = choice.shown or [best]
    cheapest = min(may, key=cost)
    return Encoder(
        backbone=backbone,
        best=best,
        cheapest=cheapest,
        leanest=min(may, key=lambda one: cost(one)[::-1]),
        loss=compare_pair(cheapest, best) if cheapest is not best else None,
        attentive=attentive,
        attentive_of=len(attending),
        gains=[
            one
            for one in (family(attending, linear) if paired and not best.undertrained else [])
            if one.probe is attentive
        ],
        linear=linear,
        knn=[one for one in ranked if probe_name(one) == "knn"],
        paired=paired,
        undertrained=weak,
        shown=bool(choice.shown),
        undecided=[
            one
            for one in choice.undecided
            if not choice.shown or cost(one.comparison.probe) < cost(cheapest)
        ],
        of=len(results),
    )


def orders_of(by_backbone: Sequence[Sequence[FittedResult]]) -> list[Order]:
    """For each linear probe that all backbones have, the order under it and under the best EP."""
    placed = [{one.label: one for one in results} for results in by_backbone]
    common = [one for one in by_backbone[0] if all(one.label in place for place in placed)]
    linear = [one.label for one in common if probe_name(one) == LINEAR]
    attending = [one for one in common if probe_name(one) not in PLAIN]
    if not attending:
        return []

    def under(label: str) -> list[FittedResult]:
        return [place[label] for place in placed]

    def over_all(one: FittedResult) -> tuple[bool, float]:
        every = under(one.label)
        score = sum(one.metric.sign * one.score.mean for one in every)
        return not any(one.undertrained for one in every), round(score, 9)

    subject = max(efficient(attending) or attending, key=over_all)
    return [_order(under(label), under(subject.label)) for label in linear]


def _weighted(one: FittedResult, metric: Metric) -> NDArray[np.float64]:
    """What each image adds to the score, mean over seeds, more where it is better: ``(n,)``."""
    kept = one.needed_predictions()
    scores = metric.needed_scores(kept.record, kept.labels).mean(0)
    return metric.sign * scores * metric.weights(kept.labels)


def _order(linear: Sequence[FittedResult], attentive: Sequence[FittedResult]) -> Order:
    found = None
    if all(one.predictions() is not None for one in (*linear, *attentive)):
        metric = shared_metric(*linear, *attentive)
        found = agreement(
            *(
                np.stack([_weighted(one, metric) for one in of_probe])
                for of_probe in (linear, attentive)
            )
        )
    x_pairs, y_pairs = clear_order(linear), clear_order(attentive)
    every = len(linear) * (len(linear) - 1) // 2
    return Order(
        rank(linear),
        rank(attentive),
        found,
        changes=any((worse, better) in y_pairs for better, worse in x_pairs),
        holds=len(x_pairs) == every and x_pairs == y_pairs,
    )
