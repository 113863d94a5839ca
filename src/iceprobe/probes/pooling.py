"""The framework of all probes: predictors that weight tokens, and a value map of the pooled tokens.

    a_j = normalise(score_j(X))      p_j = Xᵀ a_j      y_j = W_Vj p_j      y = [y_1 … y_M]

Tokens are pooled before they are projected: ``W_Vj (Xᵀ a_j)`` equals ``(W_Vj X) a_j``, since W_V is
linear, at a fraction of the cost. A probe defines its scores and values (`AttentivePooling`; from
ready pieces, `iceprobe.probes.framework`). If scores are linear in the tokens, score_j(X) = X u_j,
it defines its queries (`QueryPooling`), and a fit computes those of many members in shared products
(`attend`).
"""

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.products import linears
from iceprobe.machine.shared_batches import Moments, moments_of_all, part_of_batch
from iceprobe.probes.attend import attend, log_attention
from iceprobe.probes.evidence import linear_evidence
from iceprobe.probes.layer_norm import token_rstd
from iceprobe.probes.masks import given, only_scores, only_tokens


class TokenStats(NamedTuple):
    """Statistics of the tokens over batch and positions, for poolings that normalise them."""

    mean: Tensor  # (D,)
    variance: Tensor  # (D,); of a batch, the biased one
    rstd: Tensor  # (D,), 1/√(variance + ε)
    num_tokens: int  # number of tokens measured; 0 for running statistics


class Pooling(nn.Module):
    """Tokens → descriptor.

    Attributes:
        out_dim: D_o.
        num_predictors: M; 0 without learned attention.
        normalised: whether each predictor's weights sum to 1 over its keys.
        norms_whole: whether its BatchNorms are called through `batch_norm`, which uses statistics
            of the whole batch if several processes share it.
        linear_in_tokens: whether `token_maps` and attention are all that it applies to the tokens.
        token_maps: names of the linear maps, modules or parameters, that are applied to the tokens.
        token_norms: names of the LayerNorms with affine that are applied to them.
        units: name of a weight of `token_maps` → its value for a learned value of 1.
        own_values: whether its descriptors are in the tokens' own coordinates.
        refusal: why it can't be absorbed, for the error.
        additive: whether the descriptor is a sum over tokens once the attention is given (`evidence`).
        own_slices: whether the j-th of M slices of the descriptor is of predictor j alone.
        entangled: why the descriptor is no such sum, for the error.
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
    additive: bool = False
    own_slices: bool = False
    entangled: ClassVar[str] = "nothing says that its descriptor is a sum over tokens"

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, N, D)`` → ``(B, D_o)``; ``mask``, ``(B, N)`` bool, says which rows are tokens."""
        raise NotImplementedError

    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights ``(B, M, N)`` of the tokens, 0 in padding.

        Raises:
            IceprobeError: if the pooling has no learned attention.
        """
        raise IceprobeError(f"{type(self).__name__} has no attention: look at ep, mhca or aim")

    def prefix_attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights ``(B, M, P)`` of keys that the pooling itself adds: class token, mean token.

        Together with `attention` they sum to 1 if the pooling is ``normalised``. Prefix tokens of
        the backbone are tokens.
        """
        return tokens.new_zeros(tokens.shape[0], self.num_predictors, 0)

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """wᵀ(y − centre) of the descriptor y as a sum over tokens; see `iceprobe.probes.evidence`.

        Args:
            tokens: ``(B, N, D)``.
            directions: w, ``(K', D_o)`` or ``(B, K', D_o)``.
            centre: ``(D_o,)``.
            mask: ``(B, N)``.

        Returns:
            ``(B, K', N)``, 0 in padding.

        Raises:
            IceprobeError: unless the pooling is ``additive``.
        """
        raise IceprobeError(
            f"{type(self).__name__} has no evidence of single tokens: {self.entangled}; take ep, aim or "
            "mean_value"
        )

    def macs(self, num_tokens: int) -> int:
        """Multiply–adds per image at inference, of the pooling's matrix products."""
        raise NotImplementedError

    def macs_per_step(self) -> int:
        """Multiply–adds per step for any batch size: folding keys into queries."""
        return 0

    def absorbed(self) -> "Pooling":
        """The same function without W_K; see `absorb`."""
        raise IceprobeError(f"{type(self).__name__} can't be absorbed: {self.refusal}")


