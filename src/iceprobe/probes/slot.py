"""Slot attention: M slots compete for the tokens in T iterations.

    k = W_k LN(X)      v = W_v LN(X)      s_j ← learned
    T times:  w = softmax over slots of k (W_q LN s_j)/√D, + 1e-8, divided by its sum over tokens
              s_j ← GRU(Σ_n w_jn v_n, s_j)      s_j ← s_j + MLP(LN s_j)
    y = mean_j s_j

The MLP has ratio 2 and a ReLU; LN ε = 1e-6. Every slot starts from its own learned vector instead
of a sample. Locatello et al., "Object-Centric Learning with Slot Attention". It is efficient
probing if T = 1, the softmax is over tokens, W_q is the identity, there are no norms, GRU and MLP,
and value slices are concatenated in place of the mean.
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.masks import only_scores, only_tokens
from iceprobe.probes.pooling import Pooling

EPSILON, MLP_RATIO = 1e-6, 2
FLOOR = 1e-8  # added to the weights: the sum of a slot without tokens isn't 0


class SlotAttention(Pooling):
    """Slot attention; the descriptor is the mean of the slots.

    Args:
        dim: D, width of tokens, slots and descriptor.
        queries: M, slots.
        iterations: T, rounds of competition.
    """

    refusal = "its queries are the slots, which every image changes in every iteration"
    token_norms = ("token_norm",)
    entangled = "a GRU and an MLP change what its slots gather"

    def __init__(self, dim: int, queries: int = 8, iterations: int = 3):
        super().__init__()
        self.out_dim, self.num_predictors, self.iterations = dim, queries, iterations
        self.slots = nn.Parameter(torch.empty(queries, dim))
        self.token_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.slot_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.query = nn.Linear(dim, dim, bias=False)
        self.gru = nn.GRUCell(dim, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim, eps=EPSILON),
            nn.Linear(dim, MLP_RATIO * dim),
            nn.ReLU(),
            nn.Linear(MLP_RATIO * dim, dim),
        )
        nn.init.normal_(self.slots, std=0.02)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._iterate(tokens, mask)[0].mean(1)

    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """w of the last iteration, ``(B, M, N)``; each slot's weights sum to 1."""
        return self._iterate(tokens, mask)[1]

    def scores(self, slots: Tensor, keys: Tensor) -> Tensor:
        """``(B, M, D)``, ``(B, N, D)`` → k (W_q LN s)/√D, ``(B, M, N)``."""
        return self.query(self.slot_norm(slots)) @ keys.mT * keys.shape[-1] ** -0.5

    def update(self, gathered: Tensor, slots: Tensor) -> Tensor:
        """Gathered values and slots, both ``(B, M, D)`` → the next slots."""
        after = self.gru(gathered.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return after + self.mlp(after)

    def _iterate(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Slots ``(B, M, D)`` and weights ``(B, M, N)`` of the last iteration."""
        tokens = self.token_norm(only_tokens(tokens, mask).to(self.slots.dtype))
        keys, values = self.key(tokens), self.value(tokens)
        slots = self.slots.repeat(tokens.shape[0], 1, 1)
        for _ in range(self.iterations):
            weights = compete(self.scores(slots, keys), mask)
            slots = self.update(weights @ values, slots)
        return slots, weights

    def macs(self, num_tokens: int) -> int:
        n, m, d = num_tokens, self.num_predictors, self.out_dim
        gru, mlp = 6 * m * d * d, 2 * MLP_RATIO * m * d * d
        return 2 * n * d * d + self.iterations * (m * d * d + 2 * n * m * d + gru + mlp)


def compete(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over slots, then each row ``(B, M, N)`` divided by its sum over tokens."""
    weights = only_scores(torch.softmax(scores, 1) + FLOOR, mask, 0.0)
    return weights / weights.sum(-1, keepdim=True)
