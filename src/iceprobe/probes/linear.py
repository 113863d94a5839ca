"""Linear probing: the class token, or the mean of patch tokens.

y = x_cls    or    y = mean_N(X)
"""

import torch
from torch import Tensor

from iceprobe.probes.evidence import even_evidence
from iceprobe.probes.pooling import Pooling


class Linear(Pooling):
    """Mean over the given tokens, which may be a single class token."""

    linear_in_tokens = own_values = additive = True

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim

    def forward(self, tokens: Tensor) -> Tensor:
        return mean_tokens(tokens)

    def evidence(self, tokens: Tensor, directions: Tensor, centre: Tensor) -> Tensor:
        return even_evidence(
            tokens.to(directions.dtype) / tokens.shape[1], directions, directions @ centre
        )

    def macs(self, num_tokens: int) -> int:
        return 0


def mean_tokens(tokens: Tensor) -> Tensor:
    """``(B, N, D)`` → ``(B, D)``, in float32 where the tokens are narrower."""
    return tokens.mean(1, dtype=torch.promote_types(tokens.dtype, torch.float32))