class AttentivePooling(Pooling):
    """The framework as an equation: ``y = values(normalise(scores(X)) X)``.

    A probe defines `scores` and `values`, and overrides what else differs.
    """

    def prepare(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens to score and pool, ``(B, N, D)``, finite in padding; here those in the parameters' dtype."""
        return only_tokens(tokens, mask).to(next(self.parameters(), tokens).dtype)

    def scores(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Prepared tokens ``(B, N, D)`` → ``(B, M, N)``, of padding anything."""
        raise NotImplementedError

    def normalise(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores → weights, both ``(B, M, N)``, 0 in padding; here a softmax over tokens."""
        return torch.softmax(only_scores(scores, mask), -1)

    def values(self, pooled: Tensor) -> Tensor:
        """Pooled tokens ``(B, M, D)`` → ``(B, D_o)``."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens, weights = self._weighted(tokens, mask)
        return self.values(weights @ tokens)

    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._weighted(tokens, mask)[1]

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        if not self.additive:
            return super().evidence(tokens, directions, centre)
        tokens, weights = self._weighted(tokens, mask)
        return linear_evidence(
            self.values,
            weights,
            tokens,
            directions,
            centre,
            own_slices=self.own_slices,
            normalised=self.normalised,
            mask=mask,
        )

    def _weighted(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prepared tokens ``(B, N, D)`` and their weights ``(B, M, N)``."""
        real = given(mask)
        tokens = self.prepare(tokens, *real)
        return tokens, self.normalise(self.scores(tokens, *real), *real)


class QueryPooling(AttentivePooling):
    """A pooling by a softmax of scores that are linear in the tokens, ``score_j(X) = X u_j``.

    `queries` and `values` are pure functions of parameters and arguments; under `torch.func.vmap`
    parameters have a leading member axis.

    Attributes:
        layer_norm: ε of the LayerNorm in front of keys and values, if there is one.
            `queries` and `values` include it by `fold_norm` and `apply_norm`.
    """

    layer_norm: ClassVar[float | None] = None

    def token_stats(self, tokens: Tensor, mask: Tensor | None = None) -> TokenStats | None:
        """Statistics that `queries` and `values` need, the same for all members."""
        return self.token_stats_of([(tokens, mask)])

    def token_stats_of(self, pieces: Iterable[tuple[Tensor, Tensor | None]]) -> TokenStats | None:
        """`token_stats` of one batch in several pieces, ``(B_i, N_i, D)`` with their masks."""
        return None

    def update_stats(self, stats: TokenStats) -> None:
        """Update the running statistics by those of a training batch."""

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        """u_j, ``(M, D)``, softmax scale and token statistics included."""
        raise NotImplementedError

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        """Pooled tokens ``(B, M, D)`` → ``(B, D_o)``."""
        raise NotImplementedError

    def prepare(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = only_tokens(tokens, mask)
        tokens, rstd = super().prepare(tokens), self.token_rstd(tokens)
        return tokens if rstd is None else tokens * rstd[..., None].to(tokens.dtype)

    def scores(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.queries(self.token_stats(tokens, mask)) @ tokens.mT

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The equation of the framework, computed by `attend`."""
        tokens = only_tokens(tokens, mask)
        stats = self.token_stats(tokens, mask)
        if stats is not None and self.training:
            self.update_stats(stats)
        pooled = attend(tokens, self.queries(stats), self.token_rstd(tokens), mask)
        return self.values(pooled, stats)

    def log_attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """ln of the weights ``(B, M, N)``, with gradient, for losses that read the attention.

        −∞ in padding.
        """
        tokens = only_tokens(tokens, mask)
        queries = self.queries(self.token_stats(tokens, mask))
        return log_attention(tokens, queries, self.token_rstd(tokens), mask)

    def token_rstd(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """r, ``(B, N)``, of the LayerNorm in front of keys and values, if there is one."""
        if self.layer_norm is None:
            return None
        return token_rstd(only_tokens(tokens, mask), self.layer_norm)


def absorb(pooling: Pooling) -> Pooling:
    """The same function with the keys absorbed into free queries: fewer parameters, no W_K.

    Raises:
        IceprobeError: with the reason, if that isn't possible.
    """
    return pooling.absorbed()


def slice_values(weight: Tensor, pooled: Tensor) -> Tensor:
    """Slice j of W_V ``(D_o, D)`` on what predictor j pooled, ``(B, M, D)`` → ``(B, D_o)``."""
    slices = weight.unflatten(0, (pooled.shape[1], -1))
    return linears(pooled.transpose(0, 1), slices).transpose(0, 1).flatten(1)


def take_slices(pooled: Tensor) -> Tensor:
    """Slice j of what predictor j pooled, ``(B, M, D)`` → ``(B, D)``: the value map without W_V."""
    slices = pooled.unflatten(-1, (pooled.shape[-2], -1))
    return slices.diagonal(dim1=-3, dim2=-2).mT.flatten(-2)


def check_divides(name: str, number: int, **widths: int) -> None:
    """Raise an `IceprobeError`, with the nearest valid number, unless it divides all widths."""
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
    """``norm(inputs)``; a training batch updates its running statistics only if ``remember``.

    If several processes share the batch, statistics are those of the whole batch.
    """
    if part_of_batch() is not None and norm.training:
        return _norm_whole(norm, inputs, remember)
    if remember or not norm.training:
        return norm(inputs)
    return F.batch_norm(inputs, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def _norm_whole(norm: nn.BatchNorm1d | nn.BatchNorm2d, inputs: Tensor, remember: bool) -> Tensor:
    """`batch_norm` in training, by statistics of the whole batch of which ``inputs`` are a part."""
    over = [d for d in range(inputs.ndim) if d != 1]
    shape = [1 if d in over else -1 for d in range(inputs.ndim)]
    wide = inputs.to(norm.weight.dtype)
    variance, mean = torch.var_mean(wide, over, correction=0)
    count, mean, variance = moments_of_all(
        Moments(inputs.numel() // inputs.shape[1], mean, variance)
    )
    if remember:
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum or 0.1)  # type: ignore[union-attr]
            unbiased = variance * (count / max(1, count - 1))
            norm.running_var.lerp_(unbiased, norm.momentum or 0.1)  # type: ignore[union-attr]
            norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    scale = (variance + norm.eps).rsqrt() * norm.weight
    centred = wide - mean.view(shape)
    return (centred * scale.view(shape) + norm.bias.view(shape)).to(inputs.dtype)


def check_grid(
    name: str, tokens: Tensor, mask: Tensor | None, grid: tuple[int, ...], why: str
) -> None:
    """Raise an `IceprobeError` unless there is one token per cell of the grid and no padding.

    ``why``: what the probe has of which there is one for each cell.
    """
    cells = math.prod(grid)
    if tokens.shape[1] != cells:
        raise IceprobeError(
            f"{name} was built for a grid of {'x'.join(map(str, grid))} and got {tokens.shape[1]} "
            f"tokens: give it the {cells} patch tokens, or build it with their grid"
        )
    if mask is not None:
        raise IceprobeError(
            f"{name} reads no mask: {why}; take a probe for tokens of any number, such as ep32"
        )
