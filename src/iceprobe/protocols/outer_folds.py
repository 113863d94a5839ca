"""Folds of a data set that has no test split of its own: each is tested once, by probes trained on the rest."""

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.protocols.heldout import deal_in_turn
from iceprobe.tasks.stratified import Units, dealt
from iceprobe.tasks.task import Task

Rows = NDArray[np.int64]


def drawn_folds(
    task: Task,
    targets: NDArray,
    folds: int,
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> list[Rows]:
    """Rows of each fold, sorted: stratified by the task, no group in two of them.

    Args:
        task: of the targets.
        targets: ``(n, …)`` of all examples.
        folds: how many.
        seed: of the draw.
        groups: ``(n,)``.

    Raises:
        IceprobeError: if there are fewer examples, or groups, than folds.
    """
    strata = task.strata(targets)
    whole = np.arange(len(targets)) if groups is None else groups
    if (count := len(np.unique(whole))) < folds:
        what = "examples" if groups is None else "groups"
        raise IceprobeError(
            f"folds={folds}: there are {count} {what}, take --folds {count} at most"
        )
    if groups is None and strata.ndim == 1:
        rng = np.random.default_rng((seed, folds))
        return [np.sort(np.array(rows, np.int64)) for rows in deal_in_turn(strata, folds, rng)]
    units = Units.made(strata, groups)
    wanted = np.concatenate([units.having.sum(0), [units.sizes.sum()]]) / folds
    part = dealt(units, np.tile(wanted, (folds, 1)), (seed, folds))[units.of]
    return [np.flatnonzero(part == fold) for fold in range(folds)]


def column_folds(codes: NDArray[np.int64], values: list[str], name: str) -> list[Rows]:
    """Rows of each fold from a column of the data set, in the order of its ``values``.

    Raises:
        IceprobeError: if an example has none, or there is one fold only.
    """
    if len(without := np.flatnonzero(codes < 0)):
        raise IceprobeError(
            f"column {name!r} has no fold for example {without[0]} of train ({len(without)} without): "
            "fill it in, or leave fold= out and give --folds 5"
        )
    found = [np.flatnonzero(codes == code) for code in range(len(values))]
    found = [rows for rows in found if len(rows)]
    if len(found) < 2:
        raise IceprobeError(
            f"column {name!r} has one fold: give two or more, or leave fold= out and give --folds 5"
        )
    return found
