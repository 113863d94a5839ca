"""Tokens in one byte a number, with one scale a token.

    s = max|x| / 127        q = round(x / s) ∈ {−127, …, 127}        x ≈ s q, to within s / 2

Symmetric, so that 0 stays 0, and one scale a token because tokens differ in length (registers and
outliers by orders of magnitude) while the scores of a probe compare directions. The scale is
float32: four bytes beside the D of the codes (0.5% at D = 768), and then every finite token can be
stored, where a float16 scale would round by 2⁻¹¹ more, and loses its digits below 6e-5.
"""

import torch
from torch import Tensor

from iceprobe.store.shards import fresh

LARGEST = 127


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
