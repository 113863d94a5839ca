"""Multi-head cross-attention (MHCA) with one learned query: the paper's reference.

    a_j = softmax_N(X W_Kjᵀ q_j / √(D_a/M))      y_j = W_Vj X a_j      y = [y_1 … y_M]

W_K ∈ R^{D_a×D} and W_V ∈ R^{D_o×D} without bias, q ∈ R^{D_a} split into M heads, no output
projection. The keys are folded into the queries in every forward pass: u_j = W_Kjᵀ q_j / √(D_a/M)
costs D_a·D per step instead of N·D_a·D per image. Psomas et al., "Attention, Please!".
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.ep import EfficientProbing
from iceprobe.probes.pooling import QueryPooling, TokenStats, check_divides, slice_values


class MultiHeadCrossAttention(QueryPooling):
    """MHCA with M heads.

    Args:
        dim: D, width of the tokens.
        heads: M; an `IceprobeError` if it doesn't divide D_a and D_o.
        attn_dim: D_a, width of keys and query, by default D.
        out_dim: D_o, by default D.
    """

    linear_in_tokens = True
    additive = own_slices = True
    token_maps = ("key", "value")

    def __init__(
        self, dim: int, heads: int = 12, attn_dim: int | None = None, out_dim: int | None = None
    ):
        super().__init__()
        attn_dim = attn_dim or dim
        self.out_dim = out_dim or dim
        check_divides("mhca", heads, out_dim=self.out_dim, attn_dim=attn_dim)
        self.num_predictors = heads
        self.query = nn.Parameter(torch.empty(1, attn_dim))  # 2-D, so that LARS scales it
        self.key = nn.Linear(dim, attn_dim, bias=False)
        self.value = nn.Linear(dim, self.out_dim, bias=False)
        nn.init.normal_(self.query, std=0.02)

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        return fold_keys(self.query, self.key.weight, self.num_predictors)

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        return slice_values(self.value.weight, pooled)

    def macs(self, num_tokens: int) -> int:
        dim = self.key.in_features
        return 2 * num_tokens * self.num_predictors * dim + dim * self.out_dim

    def macs_per_step(self) -> int:
        return self.key.weight.numel()

    def absorbed(self) -> EfficientProbing:
        """EP with the same queries and values."""
        weight = self.value.weight
        pooling = EfficientProbing(self.key.in_features, self.num_predictors, self.out_dim)
        pooling.to(weight).train(self.training)
        query = (self.queries() / pooling.scale).detach()
        pooling.load_state_dict({"query": query, "value.weight": weight})
        return pooling


def fold_keys(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """q ``(1, D_a)``, W_K ``(D_a, D)`` → u_j = W_Kjᵀ q_j / √(D_a/M), ``(M, D)``."""
    q, k = query[0].unflatten(0, (heads, -1)), key.unflatten(0, (heads, -1))
    return torch.einsum("ma,mad->md", q, k) * q.shape[-1] ** -0.5
