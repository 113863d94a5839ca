"""CoCa's attentional pooler.

    q = W_Q LN(l)      a_j = softmax_N(X W_Kᵀ q_j / 8)      y_j = W_V X a_j      y = W_O [y_1 … y_M]

M query heads of 64 channels share one key and value head of 64; LN has a weight and no bias, ε
1e-5; no biases elsewhere. Yu et al., "CoCa: Contrastive Captioners are Image-Text Foundation
Models". The published probe stores 196 queries l_i and uses the first: the other 195 get no
gradient (1,036,032 parameters at D = 768). They lengthen LARS's step for the first, since its trust
ratio uses the norm of all. Here there is one; ``queries=196`` is the published probe.

The shared keys are folded into the queries in every forward pass.
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.folding import FoldedKeys
from iceprobe.probes.pooling import QueryPooling, TokenStats

HEAD_WIDTH = 64


class CoCa(FoldedKeys, QueryPooling):
    """CoCa's pooler with M query heads.

    Args:
        dim: D, width of the tokens and of the descriptor.
        heads: M, any number, of 64 channels each.
        queries: stored, of which only the first is used.
    """

    linear_in_tokens = additive = True
    token_maps = ("kv",)
    fold_only = ("query", "norm", "q")

    def __init__(self, dim: int, heads: int = 8, queries: int = 1):
        super().__init__(dim, heads)
        width = heads * HEAD_WIDTH
        self.query = nn.Parameter(torch.empty(queries, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-5, bias=False)
        self.q = nn.Linear(dim, width, bias=False)
        self.kv = nn.Linear(dim, 2 * HEAD_WIDTH, bias=False)
        self.proj = nn.Linear(width, dim, bias=False)
        nn.init.normal_(self.query)

    def fold(self) -> Tensor:
        heads = self.q(self.norm(self.query)[:1]).unflatten(1, (self.num_predictors, -1))[0]
        return heads @ self.kv.weight[:HEAD_WIDTH] * HEAD_WIDTH**-0.5

    def fold_macs(self) -> int:
        return 2 * self.num_predictors * HEAD_WIDTH * self.out_dim

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        # One product for all images and heads: under vmap over members, a batched one would copy
        # the weights for every image.
        heads = pooled.flatten(0, -2) @ self.kv.weight[-HEAD_WIDTH:].mT
        return self.proj(heads.view(*pooled.shape[:-2], -1))

    def macs(self, num_tokens: int) -> int:
        heads = self.num_predictors * self.out_dim
        return 2 * num_tokens * heads + 2 * heads * HEAD_WIDTH
