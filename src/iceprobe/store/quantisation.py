"""Tokens in int8, with one scale per token.

    s = max|x| / 127        q = round(x / s) ∈ {−127, …, 127}        x ≈ s q, to within s / 2

Symmetric, so that 0 stays 0. One scale per token, because tokens differ in length (registers and
outliers by orders of magnitude) while the scores of a probe compare directions. A float32 scale takes
four bytes beside the D of the codes (0.5% at D = 768) and can store every finite token; a float16 scale
would add a rounding of 2⁻¹¹ and lose digits below 6e-5.
"""

import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.store.buffers import fresh

LARGEST = 127
EVERY = 4  # rounding is measured on every fourth token
REFUSED = 0.25  # share of the variance that rounding may take; reported above 0.01 (`noted.py`)


def quantise(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 ``(…, D)`` and scales float32 ``(…)`` of ``tokens (…, D)``.

    A token that is zero, or too small for a float32 scale, has scale 0.
    """
    tokens = tokens.float()
    scales = tokens.abs().amax(-1) / LARGEST
    divisors = torch.where(scales > 0, scales, 1.0)[..., None]
    # A subnormal scale is rounded itself, which can lift the largest quotient above 127.
    codes = (tokens / divisors).round_().clamp_(-LARGEST, LARGEST)
    return codes.to(torch.int8), scales


def dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """``s q`` in ``dtype``, ``(…, D)``, rounded once from float32."""
    # Not codes * scales: a product of two dtypes is 70 times slower on a CPU.
    wide = codes.float() if codes.is_cuda else fresh(len(codes), codes.shape[1:], torch.float32)
    return wide.copy_(codes).mul_(scales[..., None]).to(dtype)


def rounding(tokens: Tensor, stored: Tensor) -> Tensor:
    """The error of storing tokens as a share of their variance, ``()`` in [0, 1].

        share = mean_d min(1, var(x̃_d − x_d) / var(x_d))

    All dimensions have equal weight, since probes are trained in standardised coordinates. With one
    scale per token, a dimension of much larger values takes digits from all others.

    Args:
        tokens: ``(b, N, D)`` x, as they were made.
        stored: x̃, as they are read back.
    """
    wide = torch.promote_types(tokens.dtype, torch.float32)
    sampled = tokens.flatten(0, 1)[::EVERY].to(wide)
    error = stored.flatten(0, 1)[::EVERY].to(wide) - sampled
    share = error.var(0, correction=0) / sampled.var(0, correction=0)
    return share.nan_to_num(0.0, 1.0).clamp(0, 1).mean()


def check_rounding(share: float, what: str, remedy: str) -> None:
    """Raise `IceprobeError` if rounding takes more than `REFUSED` of the variance."""
    if share > REFUSED:
        raise IceprobeError(
            f"{what} rounds the tokens by {share:.0%} of their variance (a dimension's mean over "
            f"all): some are far larger than others. {remedy}"
        )
