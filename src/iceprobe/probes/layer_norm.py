"""LayerNorm before keys and values, without computing normalised tokens.

    x̂_nᵀ u = r_n x_nᵀ(u − ū)        Σ_n a_n x̂_n = p − p̄  with  p = Σ_n a_n r_n x_n

x̂_n = (x_n − x̄_n) r_n is LayerNorm without affine, r_n = 1/√(var(x_n) + ε); a bar is the mean over
the D channels. Centring is a symmetric projection, so it can be applied to the few queries and
pooled vectors in place of the tokens. Only r_n is needed of the tokens, and all probes share it.

So can the affine. Keys γ ⊙ x̂ + β are scored by γ ⊙ u, since the shift βᵀu is the same for all
tokens; values γ ⊙ x̂ + β pool to γ ⊙ (p − p̄) + β if the weights sum to 1.
"""

import torch
from torch import Tensor, nn

IMAGES_AT_ONCE = 16  # B=64, N=196, D=768, float32, one core: 9 ms; all at once 45; by var 97


def token_rstd(tokens: Tensor, epsilon: float) -> Tensor:
    """r, ``(B, N, D)`` → ``(B, N)``, in float32 or wider; differentiable where tokens are."""
    wide = torch.promote_types(tokens.dtype, torch.float32)
    live = tokens.requires_grad and torch.is_grad_enabled()
    if live or torch.compiler.is_compiling():  # a graph can't loop over a variable batch
        return (torch.var(tokens.to(wide), -1, correction=0) + epsilon).rsqrt()
    width = tokens.shape[-1:]
    parts = [
        torch.native_layer_norm(images.to(wide), width, None, None, epsilon)[2]
        for images in tokens.split(IMAGES_AT_ONCE)
    ]
    return torch.cat(parts).squeeze(-1)


def center(vectors: Tensor) -> Tensor:
    """Subtract the mean over channels, the last axis."""
    return vectors - vectors.mean(-1, keepdim=True)


def fold_norm(queries: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Queries for ``norm(x)`` → queries for x̂, both ``(…, D)``; for r·x, center them."""
    # The bias cancels in the softmax; it keeps a gradient, which is zero.
    return queries * norm.weight + 0 * norm.bias


def apply_norm(pooled: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Σ a r x → Σ a norm(x), both ``(…, D)``, for weights a that sum to 1."""
    return center(pooled) * norm.weight + norm.bias
