"""Dual-stream multiple-instance learning (DSMIL).

    c_nj = w_jᵀ x_n + b_j      m_j = argmax_n c_nj      q_n = W_Q x_n + b_Q ∈ R^A
    a_j = softmax_n(q_nᵀ q_{m_j} / √A)      y = [Xᵀ a_1 … Xᵀ a_M, c_{m_1 1} … c_{m_M M}]

One stream scores instances and takes the highest, the critical instance; the other pools all tokens by their
attention to it. Li, Li and Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image
Classification with Self-supervised Contrastive Learning". A is 128 there. In the framework both streams are
predictors: M weigh by a softmax, M more give all weight to one token, and what those pool is read by w_j.

What differs from the publication. There M = C, the mean ½(c_{m_k k} + bag score of class k) is class k's
output, and each stream has a loss of its own. Here M is free and the classifier, which reads both streams,
weighs them by one loss: with M = C the published output is among those that it can learn. The published
W_V is left out, since the classifier behind it is linear; the authors' code has a ReLU in q, the paper hasn't.
"""

from torch import Tensor, cat, nn, zeros_like

from iceprobe.probes.masks import only_scores
from iceprobe.probes.pooling import AttentivePooling


class DSMIL(AttentivePooling):
    """DSMIL's two streams.

    Args:
        dim: D, width of the tokens. The descriptor has M·D + M numbers.
        queries: M, critical instances.
        attn_dim: A, width of the q_n.
    """

    additive = True
    token_maps = ("instance", "q")
    refusal = "its queries are tokens of the example itself"

    def __init__(self, dim: int, queries: int = 1, attn_dim: int = 128):
        super().__init__()
        self.dim, self.queries = dim, queries
        self.out_dim, self.num_predictors = queries * (dim + 1), 2 * queries
        self.instance = nn.Linear(dim, queries)
        self.q = nn.Linear(dim, attn_dim)

    def scores(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of the attention to critical instances, and c: ``(B, 2·M, N)``."""
        instances = self.instance(tokens).mT
        best = only_scores(instances, mask).argmax(-1, keepdim=True)
        critical = tokens.gather(1, best.expand(-1, -1, self.dim))
        # W_Qᵀ q_m: one query for each critical instance in place of q_n of every token; b_Q cancels.
        queries = self.q(critical) @ self.q.weight * self.q.out_features**-0.5
        return cat([queries @ tokens.mT, instances], 1)

    def normalise(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """A softmax over tokens for M predictors; for M more, 1 at the highest score."""
        attention, instances = only_scores(scores, mask).chunk(2, 1)
        best = instances.argmax(-1, keepdim=True)
        highest = zeros_like(attention).scatter(-1, best, 1.0)
        return cat([attention.softmax(-1), highest], 1)

    def values(self, pooled: Tensor) -> Tensor:
        bags, critical = pooled.chunk(2, 1)
        highest = (critical * self.instance.weight).sum(-1) + self.instance.bias
        return cat([bags.flatten(1), highest], 1)

    def macs(self, num_tokens: int) -> int:
        of_tokens = 4 * num_tokens * self.queries * self.dim
        return of_tokens + 2 * self.queries * self.dim * self.q.out_features
