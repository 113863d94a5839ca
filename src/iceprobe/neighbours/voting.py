"""Votes of neighbours: each of the k most similar training images counts exp(s / T) for its target.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination"; the
grid of (k, T) is the one of ``spec/protocols.md``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from iceprobe.tasks.classification import most_voted
from iceprobe.tasks.records import Record, joined
from iceprobe.tasks.task import Keep, Task

NEIGHBOURS = (5, 10, 15, 20, 50, 100, 200)
TEMPERATURES = (0.07, 0.1, 0.2)
ROWS = 4096  # images voted on at once: bounds memory at ROWS × C scores


class Vote(NamedTuple):
    """How neighbours vote: the k nearest, each with exp(s / T)."""

    k: int
    temperature: float


def settings(bank: int) -> list[Vote]:
    """The grid for a bank of that many images; a larger k means all of them."""
    ks = sorted({min(k, bank) for k in NEIGHBOURS})
    return [Vote(k, temperature) for k in ks for temperature in TEMPERATURES]


def classify(
    similarity: Tensor, labels: Tensor, num_classes: int, vote: Vote, top: int = 1
) -> Tensor:
    """The ``top`` classes with the most votes, best first.

    Args:
        similarity: ``(n, K)`` cosine similarities of the nearest neighbours, best first.
        labels: ``(n, K)`` int64, their classes.
        num_classes: C.
        vote: k ≤ K and T.
        top: classes wanted, at most C.

    Returns:
        ``(n, top)`` int64, as of `tasks.classification.most_voted`.
    """
    parts = [slice(start, start + ROWS) for start in range(0, len(labels), ROWS)]
    return torch.cat(
        [
            most_voted(votes(similarity[rows], labels[rows], num_classes, vote), top)
            for rows in parts
        ]
    )


def voted(
    task: Task,
    similarity: Tensor,
    neighbours: Tensor,
    outputs: int,
    targets: Tensor,
    vote: Vote,
    keep: Keep = "everything",
) -> Record:
    """The task's record of examples from their neighbours.

    Args:
        task: whose targets they are.
        similarity: ``(n, K)`` cosine similarities of the nearest neighbours, best first.
        neighbours: ``(n, K, …)``, their targets.
        outputs: number of the task's outputs.
        targets: ``(n, …)`` of the examples.
        vote: k ≤ K and T.
        keep: the record's use.
    """
    k = vote.k
    rows_at_once = [slice(start, start + ROWS) for start in range(0, len(targets), ROWS)]
    return joined(
        [
            task.voted(
                (similarity[rows, :k] / vote.temperature).exp(),
                neighbours[rows, :k],
                outputs,
                targets[rows],
                keep,
            )
            for rows in rows_at_once
        ]
    )


def votes(similarity: Tensor, labels: Tensor, num_classes: int, vote: Vote) -> Tensor:
    """Votes of the first k neighbours for each class: ``(n, K)``, ``(n, K)`` → ``(n, C)``."""
    k, temperature = vote
    weights = (similarity[:, :k] / temperature).exp()
    scores = weights.new_zeros(len(labels), num_classes)
    return scores.scatter_add_(1, labels[:, :k], weights)
