"""Tokens in one byte a number, with one scale a token.

    s = max|x| / 127        q = round(x / s) ∈ {−127, …, 127}        x ≈ s q, to within s / 2

Symmetric, so that 0 stays 0, and one scale a token because tokens differ in length (registers and
outliers by orders of magnitude) while the scores of a probe compare directions. The scale is
float32: four bytes beside the D of the codes (0.5% at D = 768), and then every finite token can be
stored, where a float16 scale would round by 2⁻¹¹ more, and loses its digits below 6e-5.
"""

import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.store.buffers import fresh

LARGEST = 127
EVERY = 4  # rounding is measured on every fourth token
REFUSED = 0.25  # share of rounding in the variance; reported from 0.01 on (`noted.py`)


def quantise(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 ``(…, D)`` and scales float32 ``(…)`` of ``tokens (…, D)``.

    A token that is all zero, or too small for its scale to be a float32, has scale 0.
    """
    tokens = tokens.float()
    scales = tokens.abs().amax(-1) / LARGEST
    divisors = torch.where(scales > 0, scales, 1.0)[..., None]
    # The scale's own rounding can lift the largest quotient above 127 where it is subnormal.
    codes = (tokens / divisors).round_().clamp_(-LARGEST, LARGEST)
    return codes.to(torch.int8), scales


def dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """``s q`` in ``dtype``, ``(…, D)``, rounded once from float32, on the device of both."""
    # Not codes * scales: a product of two dtypes runs 70 times slower on a processor.
    wide = codes.float() if codes.is_cuda else fresh(len(codes), codes.shape[1:], torch.float32)
    return wide.copy_(codes).mul_(scales[..., None]).to(dtype)


def rounding(tokens: Tensor, stored: Tensor) -> Tensor:
    """The share of the tokens' variance that is error of storing them, ``()`` in [0, 1].

        share = mean_d min(1, var(x̃_d − x_d) / var(x_d))

    Each dimension counts alike, since probes are trained in standardised coordinates. A dimension
    far from zero, or of much larger values than the others, costs all others their digits where a
    token has one scale.

    Args:
        tokens: ``(b, N, D)`` as they were made.
        stored: the same as they are read back.
    """
    wide = torch.promote_types(tokens.dtype, torch.float32)
    sampled = tokens.flatten(0, 1)[::EVERY].to(wide)
    error = stored.flatten(0, 1)[::EVERY].to(wide) - sampled
    share = error.var(0, correction=0) / sampled.var(0, correction=0)
    return share.nan_to_num(0.0, 1.0).clamp(0, 1).mean()


def check_rounding(share: float, what: str, remedy: str) -> None:
    """Refuse rounding by more than `REFUSED` of the variance.

    Raises:
        IceprobeError: saying how much it is.
    """
    if share > REFUSED:
        raise IceprobeError(
            f"{what} rounds the tokens by {share:.0%} of their variance (a dimension's mean over "
            f"all): some are far larger than others. {remedy}"
        )
