"""Linear probing: the class token, or the mean of patch tokens.

y = x_cls    or    y = mean_N(X)
"""

from torch import Tensor

from iceprobe.probes.evidence import even_evidence
from iceprobe.probes.masks import mean_parts, mean_tokens
from iceprobe.probes.pooling import Pooling


class Linear(Pooling):
    """Mean over the given tokens, which may be a single class token."""

    linear_in_tokens = own_values = additive = True

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return mean_tokens(tokens, mask)

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        parts = mean_parts(tokens.to(directions.dtype), mask)
        return even_evidence(parts, directions, directions @ centre, mask)

    def macs(self, num_tokens: int) -> int:
        return 0
