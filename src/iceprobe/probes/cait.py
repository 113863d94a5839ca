"""CaiT's class attention: a learned class token attends to itself and to the patches.

    X̃ = LN([c; X])      q = W_Q X̃_c + b_Q
    a_j = softmax_{1+N}(X̃ W_Kjᵀ q_j / √(D/M))      y_j = W_Vj X̃ a_j + b_Vj
    z = c + γ₁ ⊙ (W_O [y_1 … y_M] + b_O)      out = LN(z + γ₂ ⊙ MLP(LN(z)))

The last LN has ε 1e-5, the others 1e-6; γ starts at 1e-5; the MLP is four times as wide, with
GELU. Touvron et al., "Going deeper with Image Transformers".

Keys and the LayerNorm of the tokens are folded into the query in every forward pass; the class
token is an additional key, the same for every image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.probes.attend import image_scores, image_sums
from iceprobe.probes.folding import FoldedKeys, truncated_normal_
from iceprobe.probes.layer_norm import center, fold_norm, token_rstd
from iceprobe.probes.masks import only_tokens
from iceprobe.probes.mhca import fold_keys
from iceprobe.probes.pooling import check_divides, slice_values


class CaiT(FoldedKeys):
    """CaiT's class attention with M heads; raises `IceprobeError` if M doesn't divide D."""

    token_norms = ("norm1",)
    fold_only = ("q", "k")
    entangled = "an MLP stands behind what it pools, so its logits are no sums over tokens"

    def __init__(self, dim: int, heads: int = 4):
        super().__init__(dim, heads)
        check_divides("cait", heads, dim=dim)
        self.cls = nn.Parameter(torch.empty(1, dim))
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.gamma1 = nn.Parameter(torch.full((dim,), 1e-5))
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.gamma2 = nn.Parameter(torch.full((dim,), 1e-5))
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        nn.init.trunc_normal_(self.cls, std=0.02)
        truncated_normal_(self)

    def fold(self) -> Tensor:
        query = self.q(self.norm1(self.cls))
        u = fold_keys(query, self.k.weight, self.num_predictors)
        # The bias cancels in the softmax; it keeps a gradient, which is zero.
        return fold_norm(u + 0 * self.k.bias, self.norm1)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = only_tokens(tokens, mask)
        rstd = token_rstd(tokens, self.norm1.eps)
        weights = self._weights(tokens, rstd, mask)
        pooled = center(image_sums(tokens, weights[..., 1:], rstd))
        pooled = pooled + weights[..., :1] * self._class_key()
        pooled = pooled * self.norm1.weight + self.norm1.bias
        y = slice_values(self.v.weight, pooled) + self.v.bias
        z = self.cls + self.gamma1 * self.proj(y)
        return self.norm(z + self.gamma2 * self.mlp(self.norm2(z)))

    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._every_weight(tokens, mask)[..., 1:]

    def prefix_attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights ``(B, M, 1)`` of the learned class token."""
        return self._every_weight(tokens, mask)[..., :1]

    def _every_weight(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        tokens = only_tokens(tokens, mask)
        return self._weights(tokens, token_rstd(tokens, self.norm1.eps), mask)

    def _weights(self, tokens: Tensor, rstd: Tensor, mask: Tensor | None) -> Tensor:
        """``(B, M, 1 + N)``, the class token first."""
        u = self.queries()
        own = (u @ self._class_key().mT).expand(tokens.shape[0], -1, -1)
        return torch.softmax(torch.cat([own, image_scores(tokens, u, rstd, mask)], -1), -1)

    def _class_key(self) -> Tensor:
        """The class token through LayerNorm without affine, ``(1, D)``."""
        return F.layer_norm(self.cls, self.cls.shape[-1:], eps=self.norm1.eps)

    def macs_per_step(self) -> int:
        return super().macs_per_step() + self.num_predictors * self.out_dim

    def macs(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.num_predictors * self.out_dim + 10 * self.out_dim**2
