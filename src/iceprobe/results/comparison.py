"""Which of two probes is better, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iceprobe.errors import IceprobeError
from iceprobe.results.predictions import Predictions
from iceprobe.results.schema import Result
from iceprobe.results.statistics import Difference, paired_bootstrap
from iceprobe.results.varying import told, varying
from iceprobe.specs import parse_spec

BASELINES = ("knn", "linear")  # what a probe with attention has to beat
EFFICIENT = "ep"


@dataclass(frozen=True)
class Comparison:
    """``probe`` minus ``against``, on the same test images."""

    probe: Result
    against: Result
    difference: Difference

    @property
    def undertrained(self) -> list[Result]:
        """Which of the two hadn't learned to its end: no order can be read from the pair."""
        return [one for one in (self.probe, self.against) if one.undertrained]

    @property
    def clear(self) -> bool:
        """Whether an order may be claimed: the interval leaves out zero, both were trained."""
        return self.difference.clear and not self.undertrained


def compare_pair(a: Result, b: Result, *, seed: int = 0) -> Comparison:
    """Paired bootstrap of a − b in top-1 accuracy.

    Raises:
        IceprobeError: if predictions weren't kept, or were made on other images.
    """
    predicted_a, predicted_b = _needed(a), _needed(b)
    same = a.images == b.images and np.array_equal(predicted_a.labels, predicted_b.labels)
    if not same:
        raise IceprobeError(
            f"{a.label!r} on {a.dataset} and {b.label!r} on {b.dataset} were tested on different "
            "images: a paired comparison needs the same data set and split"
        )
    difference = paired_bootstrap(
        predicted_a.correct, predicted_b.correct, replicates=are_replicates(a, b), seed=seed
    )
    return Comparison(a, b, difference)


def are_replicates(a: Result, b: Result) -> bool:
    """Whether both are over the same complete repetitions, so that they pair by number."""
    return a.variance == b.variance == "replicates" and a.seeds == b.seeds


def compare(results_a: Sequence[Result], results_b: Sequence[Result]) -> list[Comparison]:
    """Two runs on the same images, probe by probe: those that both have, in the order of the first.

    In campaigns a probe stands several times; it is compared with itself on the same draw and data
    set, and at the same backbone where either run has several. Of a run on a frozen backbone and
    one that adapts it, each adapted probe is compared with itself on the frozen one.

    Raises:
        IceprobeError: if the runs share no probe, or weren't tested on the same images.
    """
    names = list(dict.fromkeys([*varying(results_a), *varying(results_b), "draw"]))

    def place(result: Result) -> tuple[str, ...]:
        return (result.label, *(told(result, name) for name in names))

    second = {place(result): result for result in results_b}
    shared = [result for result in results_a if place(result) in second]
    if not shared and (crossed := _adapted_and_frozen(results_a, results_b)):
        return crossed
    if not shared:
        ours = ", ".join(result.label for result in results_a) or "none"
        theirs = ", ".join(result.label for result in results_b) or "none"
        raise IceprobeError(f"the runs share no probe: {ours} against {theirs}")
    return [compare_pair(result, second[place(result)]) for result in shared]


def _adapted_and_frozen(
    results_a: Sequence[Result], results_b: Sequence[Result]
) -> list[Comparison]:
    """A probe on the frozen backbone of one run and on the adapted one of the other."""
    return [
        compare_pair(a, b)
        for a in results_a
        for b in results_b
        if a.probe == b.probe and (a.adaptation is None) != (b.adaptation is None)
    ]


def best_baseline(results: Sequence[Result]) -> Result | None:
    """The best of k-NN and linear probes, which makes every gain over it a cautious one."""
    baselines = [result for result in results if probe_name(result) in BASELINES]
    return max(baselines, key=lambda result: result.top1.mean, default=None)


def reference_ep(results: Sequence[Result]) -> Result | None:
    """The EP that others are compared with: the best by score; of equals the one asked for first.

    The test split picks it, which flatters it where there are several: who quotes it says of how
    many it is the best.
    """
    return max(efficient(results), key=lambda result: round(result.score.mean, 9), default=None)


def efficient(results: Sequence[Result]) -> list[Result]:
    """All Efficient Probes among the results."""
    return [result for result in results if probe_name(result) == EFFICIENT]


def clearly_above(a: Result, b: Result) -> bool:
    """Whether a is above b by an interval; never without predictions, nor undertrained."""
    if a.predictions() is None or b.predictions() is None:
        return False
    comparison = compare_pair(a, b)
    return comparison.clear and comparison.difference.mean > 0


def probe_name(result: Result) -> str:
    """The registered name of a result's probe: "ep" of "ep48?out_dim=96".

    Of an adapted backbone that of the adaptation, so that it is no baseline.
    """
    return parse_spec(result.adaptation or result.probe).name.rstrip("0123456789")


def _needed(result: Result) -> Predictions:
    predictions = result.predictions()
    if predictions is None:
        raise IceprobeError(f"no predictions of {result.label!r} were kept: fit it again")
    return predictions
