"""Evidence: how much each token speaks for an output.

    logit_k = Σ_n e_kn + b_k        e_kn = Σ_j a_jn (g_kjᵀ x_n + o_kj)

This is exact where the descriptor is, given the attention, an affine map of what the predictors pool,
y = y₀ + Σ_j V_j Xᵀa_j, without an MLP or another non-linearity behind it. With the batch norm folded into the
classifier, w_k = W_k/√(v + ε), output k reads the direction g_kj = V_jᵀ w_k ∈ R^D of the tokens of predictor j.
The constants are o_kj, Σ_j o_kj = w_kᵀ(y₀ − μ): weights sum to 1, so each token gets its share of the constant
with its attention. μ is the running mean of the batch norm, so evidence is relative to the mean descriptor of the
training images; without a batch norm μ is 0. A token without attention has none, and what is left of the logit is the
classifier's bias b_k.

Of EP, e_kn = Σ_j a_jn w_kjᵀ (W_Vj x_n − μ_j). It is input times gradient of the value path, with the attention
held fixed, after this centring.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Values = Callable[[Tensor], Tensor]


def linear_evidence(
    values: Values,
    weights: Tensor,
    tokens: Tensor,
    directions: Tensor,
    centre: Tensor,
    *,
    own_slices: bool = False,
    normalised: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """wᵀ(y − centre) of each direction w as a sum over tokens, y = values(weights · tokens).

    Costs K'·M·N·D multiply–adds an image, and holds ``(B, N, K')``.

    Args:
        values: pooled tokens ``(R, M, D)`` → ``(R, D_o)``, affine.
        weights: ``(B, M, N)``.
        tokens: that are pooled, ``(B, N, D)``.
        directions: ``(K', D_o)``, or ``(B, K', D_o)`` with others for each image.
        centre: ``(D_o,)``.
        own_slices: whether the j-th of M slices of y is of predictor j alone, which then spreads the constant
            of this slice; otherwise each spreads the M-th part.
        normalised: whether each predictor's weights sum to 1; otherwise constants are spread evenly.
        mask: ``(B, N)``, which rows are tokens; others are finite and have weight 0.

    Returns:
        ``(B, K', N)``.
    """
    predictors, rows = weights.shape[1], directions.flatten(0, -2)
    with torch.enable_grad():
        nothing = tokens.new_zeros(len(rows), predictors, tokens.shape[-1], requires_grad=True)
        y = values(nothing)
        (g,) = torch.autograd.grad(y, nothing, rows.to(y.dtype))
    constants = rows * (y.detach() - centre)
    if own_slices:
        o = constants.unflatten(-1, (predictors, -1)).sum(-1)
    else:
        o = constants.sum(-1, keepdim=True).expand(-1, predictors) / predictors
    g, o = g.unflatten(0, directions.shape[:-1]), o.unflatten(0, directions.shape[:-1])
    even = evenly(weights[:, :1], mask)
    found = tokens.new_zeros(*tokens.shape[:2], directions.shape[-2])
    for j in range(predictors):  # the maps of one predictor at a time: M times less memory
        weight, read = weights[:, j, :, None], tokens @ g[..., j, :].mT
        share = weight if normalised else even.mT
        found += weight * read + share * o[..., None, :, j]
    return found.mT


def even_evidence(
    parts: Tensor, directions: Tensor, constant: Tensor, mask: Tensor | None = None
) -> Tensor:
    """wᵀy − constant of each direction, of a descriptor y = Σ_n parts_n: ``(B, K', N)``.

    Args:
        parts: ``(B, N, D_o)``, zero in padding.
        directions: ``(K', D_o)`` or ``(B, K', D_o)``.
        constant: ``(K',)`` or ``(B, K')``, spread evenly.
        mask: ``(B, N)``, which rows are tokens.
    """
    found = parts.to(directions.dtype) @ directions.mT
    if mask is None:
        return (found - constant[..., None, :] / parts.shape[1]).mT
    return found.mT - constant[..., None] * evenly(found[:, :, 0], mask)[:, None]


def evenly(like: Tensor, mask: Tensor | None) -> Tensor:
    """1/N of each token, 0 in padding, ``(B, …, N)`` as ``like``."""
    if mask is None:
        return torch.full_like(like, 1 / like.shape[-1])
    each = mask.to(like.dtype) / mask.sum(1, keepdim=True)
    return each.view(len(mask), *[1] * (like.ndim - 2), -1).expand_as(like)
