"""The folds of the training split that select settings: one tenth held out, or several where images are few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iceprobe.protocols.protocol import Protocol
from iceprobe.tasks.stratified import Units, fold_parts, heldout_split

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
    groups: Rows | None = None  # of the training examples, ``(n,)``

    def groups_of(self, rows: Rows) -> Rows | None:
        """Groups of some training examples; None if there are none."""
        return None if self.groups is None else self.groups[rows]


def folds_of(
    strata: np.ndarray, seed: int, protocol: Protocol, groups: np.ndarray | None = None
) -> Folds:
    """One held-out part, or below ``protocol.folds_below`` examples repeated stratified folds.

    Args:
        strata: of the training examples: their classes ``(n,)``, or tags ``(n, K)`` bool.
        seed: of the draw.
        protocol: of the fit.
        groups: ``(n,)``; examples of one group are held out together.
    """
    if len(strata) < protocol.folds_below:
        folds = [
            fold
            for repeat in range(protocol.repeats)
            for fold in cross_validation(strata, seed, protocol.folds, repeat, groups)
        ]
        times = f", {protocol.repeats} times" if protocol.repeats > 1 else ""
        each = len(folds) // protocol.repeats  # fewer than asked for where images are too few
        whole = "" if groups is None else ", groups whole"
        return Folds(folds, f"{each}-fold cross-validation of train{times}{whole}", groups)
    train, held = heldout_split(strata, seed, protocol.held_out, groups)
    share = f"{100 * len(held) / max(1, len(strata)):.0f}%"
    whole = "" if groups is None else " in whole groups"
    description = f"held-out {share} of train{whole}"
    return Folds([Fold(train, held)] if len(held) else [], description, groups)


def cross_validation(
    labels: np.ndarray,
    seed: int,
    folds: int,
    repeat: int = 0,
    groups: np.ndarray | None = None,
) -> list[Fold]:
    """``folds`` folds; each image is held out in one of them, if its class has two or more.

    The images of a class, shuffled, are dealt to the folds in turn, from the fold after the last class's:
    a fold holds ⌊m/k⌋ or ⌈m/k⌉ of a class with m images, and sizes of folds differ by one at most. A
    class with one image stays in training in all folds. (scikit-learn's StratifiedKFold refuses classes
    smaller than the number of folds, and holds single images out.) Tags ``(n, K)``, and whole ``groups``, are
    dealt by iterative stratification.
    """
    everything = np.arange(len(labels))
    if groups is not None or labels.ndim == 2:
        parts = fold_parts(Units.made(labels, groups), folds, (seed, repeat, folds))
        return [Fold(np.setdiff1d(everything, rows), rows) for rows in parts if len(rows)]
    held = deal_in_turn(labels, folds, np.random.default_rng((seed, repeat, folds)), least=2)
    return [
        Fold(np.setdiff1d(everything, rows), np.sort(np.asarray(rows, np.int64)))
        for rows in held
        if rows
    ]


def deal_in_turn(
    labels: np.ndarray, folds: int, rng: np.random.Generator, least: int = 1
) -> list[list[int]]:
    """Rows of each fold: those of each class, shuffled, dealt in turn; of classes with ``least`` or more."""
    held: list[list[int]] = [[] for _ in range(folds)]
    turn = 0
    for label in rng.permutation(np.unique(labels)):
        rows = rng.permutation(np.flatnonzero(labels == label))
        for row in rows if len(rows) >= least else ():
            held[turn % folds].append(int(row))
            turn += 1
    return held
