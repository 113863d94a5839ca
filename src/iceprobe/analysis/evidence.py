"""Evidence over the patches of an image: how much each speaks for an output of the probe.

e_k ∈ R^N of output k, Σ_n e_kn + (prefix tokens) + b_k = logit_k        `iceprobe.probes.evidence`

What is true of an image is its class, the tags that it has, or its numbers as far as they are known.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe


def has_evidence(probe: "Probe") -> bool:
    """Whether the probe's logits are sums over the patches."""
    return probe.pooling.additive and (probe.read.of_tokens or probe.on_mean)


def patch_evidence(probe: "Probe", tokens: Tokens, outputs: Tensor) -> Tensor:
    """Evidence of the patches for the asked outputs: ``(B, K')`` int64 → ``(B, K', N)`` float32.

    Where the tokens of several layers are read, that of a place is the sum over them.

    Raises:
        IceprobeError: if the logits aren't sums over tokens.
    """
    found = probe.evidence(tokens, outputs.to(tokens.patches.device))
    return probe.on_patches(found, tokens.patches.shape[1]).float()


def true_outputs(targets: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs that are true of each image, and which of these count: both ``(B, K')``.

    Targets are classes ``(B,)``, tags ``(B, K)`` uint8 or numbers ``(B, K)``, as of `iceprobe.tasks.targets`.
    K' is the most that an image has; others are filled up with outputs that don't count.
    """
    if targets.ndim == 1:
        return targets[:, None], torch.ones_like(targets[:, None], dtype=torch.bool)
    holds = targets == 1 if targets.dtype == torch.uint8 else targets.isnan().logical_not()
    most = max(1, int(holds.sum(1).max()))
    outputs = holds.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return outputs, holds.gather(1, outputs)


@torch.no_grad()
def true_map(probe: "Probe", tokens: Tokens, targets: Tensor) -> Tensor:
    """Where the evidence for what is true lies, as one map an image: ``(B, N)``.

    Of classes and tags it is the positive evidence, of numbers its magnitude: what raises and what lowers them
    are equally evidence. Each output's map is divided by its sum, and the map is their mean. NaN where nothing
    is true, or nothing speaks for it.
    """
    outputs, counts = true_outputs(targets)
    evidence = patch_evidence(probe, tokens, outputs)
    numbers = targets.ndim == 2 and targets.is_floating_point()
    maps = evidence.abs() if numbers else evidence.clamp_min(0)
    maps = maps / maps.sum(-1, keepdim=True)
    counts = counts.to(maps.device) & maps.isfinite().all(-1)
    total = torch.where(counts[..., None], maps, torch.zeros_like(maps)).sum(1)
    return total / counts.sum(1, keepdim=True)
