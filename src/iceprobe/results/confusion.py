"""Which classes a probe takes for which, from its predictions.

    confusion_ij = images of class i that were read as j, mean over seeds

Kept as the pairs that occur, since of a thousand classes most pairs never do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.predictions import Predictions


@dataclass(frozen=True)
class Mistake:
    """Images of class ``true`` that were read as ``read``: how many, mean over seeds."""

    true: int
    read: int
    images: float


@dataclass(frozen=True)
class Misread:
    """One image that a probe reads wrongly."""

    row: int  # in the order of the split
    true: int
    read: int  # the class that most of the seeds that are wrong say
    seeds: int  # how many seeds of the probe say so
    probes: int  # how many other probes on these images say so, by their first seed


@dataclass(frozen=True)
class ClassScore:
    """One class: its images, the share read rightly, and its most frequent mistake."""

    index: int
    images: int
    accuracy: float
    mistake: Mistake | None


@dataclass(frozen=True)
class Confusions:
    """All answers of one probe."""

    images: NDArray[np.int64]  # (C,), of each class
    right: NDArray[np.float64]  # (C,), of them read rightly, mean over seeds
    # the pairs that occur, most frequent first, then in the order of classes
    mistakes: Sequence[Mistake]

    def matrix(self) -> NDArray[np.float64]:
        """``(C, C)``: images of the row's class that were read as the column's, mean over seeds."""
        found = np.diag(self.right)
        for one in self.mistakes:
            found[one.true, one.read] = one.images
        return found

    def worst(self, count: int) -> list[ClassScore]:
        """The ``count`` classes with the lowest accuracy, worst first, of those with images.

        Of ties first the class with more images, then in the order of classes.
        """
        most = {one.true: one for one in reversed(self.mistakes)}
        scores = [
            ClassScore(i, int(n), float(self.right[i] / n), most.get(i))
            for i, n in enumerate(self.images)
            if n
        ]
        return sorted(scores, key=lambda one: (one.accuracy, -one.images))[:count]


def confusions(predictions: Predictions, classes: int) -> Confusions:
    """Count the answers of one probe among C ``classes``."""
    seeds = len(predictions.predicted)
    labels = np.asarray(predictions.labels, np.int64)
    pairs, counts = np.unique(labels * classes + predictions.predicted, return_counts=True)
    true, read = np.divmod(pairs, classes)
    shares, hit = counts / seeds, true == read
    right = np.zeros(classes)
    right[true[hit]] = shares[hit]
    wrong = np.flatnonzero(~hit)
    order = wrong[np.argsort(-shares[wrong], kind="stable")]
    mistakes = [Mistake(int(true[i]), int(read[i]), float(shares[i])) for i in order]
    return Confusions(np.bincount(labels, minlength=classes), right, mistakes)


def misread(predictions: Predictions, others: Sequence[Predictions], count: int) -> list[Misread]:
    """At most ``count`` wrong images, first those for which most seeds predict the same class.

    Of these first the ones that most ``others``, predictions of other probes on these images, take for
    the same class: there a label may be wrong. Then in the order of the split.
    """
    labels, predicted = predictions.labels, predictions.predicted
    firsts = np.array([one.predicted[0] for one in others]).reshape(len(others), len(labels))
    found = []
    for row in np.flatnonzero((predicted != labels).any(0)):
        wrong = predicted[:, row][predicted[:, row] != labels[row]]
        read = int(np.bincount(wrong).argmax())
        seeds = int(np.sum(predicted[:, row] == read))
        probes = int(np.sum(firsts[:, row] == read))
        found.append(Misread(int(row), int(labels[row]), read, seeds, probes))
    return sorted(found, key=lambda one: (-one.seeds, -one.probes, one.row))[:count]
