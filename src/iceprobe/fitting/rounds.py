"""A fit as rounds: one repetition for each replicate and fold, each on a view of the store of its own."""

from dataclasses import dataclass
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.shared_groups import line_of_shared_groups
from iceprobe.fitting.checks import check_task
from iceprobe.fitting.repetition import Request
from iceprobe.protocols.lowshot import drawn
from iceprobe.protocols.outer_folds import Rows, column_folds, drawn_folds
from iceprobe.settings import FitCall, ProbeCall
from iceprobe.store.format import TRAIN
from iceprobe.store.reader import Store


@dataclass(frozen=True)
class Round:
    """One repetition of a fit.

    Attributes:
        store: a view; its ``train`` split holds the examples to learn from.
        seeds: initialisations.
        run_seed: of the held-out part and of the order of batches.
        replicate: its number.
    """

    store: Store
    seeds: list[int]
    run_seed: int
    replicate: int


def rounds_of(
    store: Store,
    request: Request,
    call: FitCall | ProbeCall,
    seeds: int,
    replicates: int | None,
    folds: list[Rows],
) -> list[Round]:
    """The rounds of a fit: one with all seeds, or one a replicate with everything drawn anew; of each fold.

    Raises:
        IceprobeError: for a draw of more examples than there are.
    """
    found = []
    for replicate in range(replicates or 1):
        mine = list(range(seeds)) if replicates is None else [replicate]
        seed = call.run_seed + replicate
        for view in [store.fold(rows) for rows in folds] if folds else [store]:
            if request.low_shot and TRAIN in view.splits:
                view = _low_shot(view, request, call, seed)
            found.append(Round(view, mine, seed, replicate))
    return found


def _low_shot(store: Store, request: Request, call: FitCall | ProbeCall, seed: int) -> Store:
    few: dict[str, Any] = {"shots": call.shots, "fraction": call.fraction, "seed": seed}
    task, targets = check_task(store, request.task), store[TRAIN].targets
    rows = drawn(task, targets, store.classes, **few, groups=store.groups(TRAIN))
    return store.take(TRAIN, rows)


def folds_of_store(store: Store, request: Request, run_seed: int, asked: int | None) -> list[Rows]:
    """Rows of train in each fold: of the data's own column, or drawn if a number is ``asked`` or there is
    none. Empty if the protocol has no folds.

    Raises:
        IceprobeError: if folds can't be made, naming why.
    """
    protocol = request.protocol
    if not protocol.outer_folds or TRAIN not in store.splits:
        return []
    column, train = store.manifest.dataset.fold, store[TRAIN]
    if column is not None and asked is None:
        values = store.manifest.dataset.values[column]
        folds = column_folds(train.columns[column], values, column)
    else:
        task, groups = check_task(store, request.task), store.groups(TRAIN)
        folds = drawn_folds(task, train.targets, protocol.outer_folds, run_seed, groups)
    for number, rows in enumerate(folds, 1):
        _check_fold(store, request, rows, number)
    return folds


def cut_groups(store: Store, folds: list[Rows]) -> str:
    """A line on groups that are in several folds of the data's own; ``""`` if none are."""
    groups = store.groups(TRAIN) if folds else None
    if groups is None:
        return ""
    of_fold = [set(groups[rows].tolist()) for rows in folds]
    counts: dict[int, int] = {}
    for mine in of_fold:
        for group in mine:
            counts[group] = counts.get(group, 0) + 1
    cut = [group for group, count in counts.items() if count > 1]
    if not cut:
        return ""
    column = store.manifest.dataset.group or ""
    values = store.manifest.dataset.values[column]
    so = "their examples aren't independent of what is learnt"
    return line_of_shared_groups(column, [values[group] for group in cut], "several folds", so)


def _check_fold(store: Store, request: Request, rows: Rows, number: int) -> None:
    view, task = store.fold(rows), check_task(store, request.task)
    if len(view[TRAIN]) and (why := task.check_trained(view[TRAIN].targets, store.classes)) is None:
        return
    why = why if len(view[TRAIN]) else "no example to learn from"
    raise IceprobeError(
        f"fold {number}: {why}, all are in the fold itself; give fewer or other folds, or leave it out"
    )
