"""Part maps: what predictors look at, in one colour for each cluster of them.

Predictors are clustered by spherical k-means on their maps concatenated over images, so a colour means the
same part in every picture. Its opacity is the strength of the part's map.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def spherical_kmeans(vectors: Tensor, clusters: int, iterations: int = 50) -> Tensor:
    """Assign ``vectors (n, d)`` to ``clusters`` by cosine; ``(n,)`` int64, deterministic.

    Centres start far apart: the vector nearest to the mean, then each time the one least like
    the centres so far.
    """
    unit = F.normalize(vectors.double(), dim=1)
    centres = [int((unit @ unit.mean(0)).argmax())]
    while len(centres) < min(clusters, len(unit)):
        centres.append(int((unit @ unit[centres].T).amax(1).argmin()))
    means = unit[centres]
    assigned = (unit @ means.T).argmax(1)
    for _ in range(iterations):
        members = F.one_hot(assigned, len(means)).double()
        sums = members.T @ unit
        means = torch.where(members.sum(0)[:, None] > 0, sums, means)
        means = F.normalize(means, dim=1)
        again = (unit @ means.T).argmax(1)
        if torch.equal(again, assigned):
            break
        assigned = again
    return assigned


def part_maps(maps: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """The mean map of each cluster of predictors.

    Args:
        maps: ``(B, M, N)``.
        clusters: K, at most.

    Returns:
        ``(B, K', N)`` of the K' ≤ K clusters that have predictors, and ``(M,)`` int64, the
        cluster of each predictor.
    """
    assigned = spherical_kmeans(maps.transpose(0, 1).flatten(1), clusters)
    assigned = torch.unique(assigned, return_inverse=True)[1]
    members = F.one_hot(assigned).to(maps.dtype)
    return (members / members.sum(0)).mT @ maps, assigned


def part_picture(parts: Tensor, colours: Tensor) -> Tensor:
    """Each patch in the colour of its strongest part.

    Args:
        parts: ``(B, K, N)``.
        colours: ``(K, 3)`` in [0, 1].

    Returns:
        ``(B, N, 4)``, red, green, blue and opacity in [0, 1]; opacity 1 is the strongest patch of the
        part in all pictures.
    """
    strength, part = (parts / parts.amax((0, 2), keepdim=True).clamp_min(1e-12)).max(1)
    return torch.cat([colours.to(parts)[part], strength[..., None]], -1)
