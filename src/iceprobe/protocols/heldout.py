"""The folds of the training split that select settings: one tenth held out, or several where images are few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iceprobe.protocols.protocol import Protocol

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Rows of the training split, sorted: to train on, and held out to select by."""

    train: Rows
    held_out: Rows


@dataclass(frozen=True)
class Folds:
    """The held-out parts that a fit selects on."""

    folds: Sequence[Fold]  # empty if no example can be held out
    description: str  # in words: "held-out 10% of train"


def folds_of(labels: np.ndarray, seed: int, protocol: Protocol) -> Folds:
    """One held-out part, or below ``protocol.folds_below`` examples repeated stratified folds.

    ``labels (n,)`` are strata of the training examples, in classification their classes.
    """
    if len(labels) < protocol.folds_below:
        folds = [
            fold
            for repeat in range(protocol.repeats)
            for fold in cross_validation(labels, seed, protocol.folds, repeat)
        ]
        times = f", {protocol.repeats} times" if protocol.repeats > 1 else ""
        each = len(folds) // protocol.repeats  # fewer than asked for where images are too few
        return Folds(folds, f"{each}-fold cross-validation of train{times}")
    train, held = heldout_split(labels, seed, protocol.held_out)
    share = f"{100 * len(held) / max(1, len(labels)):.0f}%"
    return Folds([Fold(train, held)] if len(held) else [], f"held-out {share} of train")


def heldout_split(
    labels: np.ndarray, seed: int, fraction: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, both sorted; stratified and seeded.

    Of a class with m images ``round(fraction · m)`` are held out, at least one if the class has two or
    more; a class with one image stays in training, so that no held-out class is unseen. (scikit-learn's
    stratified splitters refuse such classes.)
    """
    rng = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = max(1, round(fraction * len(rows))) if len(rows) > 1 else 0
        held.append(rows[:count])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def cross_validation(labels: np.ndarray, seed: int, folds: int, repeat: int = 0) -> list[Fold]:
    """``folds`` folds; each image is held out in one of them, if its class has two or more.

    The images of a class, shuffled, are dealt to the folds in turn, from the fold after the last class's:
    a fold holds ⌊m/k⌋ or ⌈m/k⌉ of a class with m images, and sizes of folds differ by one at most. A
    class with one image stays in training in all folds. (scikit-learn's StratifiedKFold refuses classes
    smaller than the number of folds, and holds single images out.)
    """
    rng = np.random.default_rng((seed, repeat, folds))
    held: list[list[int]] = [[] for _ in range(folds)]
    turn = 0
    for label in rng.permutation(np.unique(labels)):
        rows = rng.permutation(np.flatnonzero(labels == label))
        for row in rows if len(rows) > 1 else ():
            held[turn % folds].append(int(row))
            turn += 1
    everything = np.arange(len(labels))
    return [
        Fold(np.setdiff1d(everything, rows), np.sort(np.asarray(rows, np.int64)))
        for rows in held
        if rows
    ]
