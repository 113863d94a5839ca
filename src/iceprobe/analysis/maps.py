"""A fitted probe's attention over the patches of an image.

A ∈ R^{M×N}, Σ_n a_jn = 1, and the share of a_j that went to prefix tokens
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe

_TINY = 1e-12  # keeps a predictor without any weight on patches from dividing by 0


def gridded(maps: Tensor, grids: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Maps ``(B, K, N)`` on the grid of each example, ``(K, H, W)`` each; padding is left out."""
    return [
        one[:, : math.prod(grid)].unflatten(1, grid) for one, grid in zip(maps, grids, strict=True)
    ]


@torch.no_grad()
def patch_maps(probe: "Probe", tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Where each predictor looks among the patches, and how much it gives to other tokens.

    Args:
        probe: fitted, in evaluation mode, with attention.
        tokens: of B images, where the probe is.

    Returns:
        ``(B, M, N)`` float32 with rows that sum to 1 (where the tokens of several layers are read, of a
        place in all of them), and ``(B, M)`` the share of prefix tokens:
        those that the probe reads (class token, registers) and keys that its pooling adds itself.

    Raises:
        IceprobeError: if the pooling has no attention.
    """
    read = probe.read_tokens(tokens)
    weights = probe.over_parts(probe.pooling.attention(*read).float())
    added = probe.mean_of_parts(probe.pooling.prefix_attention(*read).float().sum(-1))
    patches = probe.on_patches(weights, tokens.patches.shape[1])
    on_patches = patches.sum(-1)
    everything = weights.sum(-1) + added
    share = 1 - on_patches / everything.clamp_min(_TINY)
    return patches / on_patches.clamp_min(_TINY)[..., None], share
