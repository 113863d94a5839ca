"""The optimum of a linear probe at a decay."""

from dataclasses import dataclass

from torch import Tensor

TOLERANCE = 1e-6  # largest entry of a gradient at which a search ends


@dataclass(frozen=True)
class Solution:
    """An optimum, for standardised features: outputs are W x̂ + b."""

    weight: Tensor  # `(K, D)` float64
    bias: Tensor  # `(K,)`
    decay: float  # λ, before an output's stretch
    loss: float  # of the rows, a mean over known cells; of numbers in units of their variance
    curvature: Tensor  # κ there, `()` or `(K,)`
    iterations: int  # of L-BFGS
    gradient: float  # largest entry of the gradient, in U
    # whether that is within the tolerance, or the loss falls no further for rounding
    converged: bool
    method: str = "lbfgs"  # or "closed form"
