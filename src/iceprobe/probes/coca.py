"""CoCa's attentional pooler.

    q = W_Q LN(l)      a_j = softmax_N(X W_Kᵀ q_j / 8)      y_j = W_V X a_j      y = W_O [y_1 … y_M]

M query heads of 64 channels over one key and value head of 64 that all of them share; LN has a
weight and no bias, ε 1e-5; no biases elsewhere. Yu et al., "CoCa: Contrastive Captioners are
Image-Text Foundation Models". The published probe keeps 196 queries l_i and reads the first: the
other 195 get no gradient (1,036,032 parameters at D = 768), and make LARS's step for the first
longer, whose trust ratio has the norm of all of them. Here there is one, and ``queries=196`` is the
published probe.

The shared keys are folded into the queries in every forward.
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.folding import FoldedKeys, value_rows
from iceprobe.probes.pooling import QueryPooling, TokenStats

HEAD_WIDTH = 64


class CoCa(FoldedKeys, QueryPooling):
    """CoCa's pooler with M query heads.

    Args:
        dim: D, width of the tokens and of the descriptor.
        heads: M, any number: heads have 64 channels whatever D is.
        queries: kept, of which the first is read.
    """

    linear_in_tokens = True
    token_maps = ("kv",)

    def __init__(self, dim: int, heads: int = 8, queries: int = 1):
        super().__init__()
        width = heads * HEAD_WIDTH
        self.out_dim = dim
        self.num_predictors = heads
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

    def drop_keys(self) -> None:
        del self.query, self.norm, self.q
        self.kv = value_rows(self.kv, HEAD_WIDTH)

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        return self.folded_queries()

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        # One product for all images and heads: by image, each would get its copy of the weights
        # where members learn side by side.
        heads = pooled.flatten(0, -2) @ self.kv.weight[-HEAD_WIDTH:].mT
        return self.proj(heads.view(*pooled.shape[:-2], -1))

    def macs(self, num_tokens: int) -> int:
        heads = self.num_predictors * self.out_dim
        return 2 * num_tokens * heads + 2 * heads * HEAD_WIDTH
