"""Examples dealt to parts so that each part has its share of every class or tag, and no group is cut.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label
data"): of the tag with the fewest units left, each unit goes to the part that lacks most of that tag; of
equals to the one that lacks most examples. Here a unit is a group with all its examples, or one example
where there are no groups, and a tag is anything to be shared out: a class, a tag, a bin of a number.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """What is dealt whole.

    Attributes:
        of: ``(n,)`` the unit of each example.
        having: ``(U, K)`` how many of a unit's examples have each tag.
        sizes: ``(U,)`` examples of each unit.
    """

    of: Rows
    having: NDArray[np.int64]
    sizes: Rows

    @classmethod
    def made(cls, strata: NDArray, groups: NDArray[np.int64] | None = None) -> Self:
        """Of strata, ``(n,)`` codes or ``(n, K)`` bool, and groups ``(n,)``; without groups an example each."""
        tags = strata if strata.ndim == 2 else strata[:, None] == np.unique(strata)
        whole = np.arange(len(tags)) if groups is None else groups
        _, of = np.unique(whole, return_inverse=True)
        having = np.zeros((of.max(initial=-1) + 1, tags.shape[1]), np.int64)
        np.add.at(having, of, tags)
        return cls(of, having, np.bincount(of))

    @property
    def alone(self) -> NDArray[np.bool_]:
        """Units ``(U,)`` that are the only one with some tag: held out, that tag would be unseen."""
        only: NDArray[np.bool_] = ((self.having > 0) & ((self.having > 0).sum(0) == 1)).any(1)
        return only


def dealt(units: Units, shares: NDArray[np.float64], seed: int | tuple[int, ...]) -> Rows:
    """The part of each unit, ``(U,)``.

    Args:
        units: to be dealt.
        shares: ``(P, K + 1)`` examples that each part wants: with each tag, and in all.
        seed: of the order among units that are alike.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(units.sizes))
    order = order[np.argsort(-units.sizes[order], kind="stable")]  # large groups first
    wanted, part = shares.astype(np.float64), np.full(len(order), -1, np.int64)
    left = (units.having > 0).sum(0)
    everything = np.concatenate([units.having, units.sizes[:, None]], 1)
    while len(waiting := order[part[order] < 0]):
        tag = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin()) if left.any() else -1
        for unit in waiting[everything[waiting, tag] > 0]:
            lacking = wanted[:, tag]
            best = np.flatnonzero(lacking >= lacking.max() - 1e-9)
            best = best[wanted[best, -1] >= wanted[best, -1].max() - 1e-9]
            part[unit] = chosen = best[0] if len(best) == 1 else rng.choice(best)
            wanted[chosen] -= everything[unit]
            left -= units.having[unit] > 0
    return part


def heldout_split(
    strata: NDArray, seed: int, fraction: float = 0.1, groups: NDArray[np.int64] | None = None
) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out, both sorted; stratified and seeded.

    Of a class with m examples ``round(fraction · m)`` are held out, at least one if the class has two or
    more, and not all; a class with one example stays in training, so that no held-out class is unseen.
    (scikit-learn's stratified splitters refuse such classes.) Tags, and whole groups, are dealt by iterative
    stratification.

    Args:
        strata: codes ``(n,)``, or tags ``(n, K)`` bool.
        seed: of the draw.
        fraction: of the examples, in (0, 1).
        groups: ``(n,)``; examples of one group stay together.
    """
    if groups is not None or strata.ndim == 2:
        out = _held_out_units(Units.made(strata, groups), fraction, seed)
    else:
        rng = np.random.default_rng(seed)
        held = [np.empty(0, np.int64)]
        for stratum in np.unique(strata):
            rows = rng.permutation(np.flatnonzero(strata == stratum))
            held.append(rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)])
        out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(strata)), out), out


def _held_out_units(units: Units, fraction: float, seed: int) -> Rows:
    """Examples held out in whole units, sorted: of a tag with m examples about ``round(fraction · m)``.

    Where two units or more have a tag it is held out at least once, if training then still has every tag.
    """
    movable = ~units.alone
    counts = np.concatenate([units.having.sum(0), [units.sizes.sum()]])
    several = np.append((units.having[movable] > 0).sum(0) > 0, True)
    wanted = np.where(several, np.maximum(np.round(fraction * counts), 1), 0)
    part = np.zeros(len(units.sizes), np.int64)
    part[movable] = dealt(
        _only(units, movable), np.stack([counts - wanted, wanted]), (seed, len(counts))
    )
    held = _without_last(units, part == 1)
    for tag in np.flatnonzero(several[:-1]):
        if units.having[held, tag].any():
            continue
        spare = (units.having[~held] > 0).sum(0) > 1  # tags that training has in several units
        able = ~held & (units.having[:, tag] > 0) & (spare | (units.having == 0)).all(1)
        if able.any():
            held[np.where(able, units.sizes, np.iinfo(np.int64).max).argmin()] = True
    return np.flatnonzero(held[units.of])


def fold_parts(units: Units, folds: int, seed: int | tuple[int, ...]) -> list[Rows]:
    """Examples of each fold, sorted, no two of one group apart; a tag that one unit alone has is in none."""
    movable = ~units.alone
    counts = np.concatenate([units.having[movable].sum(0), [units.sizes[movable].sum()]])
    part = np.full(len(units.sizes), -1, np.int64)
    part[movable] = dealt(_only(units, movable), np.tile(counts / folds, (folds, 1)), seed)
    return [np.flatnonzero(_without_last(units, part == fold)[units.of]) for fold in range(folds)]


def alone(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes of groups ``(n,)``, in which each example without one (−1) gets its own."""
    without = codes < 0
    found = codes.copy()
    found[without] = codes.max(initial=-1) + 1 + np.arange(without.sum())
    return found


def _only(units: Units, kept: NDArray[np.bool_]) -> Units:
    return Units(units.of, units.having[kept], units.sizes[kept])


def _without_last(units: Units, held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The units held out ``(U,)``, less those that leave a tag unseen by the others."""
    held = held.copy()
    for tag in np.flatnonzero((units.having[~held] > 0).sum(0) == 0):
        with_tag = np.flatnonzero(held & (units.having[:, tag] > 0))
        if len(with_tag):
            held[with_tag[units.sizes[with_tag].argmin()]] = False
    return held
