"""CLIP's attention pool: self-attention over mean token and patches, output at the mean token.

    Z = [mean_N(X̃); X̃] + P,  X̃ = LN(X)      q = W_Q z_0 + b_Q a_j = softmax_{1+N}(Z W_Kjᵀ q_j /
    √(D/M))      y_j = W_Vj Z a_j + b_Vj      y = W_O [y_1 … y_M] + b_O

P ∈ R^{(N+1)×D} is learned. W_Q, W_K, W_V and P start normal with deviation D^-1/2, truncated at ±2,
their biases at zero (timm's ``AttentionPool2d``), W_O as in `torch.nn.Linear`. Radford et al.,
"Learning Transferable Visual Models From Natural Language Supervision", with an LN in front as in
Psomas et al., "Attention, Please!".

Only the output at z_0 is used, so every image has its own M effective queries
u_j = W_Kjᵀ q_j / √(D/M). No other query, no key or value of a patch is computed, and not Z:

    Z u_j = X̃ u_j + P u_j      Zᵀ a_j = X̃ᵀ a_j + Pᵀ a_j
"""

import math

import torch
from torch import Tensor, nn

from iceprobe.probes.attend import image_scores, image_sums
from iceprobe.probes.evidence import linear_evidence
from iceprobe.probes.layer_norm import center, fold_norm, token_rstd
from iceprobe.probes.pooling import Pooling, check_divides, check_grid, slice_values
from iceprobe.probes.registry import PROBES


class CLIP(Pooling):
    """CLIP's attention pool with M heads.

    Args:
        dim: D, width of the tokens and of the descriptor.
        grid: of the patches, with any axes; there are N + 1 positions, N the number of its cells.
        heads: M; an `IceprobeError` if it doesn't divide D.
    """

    refusal = "one effective query per image: its mean token asks, and each image has its own"
    token_norms = ("norm",)
    additive = True

    def __init__(self, dim: int, grid: tuple[int, ...], heads: int = 4):
        super().__init__()
        check_divides("clip", heads, dim=dim)
        self.out_dim, self.num_predictors, self.grid = dim, heads, grid
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.position = nn.Parameter(torch.empty(math.prod(grid) + 1, dim))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for weight in (self.qkv.weight, self.position):
            nn.init.trunc_normal_(weight, std=dim**-0.5)
        nn.init.zeros_(self.qkv.bias)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        rstd, mean = self._normalise(tokens, mask)
        weights = self._weights(tokens, rstd, mean)
        pooled = center(image_sums(tokens, weights[..., 1:], rstd))
        pooled = (pooled + weights[..., :1] * mean) * self.norm.weight + self.norm.bias
        pooled = pooled + weights @ self.position
        return self._values(pooled)

    def _values(self, pooled: Tensor) -> Tensor:
        """Pooled rows of Z, ``(B, M, D)`` → ``(B, D)``."""
        rows = slice(2 * self.out_dim, None)
        return self.proj(slice_values(self.qkv.weight[rows], pooled) + self.qkv.bias[rows])

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """A patch speaks as its own row of Z, and as the N-th part of the mean token, z_0."""
        weights = self._weights(tokens, *self._normalise(tokens, mask))
        normed, count = self.norm(tokens.to(self.position.dtype)), tokens.shape[1]
        rows = torch.cat([normed + self.position[1:], normed + self.position[0]], 1)
        of_mean = weights[..., :1].expand(-1, -1, count) / count
        both = torch.cat([weights[..., 1:], of_mean], -1)
        found = linear_evidence(self._values, both, rows, directions, centre)
        return found.unflatten(-1, (2, count)).sum(-2)

    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._weights(tokens, *self._normalise(tokens, mask))[..., 1:]

    def prefix_attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights ``(B, M, 1)`` of the mean token."""
        return self._weights(tokens, *self._normalise(tokens, mask))[..., :1]

    def _normalise(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """r of the tokens, ``(B, N)``, and the mean of the normalised ones, ``(B, 1, D)``."""
        check_grid("clip", tokens, mask, self.grid, PROBES["clip"].one_length)
        count = tokens.shape[1]
        rstd = token_rstd(tokens, self.norm.eps)
        uniform = torch.full_like(rstd[:, None], 1 / count)
        return rstd, center(image_sums(tokens, uniform, rstd)).to(self.position.dtype)

    def _weights(self, tokens: Tensor, rstd: Tensor, mean: Tensor) -> Tensor:
        """``(B, M, 1 + N)``, the mean token first."""
        rows = slice(self.out_dim)
        z = mean[:, 0] * self.norm.weight + self.norm.bias + self.position[0]
        q = z @ self.qkv.weight[rows].mT + self.qkv.bias[rows]
        q = q.unflatten(1, (self.num_predictors, -1))
        keys = self.qkv.weight[self.out_dim : 2 * self.out_dim]
        keys = keys.unflatten(0, (self.num_predictors, -1))
        u = torch.einsum("bma,mad->bmd", q, keys) * q.shape[-1] ** -0.5
        normed = center(fold_norm(u, self.norm))
        scores = torch.cat([normed @ mean.mT, image_scores(tokens, normed, rstd)], -1)
        return torch.softmax(scores + u @ self.position.mT, -1)

    def macs(self, num_tokens: int) -> int:
        n, d = num_tokens, self.out_dim
        mean, tokens, positions = n * d, 2 * n + 1, 2 * (n + 1)
        return mean + self.num_predictors * (tokens + positions) * d + 4 * d * d
