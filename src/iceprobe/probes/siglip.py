"""SigLIP's pooling head: multi-head attention by one latent query (MAP), then an MLP.

    q = W_Q l + b_Q      a_j = softmax_N(X W_Kjᵀ q_j / √(D/M))      y_j = W_Vj X a_j + b_Vj
    x = W_O [y_1 … y_M] + b_O      out = x + MLP(x)

No norm anywhere; the MLP is four times as wide, with GELU. Zhai et al., "Sigmoid Loss for Language
Image Pre-Training"; timm's ``AttentionPoolLatent``, whose latent starts as D^-1/2 times a normal
cut at ±2 deviations (deviation 0.88 D^-1/2).

Keys are folded into the query in every forward pass; their bias cancels in the softmax.
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.folding import FoldedKeys
from iceprobe.probes.mhca import fold_keys
from iceprobe.probes.pooling import QueryPooling, TokenStats, check_divides, slice_values


class SigLIP(FoldedKeys, QueryPooling):
    """SigLIP's head with M attention heads; raises `IceprobeError` if M doesn't divide D."""

    linear_in_tokens = True
    token_maps = ("kv",)
    fold_only = ("latent", "q")
    entangled = "an MLP stands behind what it pools, so its logits are no sums over tokens"

    def __init__(self, dim: int, heads: int = 8):
        super().__init__(dim, heads)
        check_divides("siglip", heads, dim=dim)
        self.latent = nn.Parameter(torch.empty(1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        nn.init.trunc_normal_(self.latent)  # of deviation 1, cut at ±2
        self.latent.detach().mul_(dim**-0.5)

    def fold(self) -> Tensor:
        query = self.q(self.latent)
        return fold_keys(query, self.kv.weight[: self.out_dim], self.num_predictors)

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        weight, bias = self.kv.weight[-self.out_dim :], self.kv.bias[-self.out_dim :]
        x = self.proj(slice_values(weight, pooled) + bias)
        return x + self.mlp(x)

    def macs(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.num_predictors * self.out_dim + 10 * self.out_dim**2
