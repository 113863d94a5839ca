"""The framework as pieces: four of them make a probe of your own.

    A = normalise(predictor(X)) ∈ R^{M×N}      y = block(value(A X))

=========  ==========================================  ============================================
piece      shapes                                      ready ones
=========  ==========================================  ============================================
predictor  ``(B, N, D)`` → scores ``(B, M, N)``        `Queries`
normalise  scores → weights, both ``(B, M, N)``        `NORMALISERS`
value      pooled ``(B, M, D)`` → ``(B, D_o)``         `VALUES`
block      ``(B, D_o)`` → ``(B, D_o)``                 none; the default is no block
=========  ==========================================  ============================================

Each is a function, or a module if it has parameters. In a batch of examples of several lengths padding is 0 for
a predictor and −∞ for a normaliser. A predictor whose score of one token depends on others takes an argument
``mask``, ``(B, N)`` bool, as well. ``ComposedPooling(Queries(dim, M), dim, M)`` is EP; EP's own class only lets many members share one product over the tokens.
"""

import copy
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.probes.masks import given, only_scores
from iceprobe.probes.pooling import (
    AttentivePooling,
    Pooling,
    check_divides,
    slice_values,
    take_slices,
)

Piece = Callable[[Tensor], Tensor]


class Queries(nn.Module):
    """Scores of M learned queries, ``score_j(X) = X u_j/√D``; u_j ~ N(0, 0.02²)."""

    def __init__(self, dim: int, queries: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(queries, dim))
        self.scale = dim**-0.5
        nn.init.normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.query * self.scale @ tokens.mT


class SliceValues(nn.Module):
    """W_V ``(D_o, D)`` without bias: slice j of it maps what predictor j pooled."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.weight = nn.Linear(dim, out_dim, bias=False).weight

    def forward(self, pooled: Tensor) -> Tensor:
        return slice_values(self.weight, pooled)


#: The axis of ``(B, M, N)`` over which weights sum to 1.
NORMALISERS: dict[str, Piece] = {
    "tokens": lambda scores: scores.softmax(-1),
    "predictors": lambda scores: scores.softmax(1),
    "sigmoid": torch.sigmoid,
    "none": lambda scores: scores,
}

#: ``linear`` is EP's W_V, ``identity`` its slices without W_V, ``mean`` the mean over predictors.
VALUES: dict[str, Callable[[int, int], Piece]] = {
    "linear": SliceValues,
    "identity": lambda dim, out_dim: take_slices,
    "mean": lambda dim, out_dim: lambda pooled: pooled.mean(1),
}


class ComposedPooling(AttentivePooling):
    """A pooling made of a predictor, a normaliser, a value map and an optional block.

    Args:
        predictor: tokens → scores.
        dim: D, width of the tokens.
        num_predictors: M, rows of the scores.
        normalise: a name of `NORMALISERS`, or a function.
        value: a name of `VALUES`, or a module or function of your own.
        out_dim: D_o, by default D.
        block: applied to the values, of width D_o.
        normalised: whether each predictor's weights sum to 1 over tokens. Known for the names; the
            default for your own function is that they don't.

    Raises:
        IceprobeError: for an unknown name, or if M doesn't divide a width that is sliced.
    """

    refusal = "it was composed, and nothing says that its predictor has keys"

    def __init__(
        self,
        predictor: Piece,
        dim: int,
        num_predictors: int,
        *,
        normalise: str | Piece = "tokens",
        value: str | Piece = "linear",
        out_dim: int | None = None,
        block: Piece | None = None,
        normalised: bool | None = None,
    ):
        super().__init__()
        self.dim, self.out_dim, self.num_predictors = dim, out_dim or dim, num_predictors
        self.normalised = normalise == "tokens" if normalised is None else normalised
        self.predictor = predictor
        self.normaliser = _named("normaliser", normalise, NORMALISERS)
        if value in ("linear", "identity"):
            check_divides("M=", num_predictors, out_dim=self.out_dim)
        if value in ("identity", "mean") and self.out_dim != dim:
            raise IceprobeError(
                f"value={value} gives {dim} numbers, the width of the tokens, and out_dim is "
                f"{self.out_dim}: leave out_dim out or take value=linear"
            )
        made = _named("value map", value, VALUES)
        self.value = made(dim, self.out_dim) if isinstance(value, str) else made
        self.additive = isinstance(value, str) and block is None  # of others nothing is known
        self.own_slices = value in ("linear", "identity")
        self.block = block

    def scores(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.predictor(tokens, *(given(mask) if takes_mask(self.predictor) else ()))

    def normalise(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """By the normaliser, for which scores of padding are −∞; whatever it makes of them is 0 after."""
        weights = self.normaliser(only_scores(scores, mask))
        return only_scores(weights, mask, 0.0)

    def values(self, pooled: Tensor) -> Tensor:
        descriptor = self.value(pooled)
        return descriptor if self.block is None else self.block(descriptor)

    def macs(self, num_tokens: int) -> int:
        return count_macs(self, self.dim, num_tokens)

    @torch.no_grad()
    def reads_padding(self) -> bool:
        """Whether scores of tokens change with rows behind them, by a trial on random tokens.

        A predictor with an argument ``mask`` is trusted.
        """
        like = next(self.parameters(), torch.empty(0))
        if takes_mask(self.predictor) or like.is_meta:
            return False
        with torch.random.fork_rng(devices=[]):
            tokens, count = torch.randn(2, 5, self.dim).to(like), 5
            padded = torch.cat([tokens, torch.zeros_like(tokens)], 1)
            other = torch.cat([tokens, torch.ones_like(tokens)], 1)
            # In training the number of rows may change what a dropout drops.
            trials = [(False, tokens, padded), (True, padded, other)]
            scores = [
                [self._tried(training, rows)[..., :count] for rows in given]
                for training, *given in trials
            ]
        return not all(
            torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max())) for a, b in scores
        )

    def _tried(self, training: bool, tokens: Tensor) -> Tensor:
        """Scores by a copy of the predictor, always with the same random numbers."""
        torch.default_generator.manual_seed(0)
        predictor = copy.deepcopy(self.predictor)
        if isinstance(predictor, nn.Module):
            predictor.train(training)
        return predictor(tokens)


def takes_mask(piece: Callable) -> bool:
    """Whether a function or module has an argument ``mask``."""
    call = piece.forward if isinstance(piece, nn.Module) else piece
    try:
        return "mask" in inspect.signature(call).parameters
    except ValueError:  # one of torch's own
        return False


def count_macs(pooling: Pooling, dim: int, num_tokens: int) -> int:
    """Multiply–adds per image by torch's counter: matrix products and convolutions.

    This is the count of two images minus that of one: work done once per step is excluded.
    """
    like = next(pooling.parameters(), torch.empty(0))

    def count(images: int) -> int:
        # Tokens with gradients and plain attention: the counter doesn't see fused kernels and the
        # fast path of torch's transformer layers.
        tokens = like.new_zeros(images, num_tokens, dim).requires_grad_()
        with counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            pooling(tokens)
        return counter.get_total_flops() // 2

    counter, training = FlopCounterMode(display=False), pooling.training
    pooling.eval()
    try:
        return -count(1) + count(2)
    finally:
        pooling.train(training)


def _named(noun: str, piece: str | Callable, table: dict[str, Callable]) -> Callable:
    if not isinstance(piece, str):
        return piece
    if piece not in table:
        raise IceprobeError(unknown(noun, piece, table))
    return table[piece]
