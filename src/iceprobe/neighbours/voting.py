"""k-NN classification: each of the k most similar training images votes exp(s / T) for its class.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination"; the
grid of (k, T) is the one of ``spec/protocols.md``.
"""

import torch
from torch import Tensor

NEIGHBOURS = (5, 10, 15, 20, 50, 100, 200)
TEMPERATURES = (0.07, 0.1, 0.2)
ROWS = 4096  # images voted on at once: bounds memory at ROWS × C scores

Setting = tuple[int, float]  # k, T


def settings(bank: int) -> list[Setting]:
    """The grid for a bank of that many images; a larger k means all of them."""
    ks = sorted({min(k, bank) for k in NEIGHBOURS})
    return [(k, temperature) for k in ks for temperature in TEMPERATURES]


def classify(
    similarity: Tensor, labels: Tensor, num_classes: int, setting: Setting, top: int = 1
) -> Tensor:
    """The ``top`` classes with the most votes, best first.

    Args:
        similarity: ``(n, K)`` cosine similarities of the nearest neighbours, best first.
        labels: ``(n, K)`` int64, their classes.
        num_classes: C.
        setting: k ≤ K and T.
        top: classes wanted, at most C.

    Returns:
        ``(n, top)`` int64. Among equal votes the lower class comes first. A class that nobody
        voted for is no guess: −1 stands in its place.
    """
    found = torch.full((len(labels), top), -1, dtype=torch.int64)
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        scores = votes(similarity[rows], labels[rows], num_classes, setting)
        for rank in range(top):
            best, winner = scores.max(1, keepdim=True)
            found[rows, rank] = winner.where(best > 0, -1)[:, 0]
            scores.scatter_(1, winner, 0)
    return found


def votes(similarity: Tensor, labels: Tensor, num_classes: int, setting: Setting) -> Tensor:
    """Votes of the first k neighbours for each class: ``(n, K)``, ``(n, K)`` → ``(n, C)``."""
    k, temperature = setting
    weights = (similarity[:, :k] / temperature).exp()
    scores = weights.new_zeros(len(labels), num_classes)
    return scores.scatter_add_(1, labels[:, :k], weights)
