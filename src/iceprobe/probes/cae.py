"""CAE's attentive probe: cross-attention with a LayerNorm of its own for query, keys and values.

    q = W_Q LN_q(q₀)      a_j = softmax_N(LN_k(X) W_Kjᵀ q_j / √(D/M))
    y_j = W_Vj LN_v(X) a_j      y = W_O [y_1 … y_M] + b_O

LN ε 1e-5; q₀ starts at zero, so attention starts uniform; no residual, no MLP. Chen et al.,
"Context Autoencoder for Self-Supervised Representation Learning". The published code has a
fourth LN that nothing uses (2D parameters); it is left out.

Keys and their LN are folded into the query in every forward pass; LN_v is applied after pooling.
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.folding import FoldedKeys
from iceprobe.probes.layer_norm import apply_norm, fold_norm
from iceprobe.probes.mhca import fold_keys
from iceprobe.probes.pooling import QueryPooling, TokenStats, check_divides, slice_values


class CAE(FoldedKeys, QueryPooling):
    """CAE's probe with M heads; raises `IceprobeError` if M doesn't divide D."""

    layer_norm = 1e-5
    additive = True
    token_norms = ("norm_k", "norm_v")
    fold_only = ("query", "norm_q", "norm_k", "q", "k")

    def __init__(self, dim: int, heads: int = 8):
        super().__init__(dim, heads)
        check_divides("cae", heads, dim=dim)
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.norm_q = nn.LayerNorm(dim, eps=1e-5)
        self.norm_k = nn.LayerNorm(dim, eps=self.layer_norm)
        self.norm_v = nn.LayerNorm(dim, eps=self.layer_norm)
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def fold(self) -> Tensor:
        query = self.q(self.norm_q(self.query))
        return fold_norm(fold_keys(query, self.k.weight, self.num_predictors), self.norm_k)

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        return self.proj(slice_values(self.v.weight, apply_norm(pooled, self.norm_v)))

    def macs(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.num_predictors * self.out_dim + 2 * self.out_dim**2
