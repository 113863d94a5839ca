"""What every probe costs at one size: M, parameters, FLOPs.

Probes are built on torch's meta device, shapes without numbers, and asked; nothing is typed.
"""

from dataclasses import dataclass

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.pooling import Pooling, absorb
from iceprobe.probes.probe import build


@dataclass(frozen=True)
class Counts:
    """One probe at one size.

    Attributes:
        predictors: M; 0 without learned attention.
        pooling: trainable parameters of the pooling.
        total: of pooling and classifier.
        flops: of the whole probe per image at inference, 2 × multiply–adds.
        flops_per_step: done once a step whatever the batch, for folding keys into queries.
        absorbed: trainable parameters of the pooling with its keys absorbed, which needs no
            folding; ``None`` where `absorb` refuses.
    """

    predictors: int
    pooling: int
    total: int
    flops: int
    flops_per_step: int
    absorbed: int | None


def count(spec: str, dim: int, num_classes: int, grid: tuple[int, int]) -> Counts:
    """Counts of one probe.

    Raises:
        IceprobeError: if there is no such probe at this size.
    """
    with torch.device("meta"):
        probe = build(spec, dim, num_classes, grid, has_class=True)
    parameters = probe.num_parameters()
    flops = probe.flops(grid[0] * grid[1])
    return Counts(
        probe.pooling.num_predictors,
        parameters["pooling"],
        parameters["total"],
        flops,
        2 * probe.pooling.macs_per_step(),
        _absorbed(probe.pooling),
    )


def _absorbed(pooling: Pooling) -> int | None:
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in absorb(pooling).parameters() if p.requires_grad)
    except IceprobeError:
        return None
