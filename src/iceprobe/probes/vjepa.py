"""V-JEPA's attentive probe: a cross-attention block with one learned query.

    X̃ = LN(X)      q = W_Q q₀ + b_Q
    a_j = softmax_N(X̃ W_Kjᵀ q_j / √(D/M))      y_j = W_Vj X̃ a_j + b_Vj
    z = q₀ + W_O [y_1 … y_M] + b_O      out = z + MLP(LN(z))

LN ε 1e-5; the MLP is four times as wide, with GELU. Bardes et al., "Revisiting Feature Prediction
for Learning Visual Representations from Video", in the version of Psomas et al., "Attention,
Please!". The original authors' classifiers never apply W_O and b_O (``proj=false``: z = q₀ + [y_1 …
y_M]).

Keys and the LayerNorm of the tokens are folded into the query in every forward pass.
"""

import torch
from torch import Tensor, nn

from iceprobe.probes.folding import FoldedKeys, truncated_normal_
from iceprobe.probes.layer_norm import apply_norm, fold_norm
from iceprobe.probes.mhca import fold_keys
from iceprobe.probes.pooling import QueryPooling, TokenStats, check_divides, slice_values


class VJEPA(FoldedKeys, QueryPooling):
    """V-JEPA's probe with M heads, W_O if ``proj``; `IceprobeError` if M doesn't divide D."""

    layer_norm = 1e-5
    token_norms = ("norm1",)
    fold_only = ("q",)
    entangled = "an MLP stands behind what it pools, so its logits are no sums over tokens"

    def __init__(self, dim: int, heads: int = 16, proj: bool = True):
        super().__init__(dim, heads)
        check_divides("vjepa", heads, dim=dim)
        self.query = nn.Parameter(torch.empty(1, dim))
        self.norm1 = nn.LayerNorm(dim, eps=self.layer_norm)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim) if proj else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        last = nn.Linear(4 * dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), last)
        nn.init.trunc_normal_(self.query, std=0.02)
        truncated_normal_(self)
        for layer in (self.proj, last):
            if isinstance(layer, nn.Linear):
                layer.weight.detach().div_(2**0.5)

    def fold(self) -> Tensor:
        keys = self.kv.weight[: self.out_dim]
        return fold_norm(fold_keys(self.q(self.query), keys, self.num_predictors), self.norm1)

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        weight, bias = self.kv.weight[-self.out_dim :], self.kv.bias[-self.out_dim :]
        y = slice_values(weight, apply_norm(pooled, self.norm1)) + bias
        z = self.query + self.proj(y)
        return z + self.mlp(self.norm2(z))

    def macs(self, num_tokens: int) -> int:
        maps = 10 if isinstance(self.proj, nn.Linear) else 9
        return 2 * num_tokens * self.num_predictors * self.out_dim + maps * self.out_dim**2
