"""What a probe costs at one size: M, parameters, FLOPs. It is built on torch's meta device."""

import contextlib
from dataclasses import dataclass

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.inputs import names_layers
from iceprobe.probes.pooling import absorb
from iceprobe.probes.probe import build_for
from iceprobe.tokens import JoinedShape, TokenShape

LAYERS = 12  # of a backbone, for probes that name some


@dataclass(frozen=True)
class Counts:
    """One probe at one size."""

    predictors: int  # M; 0 without learned attention
    pooling: int  # trainable parameters of the pooling
    total: int  # of pooling and classifier
    flops: int  # of the whole probe per image at inference, 2 × multiply–adds
    flops_per_step: int  # for folding keys into queries, for any batch size
    absorbed: int | None  # parameters of the pooling with its keys absorbed, if `absorb` allows it


def count(spec: str, dim: int, num_classes: int, grid: tuple[int, int]) -> Counts:
    """Counts of one probe; an `IceprobeError` if there is none of this size."""
    absorbed: int | None = None
    shape = TokenShape(dim, grid[0] * grid[1], 1, grid, has_class=True)
    if names_layers(spec):  # all alike
        shape = JoinedShape.of(dict.fromkeys(range(LAYERS), shape), LAYERS)
    with torch.device("meta"):
        probe = build_for(shape, spec, num_classes)
        pooling = probe.pooling
        with contextlib.suppress(IceprobeError):
            absorbed = sum(p.numel() for p in absorb(pooling).parameters() if p.requires_grad)
    size, flops = probe.num_parameters(), probe.flops(grid[0] * grid[1])
    per_step = 2 * pooling.macs_per_step()
    return Counts(pooling.num_predictors, size["pooling"], size["total"], flops, per_step, absorbed)
