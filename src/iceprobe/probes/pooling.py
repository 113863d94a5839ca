"""The one framework: predictors that weigh tokens, and a value map over what they gathered.

    a_j = normalise(score_j(X))      p_j = Xᵀ a_j      y_j = W_Vj p_j      y = [y_1 … y_M]

Tokens are pooled first and projected after: ``W_Vj (Xᵀ a_j)`` is ``(W_Vj X) a_j`` since W_V is
linear, and costs a fraction of it. A probe says what its scores and its values are
(`AttentivePooling`; out of ready pieces, `iceprobe.probes.framework`). Where scores are linear in
the tokens, score_j(X) = X u_j, it says its queries (`QueryPooling`), and `attend` is shared by all
of them, so a fit can lay the queries of many members side by side.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.products import linears
from iceprobe.machine.shared_batches import BatchShare, part_of_batch
from iceprobe.probes.attend import attend, log_attention
from iceprobe.probes.layer_norm import token_rstd


class TokenStats(NamedTuple):
    """Statistics of the tokens over batch and positions, for poolings that normalise them.

    Attributes:
        mean: ``(D,)``.
        variance: ``(D,)``, biased where it was measured on a batch.
        rstd: ``(D,)``, 1/√(variance + ε).
        num_tokens: tokens behind the statistics; 0 where they are running ones.
    """

    mean: Tensor
    variance: Tensor
    rstd: Tensor
    num_tokens: int


class Pooling(nn.Module):
    """Tokens → descriptor.

    Attributes:
        out_dim: D_o.
        num_predictors: M; 0 where there is no learned attention.
        normalised: whether each predictor's weights sum to 1 over its keys.
        norms_whole: whether BatchNorms of its own are called through `batch_norm`, which takes
            the whole batch where several processes share one.
        linear_in_tokens: whether it does nothing to the tokens but what `token_maps` do, attention apart.
        token_maps: names of the linear maps, modules or parameters, that meet the tokens.
        token_norms: names of the LayerNorms with affine that meet them.
        units: name of a weight that meets them → how much of it one unit of what is learned is.
        own_values: whether its descriptors are in the tokens' own coordinates.
    """

    norms_whole: ClassVar[bool] = False
    linear_in_tokens: bool = False
    token_maps: tuple[str, ...] = ()
    token_norms: tuple[str, ...] = ()
    units: Mapping[str, float] = {}
    own_values: bool = False
    out_dim: int
    num_predictors: int = 0
    normalised: bool = True
    refusal: ClassVar[str] = "it has no keys"

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, D)`` → ``(B, D_o)``."""
        raise NotImplementedError

    def attention(self, tokens: Tensor) -> Tensor:
        """Weights ``(B, M, N)`` of the tokens.

        Raises:
            IceprobeError: where the pooling has no learned attention.
        """
        raise IceprobeError(f"{type(self).__name__} has no attention: look at ep, mhca or aim")

    def prefix_attention(self, tokens: Tensor) -> Tensor:
        """Weights ``(B, M, P)`` of keys that the pooling adds to the tokens itself.

        A learned class token or the mean token; together with `attention` they sum to 1 where the
        pooling is ``normalised``. Prefix tokens that the caller puts among the tokens are tokens.
        """
        return tokens.new_zeros(tokens.shape[0], self.num_predictors, 0)

    def macs(self, num_tokens: int) -> int:
        """Multiply–adds per image at inference, pooling only, matrix products only."""
        raise NotImplementedError

    def macs_per_step(self) -> int:
        """Multiply–adds done once per step whatever the batch: folding keys into queries."""
        return 0

    def absorbed(self) -> "Pooling":
        """The same function without W_K; see `absorb`."""
        raise IceprobeError(f"{type(self).__name__} can't be absorbed: {self.refusal}")


