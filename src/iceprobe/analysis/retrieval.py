"""Recall@K: is an image of the same class among the K nearest others?

By the cosine of pooled descriptors, within one split, the query itself left out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from iceprobe.core.errors import IceprobeError


def recall_at(
    descriptors: Tensor, labels: Tensor, ks: Sequence[int], *, block: int = 1024
) -> dict[int, Tensor]:
    """Whether each image finds its class among its K nearest: K → ``(n,)`` bool.

    An image that is alone in its class is a query as well, and finds nothing.

    Args:
        descriptors: ``(n, D_o)``.
        labels: ``(n,)``.
        ks: values of K.
        block: queries compared at once, with all n.

    Raises:
        IceprobeError: if there are no K other images.
    """
    if max(ks) >= len(labels):
        raise IceprobeError(
            f"recall at {max(ks)} needs {max(ks) + 1} images, there are {len(labels)}: take fewer"
        )
    unit = F.normalize(descriptors, dim=1)
    found = []
    for start in range(0, len(unit), block):
        cosines = unit[start : start + block] @ unit.mT
        rows = torch.arange(len(cosines), device=unit.device)
        cosines[rows, rows + start] = -torch.inf
        nearest = cosines.topk(max(ks), 1).indices
        found.append(labels[nearest] == labels[start : start + block, None])
    same = torch.cat(found)
    return {k: same[:, :k].any(1) for k in ks}
