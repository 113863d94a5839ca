"""CAE's attentive probe: cross-attention with a LayerNorm of its own for query, keys and values.

    q = W_Q LN_q(q₀)      a_j = softmax_N(LN_k(X) W_Kjᵀ q_j / √(D/M))
    y_j = W_Vj LN_v(X) a_j      y = W_O [y_1 … y_M] + b_O

LN ε 1e-5; q₀ starts at zero, and attention uniform with it; no residual, no MLP. Chen et al.,
"Context Autoencoder for Self-Supervised Representation Learning". The published code carries a
fourth LN that nothing reads (2D parameters): it is left out.

Keys and their LN are folded into the query in every forward; LN_v is applied after pooling.
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.folding import FoldedKeys
from iceprobe.probes.layer_norm import apply_norm, center, fold_norm
from iceprobe.probes.mhca import fold_keys
from iceprobe.probes.pooling import QueryPooling, TokenStats, check_divides, slice_values


class CAE(FoldedKeys, QueryPooling):
    """CAE's probe with M heads.

    Args:
        dim: D, width of the tokens and of the descriptor.
        heads: M; divides D.

    Raises:
        IceprobeError: if it doesn't.
    """

    layer_norm = 1e-5
    token_norms = ("norm_k", "norm_v")

    def __init__(self, dim: int, heads: int = 8):
        super().__init__()
        check_divides("cae", heads, dim=dim)
        self.out_dim = dim
        self.num_predictors = heads
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.norm_q = nn.LayerNorm(dim, eps=1e-5)
        self.norm_k = nn.LayerNorm(dim, eps=self.layer_norm)
        self.norm_v = nn.LayerNorm(dim, eps=self.layer_norm)
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def fold(self) -> Tensor:
        query = self.q(self.norm_q(self.query))
        return fold_norm(fold_keys(query, self.k.weight, self.num_predictors), self.norm_k)

    def fold_macs(self) -> int:
        return 2 * self.out_dim**2

    def drop_keys(self) -> None:
        del self.query, self.norm_q, self.norm_k, self.q, self.k

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        return center(self.folded_queries())

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        return self.proj(slice_values(self.v.weight, apply_norm(pooled, self.norm_v)))

    def macs(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.num_predictors * self.out_dim + 2 * self.out_dim**2
