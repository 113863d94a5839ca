"""SimPool: the mean token is the query, the patches are keys and values.

    q = W_Q mean_N(X)      a = softmax_N(LN(X) W_Kᵀ q / √D)      y = LN(X)ᵀ a

No biases. ``linear=False`` leaves W_Q and W_K out: q = LN(mean_N(X)), the values are the raw
tokens, and twelve heads each read a slice of D/M channels. Psomas et al., "Keep It SimPool: Who
Said Supervised Transformers Suffer from Attention Deficit?".

Every image has its own effective query u = W_Kᵀ W_Q mean_N(X) / √D: two products with one vector
instead of N tokens. (Computing W_KᵀW_Q first would cost D³ per step and pay off from D images on.)
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.attend import image_scores, image_sums
from iceprobe.probes.evidence import linear_evidence
from iceprobe.probes.layer_norm import apply_norm, center, fold_norm, token_rstd
from iceprobe.probes.masks import mean_tokens, only_tokens
from iceprobe.probes.pooling import Pooling, check_divides, take_slices


class SimPool(Pooling):
    """SimPool with M heads.

    Args:
        dim: D, width of the tokens and of the descriptor.
        heads: M; an `IceprobeError` if it doesn't divide D.
        linear: whether query and keys are projected, and the values normalised.
    """

    additive = own_slices = True
    refusal = "one effective query per image: its mean token asks, and each image has its own"

    def __init__(self, dim: int, heads: int = 1, linear: bool = True):
        super().__init__()
        check_divides("simpool", heads, dim=dim)
        self.out_dim, self.num_predictors = dim, heads
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.q = nn.Linear(dim, dim, bias=False) if linear else None
        self.k = nn.Linear(dim, dim, bias=False) if linear else None
        # W_Q has no bias to subtract μ/σ, so it reads the mean token in its own coordinates.
        self.token_norms = ("norm",) if linear else ()
        self.own_values = not linear

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = only_tokens(tokens, mask)
        rstd = token_rstd(tokens, self.norm.eps)
        weights = self._weights(tokens, rstd, mask)
        return self._values(image_sums(tokens, weights, None if self.k is None else rstd))

    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = only_tokens(tokens, mask)
        return self._weights(tokens, token_rstd(tokens, self.norm.eps), mask)

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        tokens = only_tokens(tokens, mask)
        rstd = token_rstd(tokens, self.norm.eps)
        weights = self._weights(tokens, rstd, mask)
        tokens = tokens.to(weights.dtype)
        if self.k is not None:
            tokens = tokens * rstd[..., None].to(weights.dtype)
        return linear_evidence(
            self._values,
            weights,
            tokens,
            directions,
            centre,
            own_slices=self.own_slices,
            mask=mask,
        )

    def _values(self, pooled: Tensor) -> Tensor:
        """Pooled tokens, or r·x, ``(B, M, D)`` → ``(B, D)``."""
        return take_slices(pooled if self.k is None else apply_norm(pooled, self.norm))

    def _weights(self, tokens: Tensor, rstd: Tensor, mask: Tensor | None) -> Tensor:
        """``(B, M, N)``."""
        mean = mean_tokens(tokens, mask).to(self.norm.weight.dtype)
        if self.q is None or self.k is None:
            q = self.norm(mean)
            own = torch.eye(self.num_predictors, dtype=q.dtype, device=q.device)
            u = q[:, None] * own.repeat_interleave(self.out_dim // self.num_predictors, 1)
        else:
            q = self.q(mean).unflatten(1, (self.num_predictors, -1))
            keys = self.k.weight.unflatten(0, (self.num_predictors, -1))
            u = torch.einsum("bma,mad->bmd", q, keys)
        u = center(fold_norm(u * (self.out_dim // self.num_predictors) ** -0.5, self.norm))
        return torch.softmax(image_scores(tokens, u, rstd, mask), -1)

    def macs(self, num_tokens: int) -> int:
        projections = 0 if self.k is None else 2 * self.out_dim**2
        return 2 * num_tokens * self.num_predictors * self.out_dim + projections
