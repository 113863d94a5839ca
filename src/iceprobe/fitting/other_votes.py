"""k-NN of a run on another data set: its own training tokens vote, with the k and T that it chose.

A neighbour's class is renamed to the other set's: votes of classes that are one there add up, and those of
classes that don't count have no weight.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.matching import Matching
from iceprobe.neighbours.evaluate import neighbours_of
from iceprobe.neighbours.voting import Vote, voted
from iceprobe.probes.inputs import input_of
from iceprobe.protocols.lowshot import drawn
from iceprobe.results.schema import Result
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.records import Record
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.task import Task


def votes_of(
    result: Result,
    store: Store,
    other: StoredSplit,
    run_seed: int | None,
    read: Sequence[tuple[Matching, NDArray[Any]]],
    device: torch.device,
    advance: Callable[[str, int, int], None],
) -> list[Record]:
    """The record of each matching, a row a replicate of the run.

    Args:
        result: of k-NN.
        store: of the run, whose training split is the bank.
        other: the examples.
        run_seed: of the draws of a low-shot run.
        read: matchings, each with the examples' targets.
        device: of the products.
        advance: called with a stage's name, examples done and in all.

    Raises:
        IceprobeError: if the draw of a low-shot run isn't known.
    """
    task, rows = get_task(result.task), max(1, len(result.seeds))
    parts: list[list[Record]] = [[] for _ in read]
    found: tuple[Tensor, Tensor] | None = None
    votes = _votes(result, rows)
    most = max(vote.k for vote in votes)
    low_shot = result.shots is not None or result.fraction is not None

    def searched(done: int, of: int) -> None:
        advance("knn", done, of)

    for r, vote in enumerate(votes):
        bank = store
        if low_shot:
            bank = store.take("train", _draw(result, store, task, run_seed, r))
        if found is None or low_shot:
            found = neighbours_of(
                bank["train"], other, input_of(store.shape, result.probe),
                vote.k if low_shot else most, device=device, progress=searched,
            )  # fmt: skip
        similarity, nearest = found
        targets = torch.from_numpy(np.asarray(bank["train"].targets))[nearest]
        for number, (matching, truth) in enumerate(read):
            weight, neighbours = _renamed(similarity, targets, matching, task)
            outputs = len(matching.names)
            parts[number].append(
                voted(task, weight, neighbours, outputs, torch.from_numpy(truth), vote)
            )
    return [{k: torch.cat([one[k] for one in part]) for k in part[0]} for part in parts]


def _renamed(
    similarity: Tensor, targets: Tensor, matching: Matching, task: Task
) -> tuple[Tensor, Tensor]:
    """Similarities and targets of the neighbours, in the other set's classes."""
    if task.several or matching.whole:
        return similarity, targets
    renamed = torch.from_numpy(matching.outputs)[targets]
    return similarity.masked_fill(renamed < 0, -torch.inf), renamed.clamp(0)


def _votes(result: Result, rows: int) -> list[Vote]:
    """What each replicate chose; where they differ, the result lists their values."""
    ks, temperatures = (str(result.selected[key]).split(", ") for key in ("k", "temperature"))
    both = ([one[0]] * rows if len(one) == 1 else one for one in (ks, temperatures))
    return [Vote(int(k), float(t)) for k, t in zip(*both, strict=True)]


def _draw(
    result: Result, store: Store, task: Task, run_seed: int | None, replicate: int
) -> NDArray[np.int64]:
    if run_seed is None:
        raise IceprobeError(
            f"{result.label} was fitted on a draw of training images, whose seed the run folder doesn't "
            "say: fit it again"
        )
    seed = run_seed + (result.seeds[replicate] if result.seeds else replicate)
    few: dict[str, Any] = {"shots": result.shots, "fraction": result.fraction}
    groups = store.groups("train")
    return drawn(task, store["train"].targets, store.classes, **few, seed=seed, groups=groups)
