"""Max pooling: of every channel the largest value over the tokens.

    y_d = max_n x_nd

The plain pooling of multiple-instance learning beside the mean: it finds what a single token has in a channel of
its own, and nothing that lies across channels. No parameters. The mi- and max-operators are compared in Wang
et al., "Revisiting Multiple Instance Neural Networks".
"""

import torch
from torch import Tensor

from iceprobe.probes.evidence import even_evidence
from iceprobe.probes.masks import only_scores, only_tokens
from iceprobe.probes.pooling import Pooling


class MaxPool(Pooling):
    """The largest value of each channel, ``(B, N, D)`` → ``(B, D)``."""

    additive = True

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        wide = torch.promote_types(tokens.dtype, torch.float32)
        return only_scores(tokens.mT, mask).amax(-1).to(wide)

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Of the token that a channel is taken from, that channel's part."""
        tokens = only_tokens(tokens, mask).to(directions.dtype)
        best = only_scores(tokens.mT, mask).argmax(-1)[:, None]
        parts = torch.zeros_like(tokens).scatter(1, best, tokens.gather(1, best))
        return even_evidence(parts, directions, directions @ centre, mask)

    def macs(self, num_tokens: int) -> int:
        return 0