class AttentivePooling(Pooling):
    """The framework as an equation: ``y = values(normalise(scores(X)) X)``.

    A probe says `scores` and `values`, and what else differs from the plain case.
    """

    def prepare(self, tokens: Tensor) -> Tensor:
        """The tokens as they are scored and pooled, ``(B, N, D)``; here in the parameters' dtype."""
        return tokens.to(next(self.parameters(), tokens).dtype)

    def scores(self, tokens: Tensor) -> Tensor:
        """Prepared tokens ``(B, N, D)`` → ``(B, M, N)``."""
        raise NotImplementedError

    def normalise(self, scores: Tensor) -> Tensor:
        """Scores → weights, both ``(B, M, N)``; here a softmax over tokens."""
        return torch.softmax(scores, -1)

    def values(self, pooled: Tensor) -> Tensor:
        """Pooled tokens ``(B, M, D)`` → ``(B, D_o)``."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.prepare(tokens)
        return self.values(self.normalise(self.scores(tokens)) @ tokens)

    def attention(self, tokens: Tensor) -> Tensor:
        return self.normalise(self.scores(self.prepare(tokens)))


class QueryPooling(AttentivePooling):
    """A pooling whose scores are linear in the tokens, ``score_j(X) = X u_j``, under a softmax.

    The tokens are raw or seen through a LayerNorm.

    `queries` and `values` are pure functions of parameters and arguments, and batch under
    `torch.func.vmap` with a leading member axis on the parameters.

    Attributes:
        layer_norm: ε of the LayerNorm in front of keys and values, ``None`` where there is none.
            `queries` and `values` take it in by `fold_norm` and `apply_norm`.
    """

    layer_norm: ClassVar[float | None] = None

    def token_stats(self, tokens: Tensor) -> TokenStats | None:
        """Statistics that `queries` and `values` need, the same for all members of a batch."""
        return None

    def update_stats(self, stats: TokenStats) -> None:
        """Take the statistics of a training batch into the running ones."""

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        """u_j, ``(M, D)``, softmax scale and token statistics folded in."""
        raise NotImplementedError

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        """Pooled tokens ``(B, M, D)`` → ``(B, D_o)``."""
        raise NotImplementedError

    def prepare(self, tokens: Tensor) -> Tensor:
        tokens, rstd = super().prepare(tokens), self.token_rstd(tokens)
        return tokens if rstd is None else tokens * rstd[..., None].to(tokens.dtype)

    def scores(self, tokens: Tensor) -> Tensor:
        return self.queries(self.token_stats(tokens)) @ tokens.mT

    def forward(self, tokens: Tensor) -> Tensor:
        """What the framework says, by the product that all queries share."""
        stats = self.token_stats(tokens)
        if stats is not None and self.training:
            self.update_stats(stats)
        return self.values(attend(tokens, self.queries(stats), self.token_rstd(tokens)), stats)

    def log_attention(self, tokens: Tensor) -> Tensor:
        """ln of the weights ``(B, M, N)``, with gradient, for losses that read the attention."""
        queries = self.queries(self.token_stats(tokens))
        return log_attention(tokens, queries, self.token_rstd(tokens))

    def token_rstd(self, tokens: Tensor) -> Tensor | None:
        """r, ``(B, N)``, of the LayerNorm in front of keys and values, if there is one."""
        return None if self.layer_norm is None else token_rstd(tokens, self.layer_norm)


def absorb(pooling: Pooling) -> Pooling:
    """The same function with the keys absorbed into free queries: fewer parameters, no W_K.

    Raises:
        IceprobeError: where that isn't possible, with the reason.
    """
    return pooling.absorbed()


def slice_values(weight: Tensor, pooled: Tensor) -> Tensor:
    """The value map: predictor j's slice of W_V on what predictor j pooled.

    Args:
        weight: W_V, ``(D_o, D)``.
        pooled: ``(B, M, D)``.

    Returns:
        ``(B, D_o)``.
    """
    num_predictors = pooled.shape[1]
    slices = weight.unflatten(0, (num_predictors, -1))
    return linears(pooled.transpose(0, 1), slices).transpose(0, 1).flatten(1)


def take_slices(pooled: Tensor) -> Tensor:
    """The value map without W_V: slice j of what predictor j pooled, ``(B, M, D)`` → ``(B, D)``."""
    slices = pooled.unflatten(-1, (pooled.shape[-2], -1))
    return slices.diagonal(dim1=-3, dim2=-2).mT.flatten(-2)


def check_divides(name: str, number: int, **widths: int) -> None:
    """Refuse a number of predictors that doesn't divide each of ``widths``.

    Raises:
        IceprobeError: with the nearest number that does.
    """
    for key, width in widths.items():
        if width % number:
            common = math.gcd(*widths.values())
            valid = (m for m in range(1, common + 1) if common % m == 0)
            nearest = min(valid, key=lambda m: (abs(m - number), -m))
            raise IceprobeError(
                f"{name}{number}: {number} does not divide {key}={width}; the nearest that does is "
                f"{name}{nearest}"
            )


def batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, inputs: Tensor, remember: bool) -> Tensor:
    """``norm(inputs)``; in training its running statistics take the batch in only if ``remember``.

    Where several processes share the batch, statistics are those of the whole of it.
    """
    part = part_of_batch()
    if part is not None and norm.training:
        return _norm_whole(norm, inputs, remember, part)
    if remember or not norm.training:
        return norm(inputs)
    return F.batch_norm(inputs, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def _norm_whole(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, inputs: Tensor, remember: bool, part: BatchShare
) -> Tensor:
    """Training mode, by statistics of the whole batch that ``inputs`` are a part of."""
    over = [d for d in range(inputs.ndim) if d != 1]
    shape = [1 if d in over else -1 for d in range(inputs.ndim)]
    wide = inputs.to(norm.weight.dtype)
    variance, mean = torch.var_mean(wide, over, correction=0)
    mean, variance = part.moments(mean, variance)
    if remember:
        count = part.count(inputs.numel() // inputs.shape[1])
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum or 0.1)  # type: ignore[union-attr]
            unbiased = variance * (count / max(1, count - 1))
            norm.running_var.lerp_(unbiased, norm.momentum or 0.1)  # type: ignore[union-attr]
            norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    scale = (variance + norm.eps).rsqrt() * norm.weight
    centred = wide - mean.view(shape)
    return (centred * scale.view(shape) + norm.bias.view(shape)).to(inputs.dtype)


def check_grid(name: str, tokens: Tensor, grid: tuple[int, int]) -> None:
    """Refuse tokens that aren't one a cell of the grid.

    Raises:
        IceprobeError: with both numbers.
    """
    rows, columns = grid
    if tokens.shape[1] != rows * columns:
        raise IceprobeError(
            f"{name} was built for a grid of {rows}x{columns} and got {tokens.shape[1]} tokens: "
            f"give it the {rows * columns} patch tokens, or build it with their grid"
        )
