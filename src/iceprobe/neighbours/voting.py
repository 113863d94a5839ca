"""k-NN classification: each of the k most similar training images votes exp(s / T) for its class.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination"; the
grid of (k, T) is the one of ``spec/protocols.md``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from iceprobe.tasks.classification import compact
from iceprobe.tasks.records import Record, joined

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
        ``(n, top)`` int64. Among equal votes the lower class comes first. A class without a vote is
        no guess: −1 replaces it.
    """
    found = torch.full((len(labels), top), -1, dtype=torch.int64)
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        scores = votes(similarity[rows], labels[rows], num_classes, vote)
        for rank in range(top):
            best, winner = scores.max(1, keepdim=True)
            found[rows, rank] = winner.where(best > 0, -1)[:, 0]
            scores.scatter_(1, winner, 0)
    return found


def log_votes(similarity: Tensor, labels: Tensor, num_classes: int, vote: Vote) -> Record:
    """Logarithms of the votes ``(1, n, C)`` as logits are kept, −∞ for a class without a vote.

    Of many classes the highest are kept (`tasks/classification.py`).
    """
    parts = []
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        parts.append(compact(votes(similarity[rows], labels[rows], num_classes, vote).log()[None]))
    return joined(parts)


def votes(similarity: Tensor, labels: Tensor, num_classes: int, vote: Vote) -> Tensor:
    """Votes of the first k neighbours for each class: ``(n, K)``, ``(n, K)`` → ``(n, C)``."""
    k, temperature = vote
    weights = (similarity[:, :k] / temperature).exp()
    scores = weights.new_zeros(len(labels), num_classes)
    return scores.scatter_add_(1, labels[:, :k], weights)
