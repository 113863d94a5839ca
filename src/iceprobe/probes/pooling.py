"""The one framework: predictors that weigh tokens, and a value map over what they gathered.

    a_j = normalise(score_j(X))      p_j = Xᵀ a_j      y_j = W_Vj p_j      y = [y_1 … y_M]

Tokens are pooled first and projected after: ``W_Vj (Xᵀ a_j)`` is ``(W_Vj X) a_j`` since W_V is
linear, and costs a fraction of it. A probe says what its scores and its values are
(`AttentivePooling`; out of ready pieces, `iceprobe.probes.framework`). Where scores are linear in
the tokens, score_j(X) = X u_j, it says its queries (`QueryPooling`), and `attend` is shared by all
of them, so a fit can lay the queries of many members side by side.
"""

import math
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from iceprobe.errors import IceprobeError
from iceprobe.probes.layer_norm import token_rstd

# The Triton kernels of `kernels.py` have run in Triton's interpreter only, never on a GPU: a fit must
# not be the first to try them. To be set once tests/probes/test_kernels.py has passed on one, and
# benchmarks/attend_gpu.py has shown for which numbers of queries they pay.
KERNELS_CHOSEN = False


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
    """

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

    def token_rstd(self, tokens: Tensor) -> Tensor | None:
        """r, ``(B, N)``, of the LayerNorm in front of keys and values, if there is one."""
        return None if self.layer_norm is None else token_rstd(tokens, self.layer_norm)


def absorb(pooling: Pooling) -> Pooling:
    """The same function with the keys absorbed into free queries: fewer parameters, no W_K.

    Raises:
        IceprobeError: where that isn't possible, with the reason.
    """
    return pooling.absorbed()


def attend(tokens: Tensor, queries: Tensor, rstd: Tensor | None = None) -> Tensor:
    """Pool tokens by the softmax of their scores, ``Xᵀ softmax_N(X u_q)`` for every query.

    Where the tokens need no gradient none is computed, and only tokens and weights are kept for
    the backward pass; with the kernels (`KERNELS_CHOSEN`, `available`) not even the weights. Products are
    in the dtype of the tokens (float32 where the processor has no fast products in it) and
    accumulate in float32; so does the softmax.

    Args:
        tokens: ``(B, N, D)``.
        queries: ``(Q, D)``, scale included; of one probe, or of many side by side.
        rstd: r, ``(B, N)``, where keys and values are the tokens times r (a LayerNorm, see
            `iceprobe.probes.layer_norm`).

    Returns:
        ``(B, Q, D)`` in the dtype of ``queries``.
    """
    if tokens.requires_grad and torch.is_grad_enabled():
        weights = attention_weights(tokens, queries, rstd)
        return _rescale(weights.mT, rstd).mT @ tokens.to(weights.dtype)
    if KERNELS_CHOSEN and available(tokens) and len(queries):
        from iceprobe.probes import kernels

        return kernels.attend(tokens, queries, rstd)
    return _Attend.apply(tokens.to(_product_dtype(tokens)), queries, rstd)[0]


def available(tokens: Tensor) -> bool:
    """Whether `iceprobe.probes.kernels` can pool these tokens, where they need no gradient.

    On CUDA devices of capability 8.0 on (bfloat16 products), with Triton installed; not in a graph
    that is being exported or compiled, which has to run without them.
    """
    return (
        tokens.is_cuda
        and torch.version.hip is None
        and tokens.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and tokens.numel() > 0
        and not torch.compiler.is_compiling()
        and torch.cuda.get_device_capability(tokens.device) >= (8, 0)
        and find_spec("triton") is not None
    )


def attention_weights(tokens: Tensor, queries: Tensor, rstd: Tensor | None = None) -> Tensor:
    """``softmax_N(X u_q)``: ``(B, N, D)``, ``(Q, D)`` → ``(B, Q, N)`` in the dtype of ``queries``."""
    dtype = torch.promote_types(tokens.dtype, queries.dtype)
    scores = _rescale(tokens.to(dtype) @ queries.to(dtype).mT, rstd)
    return torch.softmax(scores, 1).mT.to(queries.dtype)


class _Attend(torch.autograd.Function):
    """Attention with gradients for the queries alone.

    Scores lie as ``(B, N, Q)``: the first and the last of the four products are then single
    ones over all B·N tokens, whatever B. Of five layouts this was the fastest or within the noise
    for 32 to 630 queries (B=64, N=196, D=768, two cores of a Zen 4 with others at work; forward
    and backward at Q=630 in ms, float32 / bfloat16: this 664 / 233, ``(Q, B, N)`` 668 / 237,
    ``(B, Q, N)`` 684 / 275 and with the last product image by image 755 / 323, sixteen images at
    a time 838 / 363).
    """

    @staticmethod
    def forward(tokens: Tensor, queries: Tensor, rstd: Tensor | None) -> tuple[Tensor, Tensor]:
        weights = torch.softmax(_scores(tokens, queries.to(tokens.dtype), rstd), 1)
        pooled = _rescale(weights, rstd).mT @ tokens.to(weights.dtype)
        return pooled.to(queries.dtype), weights

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tokens, queries, rstd = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(tokens, output[1], rstd)
        ctx.dtype = queries.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, Tensor, None]:
        tokens, weights, rstd = ctx.saved_tensors
        grad_weights = _rescale((tokens @ grad.to(tokens.dtype).mT).to(weights.dtype), rstd)
        # A ∘ (dA − Σ_N A ∘ dA) in one pass
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, 1, weights.dtype)
        grad_scores = _rescale(grad_scores, rstd)
        grad_queries = grad_scores.flatten(0, 1).mT @ tokens.flatten(0, 1).to(weights.dtype)
        return None, grad_queries.to(ctx.dtype), None


def image_scores(tokens: Tensor, queries: Tensor, rstd: Tensor) -> Tensor:
    """Scores of r·x for poolings that put more keys beside the tokens or ask by image.

    Args:
        tokens: ``(B, N, D)``.
        queries: ``(Q, D)``, or ``(B, Q, D)`` where every image has its own.
        rstd: r, ``(B, N)``.

    Returns:
        ``(B, Q, N)`` in the dtype of ``queries``. Autograd keeps the tokens themselves for the
        backward pass, whatever the number of members, and gives them a gradient only where they
        require one.
    """
    products = tokens.to(_product_dtype(tokens))
    return _scores(products, queries.to(products.dtype), rstd).mT.to(queries.dtype)


def image_sums(tokens: Tensor, weights: Tensor, rstd: Tensor | None = None) -> Tensor:
    """Σ_n a_n x_n, or of r·x: ``(B, N, D)``, ``(B, Q, N)`` → ``(B, Q, D)``."""
    products = tokens.to(_product_dtype(tokens))
    return (_rescale(weights.mT, rstd).mT.to(products.dtype) @ products).to(weights.dtype)


def _rescale(columns: Tensor, rstd: Tensor | None) -> Tensor:
    """``(B, N, Q)`` times r of its token."""
    return columns if rstd is None else columns * rstd[..., None].to(columns.dtype)


def _scores(tokens: Tensor, queries: Tensor, rstd: Tensor | None) -> Tensor:
    """``(B, N, Q)``, up to a constant a query where there is no r.

    A product of narrow numbers rounds each score to 8 or 11 bits, and a mean that all tokens share
    would use them up. The softmax doesn't see a constant, so the score of one image's mean
    token is taken off inside the product, before it rounds; times r it is no constant any more,
    and comes back in float32.
    """
    if tokens.dtype not in (torch.bfloat16, torch.float16) or not len(tokens):
        return _rescale(tokens @ queries.mT, rstd)
    with torch.no_grad():
        shift = queries @ tokens[0].mean(0, dtype=torch.float32).to(tokens.dtype)
    if queries.ndim == 3:
        scores = torch.baddbmm(-shift[:, None], tokens, queries.mT)
    else:
        scores = torch.addmm(-shift, tokens.flatten(0, 1), queries.mT)
        scores = scores.unflatten(0, tokens.shape[:2])
    if rstd is None:
        return scores
    return _rescale(scores.float() + shift.float().unsqueeze(-2), rstd)


def _product_dtype(tokens: Tensor) -> torch.dtype:
    """The dtype in which products over ``tokens`` are fast on their device, never narrower."""
    if tokens.device.type != "cpu" or tokens.dtype not in (torch.bfloat16, torch.float16):
        return tokens.dtype
    # torch.cpu.get_capabilities() says it publicly, but torch 2.10 hasn't got it yet.
    fast = tokens.dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()
    return tokens.dtype if fast else torch.float32


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
    return torch.einsum("bmd,mod->bmo", pooled, slices).flatten(1)


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
    """``norm(inputs)``; in training its running statistics take the batch in only if ``remember``."""
    if remember or not norm.training:
        return norm(inputs)
    return F.batch_norm(inputs, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


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
