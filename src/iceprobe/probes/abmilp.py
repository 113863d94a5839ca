"""Attention-based multiple-instance learning pooling (ABMILP).

    a = softmax_N(w₂ᵀ tanh(W₁ X + b₁) + b₂)      y = Xᵀ a

One predictor; the values are the tokens themselves. ``gated=True`` multiplies what the tanh gives by a gate,

    a = softmax_N(w₂ᵀ (tanh(W₁ X + b₁) ⊙ σ(W_g X + b_g)) + b₂)

since a tanh alone is nearly linear around 0; L, the rows of W₁ and W_g, is D here and 128 there (``hidden=128``).
``depth=1`` scores by a single linear map, wᵀX + b. ``self_attention=True`` scores and pools the output of a self-attention over the tokens (one
head, qkv without bias, projection with bias). Przewięźlikowski et al., "Beyond [cls]: Exploring the
True Potential of Masked Image Modeling Representations"; Ilse et al., "Attention-based Deep
Multiple Instance Learning".
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.evidence import linear_evidence
from iceprobe.probes.masks import only_scores
from iceprobe.probes.pooling import AttentivePooling, Pooling, QueryPooling, TokenStats

# With 1, tokens of deviation 1 leave the linear range of tanh (docs/coordinates.md).
TANH_UNIT = 0.1


def abmilp(
    dim: int,
    depth: int = 2,
    self_attention: bool = False,
    gated: bool = False,
    hidden: int | None = None,
) -> Pooling:
    """ABMILP; a linear scorer on the tokens themselves is a query like any other.

    Args:
        dim: D, width of the tokens and of the descriptor.
        depth: 2 for Linear–tanh–Linear scores, 1 for a single Linear.
        self_attention: one-head self-attention before scoring and pooling.
        gated: a gate on the hidden layer.
        hidden: L, width of the hidden layer, by default D.

    Raises:
        IceprobeError: if a hidden layer is asked for that depth 1 doesn't have.
    """
    if depth == 1 and (gated or hidden):
        raise IceprobeError(
            f"abmilp: depth=1 scores by a single map, without the hidden layer of "
            f"{'gated=true' if gated else f'hidden={hidden}'}: leave one of the two out"
        )
    if depth == 1 and not self_attention:
        return LinearABMILP(dim)
    return ABMILP(dim, depth, self_attention, gated, hidden)


class LinearABMILP(QueryPooling):
    """ABMILP with one linear scorer, whose weight is the query."""

    num_predictors = 1
    refusal = "its scorer is a free query already"
    linear_in_tokens = own_values = additive = True
    token_maps = ("scorer",)

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim
        self.scorer = nn.Linear(dim, 1)

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        # The bias cancels in the softmax. It keeps a gradient, which is zero, so that optimisers
        # treat it like that of the published probe.
        return self.scorer.weight + 0 * self.scorer.bias

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        return pooled.squeeze(-2)

    def macs(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.out_dim


class ABMILP(AttentivePooling):
    """ABMILP with a tanh before the scorer, or self-attention; see `abmilp`."""

    num_predictors = 1
    refusal = "its values are the tokens and its scorer is no query over keys"
    linear_in_tokens = additive = True

    def __init__(
        self,
        dim: int,
        depth: int = 2,
        self_attention: bool = False,
        gated: bool = False,
        hidden: int | None = None,
    ):
        super().__init__()
        self.out_dim = dim
        width = hidden or dim
        self.mix = SelfAttention(dim) if self_attention else None
        self.hidden = nn.Linear(dim, width) if depth == 2 else None
        self.scorer = nn.Linear(width, 1)
        self.gate = nn.Linear(dim, width) if gated else None
        first = ("scorer",) if self.hidden is None else ("hidden",) + ("gate",) * gated
        self.token_maps = first if self.mix is None else ("mix.qkv",)
        self.own_values = self.mix is None
        if self.mix is None and self.hidden is not None:
            self.units = {f"{name}.weight": TANH_UNIT for name in first}

    def prepare(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = super().prepare(tokens, mask)
        return tokens if self.mix is None else self.mix(tokens, mask)

    def scores(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = tokens if self.hidden is None else torch.tanh(self.hidden(tokens))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(tokens))
        return self.scorer(hidden).mT

    def values(self, pooled: Tensor) -> Tensor:
        return pooled.squeeze(1)

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Through the self-attention, which is linear in its values as well: a token's weight is a S."""
        if self.mix is None:
            return super().evidence(tokens, directions, centre, mask)
        mix, tokens = self.mix, super().prepare(tokens, mask)
        weights = self.attention(tokens, mask) @ mix.weights(tokens, mask)
        value = mix.qkv.weight[-self.out_dim :]
        return linear_evidence(
            lambda pooled: mix.proj(pooled[:, 0] @ value.mT),
            weights,
            tokens,
            directions,
            centre,
            mask=mask,
        )

    def macs(self, num_tokens: int) -> int:
        n, d = num_tokens, self.out_dim
        mix = 0 if self.mix is None else 4 * n * d * d + 2 * n * n * d
        maps = [layer for layer in (self.hidden, self.gate) if layer is not None]
        hidden = n * sum(layer.weight.numel() for layer in maps)
        return mix + hidden + n * self.scorer.in_features + n * d


class SelfAttention(nn.Module):
    """One-head self-attention, ``(B, N, D)`` → ``(B, N, D)``; padding is finite and no key."""

    def __init__(self, dim: int):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(tokens).chunk(3, -1)
        keys = None if mask is None else mask[:, None]
        return self.proj(F.scaled_dot_product_attention(q, k, v, keys))

    def weights(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """S, how much each token takes of every other, ``(B, N, N)``."""
        q, k, _ = self.qkv(tokens).chunk(3, -1)
        return torch.softmax(only_scores(q @ k.mT * q.shape[-1] ** -0.5, mask), -1)
