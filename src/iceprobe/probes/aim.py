"""The attentive probe of AIM.

    X̂ = BatchNorm(X)      a_j = softmax_N(X̂ W_Kjᵀ q_j / √(D/M))      y_j = W_Vj X̂ a_j

BatchNorm over batch and tokens, without affine, ε = 1e-6; W_K and W_V without bias, one learned
query, no output projection. El-Nouby et al., "Scalable Pre-training of Large Autoregressive
Image Models".

No token is normalised or projected. With the batch norm's μ and r = 1/σ and the folded query u_j,
X̂ u_j = X (u_j ⊙ r) − μᵀ(u_j ⊙ r), whose last term cancels in the softmax; and
X̂ᵀ a_j = (Xᵀ a_j − μ) ⊙ r since a_j sums to 1.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from iceprobe.machine.shared_batches import Moments, merged, moments_of_all, part_of_batch
from iceprobe.probes.coordinates import Coordinates
from iceprobe.probes.mhca import fold_keys
from iceprobe.probes.pooling import QueryPooling, TokenStats, check_divides, slice_values

EPSILON, MOMENTUM = 1e-6, 0.1  # of the token batch norm


class NormalisedTokens(QueryPooling):
    """Pooling of batch-normalised tokens by M = ``heads`` queries in normalised coordinates.

    Raises `IceprobeError` if M doesn't divide D.
    """

    linear_in_tokens = True
    additive = own_slices = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, heads: int):
        super().__init__()
        check_divides("aim", heads, dim=dim)
        self.out_dim, self.num_predictors = dim, heads
        self.value = nn.Linear(dim, dim, bias=False)
        self.epsilon: Tensor | float = EPSILON  # differs in other coordinates
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def normalised_queries(self) -> Tensor:
        """u_j, ``(M, D)``, scale included, for normalised tokens."""
        raise NotImplementedError

    def read_by(self) -> list[Tensor]:
        """The weights that multiply normalised tokens, ``(…, D)`` each."""
        raise NotImplementedError

    def token_stats_of(self, pieces: Iterable[tuple[Tensor, Tensor | None]]) -> TokenStats:
        """Statistics of the batch in training, running ones in evaluation."""
        if not self.training:
            return self._running_stats()
        count, mean, variance = merged(
            [batch_statistics(tokens, self.running_mean, mask) for tokens, mask in pieces]
        )
        if part_of_batch() is not None:
            count, mean, variance = moments_of_all(Moments(count, mean, variance))
        return TokenStats(mean, variance, (variance + self.epsilon).rsqrt(), count)

    @torch.no_grad()
    def update_stats(self, stats: TokenStats) -> None:
        unbiased = stats.variance * (stats.num_tokens / max(stats.num_tokens - 1, 1))
        self.running_mean.lerp_(stats.mean, MOMENTUM)
        self.running_var.lerp_(unbiased, MOMENTUM)

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        return self.normalised_queries() * (stats or self._running_stats()).rstd

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        stats = stats or self._running_stats()
        return slice_values(self.value.weight, (pooled - stats.mean) * stats.rstd)

    @torch.no_grad()
    def enter_coordinates(self, at: Coordinates) -> None:
        """Normalise as if the tokens were in ``at``: set ε and the initial running statistics."""
        self.epsilon = EPSILON * at.std.square()
        self.running_mean.copy_(at.mean)
        self.running_var.copy_(at.std.square())

    @torch.no_grad()
    def leave_coordinates(self) -> None:
        """Return to the published ε; the weights absorb the difference in evaluation."""
        before, self.epsilon = self._running_stats().rstd, EPSILON
        ratio = before / self._running_stats().rstd
        for weight in self.read_by():
            weight.mul_(ratio)

    def _running_stats(self) -> TokenStats:
        rstd = (self.running_var + self.epsilon).rsqrt()
        return TokenStats(self.running_mean, self.running_var, rstd, 0)

    def macs(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.num_predictors * self.out_dim + self.out_dim**2


class AIM(NormalisedTokens):
    """AIM's probe with M heads; keys are folded into the query in every forward pass."""

    def __init__(self, dim: int, heads: int = 12):
        super().__init__(dim, heads)
        self.query = nn.Parameter(torch.empty(1, dim))  # 2-D, so that LARS scales it
        self.key = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.query, std=0.02)

    def normalised_queries(self) -> Tensor:
        return fold_keys(self.query, self.key.weight, self.num_predictors)

    def read_by(self) -> list[Tensor]:
        return [self.key.weight, self.value.weight]

    def macs_per_step(self) -> int:
        return self.key.weight.numel()

    def absorbed(self) -> "AbsorbedAIM":
        """The same function, batch statistics in training and running ones in evaluation."""
        pooling = AbsorbedAIM(self.out_dim, self.num_predictors)
        pooling.to(self.value.weight).train(self.training)
        state = {key: t for key, t in self.state_dict().items() if key != "key.weight"}
        pooling.load_state_dict({**state, "query": self.normalised_queries().detach()})
        return pooling


class AbsorbedAIM(NormalisedTokens):
    """AIM without W_K: M free queries u_j ∈ R^D in normalised coordinates, scale included."""

    refusal = "its keys are absorbed already"

    def __init__(self, dim: int, heads: int = 12):
        super().__init__(dim, heads)
        self.query = nn.Parameter(torch.empty(heads, dim))
        nn.init.normal_(self.query, std=0.02 * dim**-0.5)

    def normalised_queries(self) -> Tensor:
        return self.query

    def read_by(self) -> list[Tensor]:
        return [self.query, self.value.weight]


def batch_statistics(tokens: Tensor, like: Tensor, mask: Tensor | None = None) -> Moments:
    """Moments over batch and positions, ``(D,)``, in the dtype of ``like``.

    Without gradients by the reduction of torch's own batch norm: one pass, 3 ms against 55 by
    `torch.var_mean` (B=64, N=196, D=768, float32, one core).
    """
    rows = tokens.flatten(0, 1) if mask is None else tokens[mask]
    if tokens.requires_grad and torch.is_grad_enabled():
        variance, mean = torch.var_mean(rows.to(like.dtype), 0, correction=0)
        return Moments(len(rows), mean, variance)
    # It accumulates in the dtype of the running statistics, which aren't used here.
    wide = torch.promote_types(rows.dtype, torch.float32)
    mean, variance = like.new_zeros(len(like), dtype=wide), like.new_ones(len(like), dtype=wide)
    mean, variance = torch.batch_norm_update_stats(rows, mean, variance, 0.0)
    return Moments(len(rows), mean.to(like.dtype), variance.to(like.dtype))
