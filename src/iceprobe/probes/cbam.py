"""Convolutional block attention module (CBAM), with a residual connection and a mean at the end.

    X' = X ⊙ σ(MLP(mean_N X) + MLP(max_N X))      g = σ(BatchNorm(conv₇ₓ₇[mean_D X', max_D X']))
    y = mean_N ReLU(X + X' ⊙ g)

A gate for every channel, then one for every position. The MLP has no biases and hidden width D/16;
the convolution has no bias and zero padding; the BatchNorm has one weight and one bias.
Woo et al., "CBAM: Convolutional Block Attention Module".
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.evidence import even_evidence
from iceprobe.probes.pooling import Pooling, batch_norm, check_grid
from iceprobe.probes.registry import PROBES

REDUCTION, KERNEL = 16, 7


class CBAM(Pooling):
    """CBAM over a map of patches.

    Args:
        dim: D, width of the tokens and of the descriptor.
        grid: rows and columns of the map; N = H·W. An `IceprobeError` if it has other axes.
    """

    num_predictors = 1
    normalised = False
    additive = True
    norms_whole = True
    refusal = "its gates come from pooled channels and a convolution, not from a query over keys"

    def __init__(self, dim: int, grid: tuple[int, ...]):
        super().__init__()
        if len(grid) != 2:
            raise IceprobeError(
                f"cbam convolves a map of rows and columns and the grid is "
                f"{'x'.join(map(str, grid))}: take a probe for any tokens, such as ep32"
            )
        self.out_dim, self.grid = dim, grid
        hidden = max(1, dim // REDUCTION)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False)
        )
        self.conv = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._refined(tokens, mask, remember=True).mean(1)

    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The spatial gate g ``(B, 1, N)``, each in (0, 1)."""
        return self._gate(tokens, mask, remember=False)[1]

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Of each token after its gates."""
        parts = self._refined(tokens, mask, remember=False) / tokens.shape[1]
        return even_evidence(parts, directions, directions @ centre)

    def _refined(self, tokens: Tensor, mask: Tensor | None, remember: bool) -> Tensor:
        """ReLU(X + X' ⊙ g), ``(B, N, D)``."""
        gated, gate = self._gate(tokens, mask, remember)
        return F.relu(tokens.to(gated.dtype) + gated * gate.mT)

    def _gate(self, tokens: Tensor, mask: Tensor | None, remember: bool) -> tuple[Tensor, Tensor]:
        """X' ``(B, N, D)`` and g ``(B, 1, N)``."""
        check_grid("cbam", tokens, mask, self.grid, PROBES["cbam"].one_length)
        tokens = tokens.to(self.conv.weight.dtype)
        channels = self.mlp(tokens.mean(1)) + self.mlp(tokens.amax(1))
        gated = tokens * torch.sigmoid(channels)[:, None]
        maps = torch.stack([gated.mean(-1), gated.amax(-1)], 1).unflatten(-1, self.grid)
        return gated, torch.sigmoid(batch_norm(self.norm, self.conv(maps), remember)).flatten(2)

    def macs(self, num_tokens: int) -> int:
        channel = 2 * sum(m.weight.numel() for m in self.mlp if isinstance(m, nn.Linear))
        return channel + num_tokens * self.conv.weight.numel()
