"""Masks: which rows of a batch are tokens, where examples differ in their number.

    x_n = 0        score_j(n) = −∞        a_jn = 0        mean = Σ_n x_n / N_b        of rows n that are padding

A mask is ``(B, N)`` bool and True where a row is a token; ``None``: all are. N_b is the number of tokens of
example b. What stands in padding, NaN included, changes no number and gets no gradient. The
descriptor of an example without any token is NaN, unless the probe has keys of its own.
"""

import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError


def only_tokens(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """``(B, N, D)`` with zeros in padding.

    Raises:
        IceprobeError: if the mask isn't bool or not of the shape of the rows.
    """
    if mask is None:
        return tokens
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        raise IceprobeError(
            f"a mask is bool {tuple(tokens.shape[:2])}, True where a row is a token, and this one is "
            f"{mask.dtype} {tuple(mask.shape)}: pass the one that came with the tokens"
        )
    return tokens.masked_fill(~mask[..., None], 0)


def only_scores(scores: Tensor, mask: Tensor | None, of_padding: float = -torch.inf) -> Tensor:
    """``(B, …, N)`` with ``of_padding`` in padding; weights have 0 there."""
    if mask is None:
        return scores
    rows = mask[(slice(None), *[None] * (scores.ndim - 2))]  # a graph keeps its dynamic batch
    return scores.masked_fill(~rows, of_padding)


def mean_parts(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """x_n/N_b, ``(B, N, D)``, 0 in padding: their sum is the mean."""
    if mask is None:
        return tokens / tokens.shape[1]
    return only_tokens(tokens, mask) / mask.sum(1)[:, None, None]


def mean_tokens(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """``(B, N, D)`` → ``(B, D)``, in float32 where the tokens are narrower."""
    wide = torch.promote_types(tokens.dtype, torch.float32)
    if mask is None:
        return tokens.mean(1, dtype=wide)
    return only_tokens(tokens, mask).sum(1, dtype=wide) / mask.sum(1, keepdim=True)


def given(mask: Tensor | None) -> tuple[Tensor, ...]:
    """The mask as further arguments: of none, a function of tokens alone is asked as it always was."""
    return () if mask is None else (mask,)
