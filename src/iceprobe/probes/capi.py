"""CAPI's attentive probe.

    a_j = softmax_N(X W_Kjᵀ q_j / √(D/M))      y_j = W_Vj X a_j + b_Vj      y = [y_1 … y_M]

One learned query, one linear map with bias for keys and values, heads of 64 channels, no output
projection. Darcet et al., "Cluster and Predict Latent Patches for Improved Masked Image
Modeling". The publication has no BatchNorm in front of its classifier: ``batch_norm=false``.

Keys are folded into the query in every forward pass; their bias cancels in the softmax.
"""

import torch
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.folding import FoldedKeys, truncated_normal_
from iceprobe.probes.mhca import fold_keys
from iceprobe.probes.pooling import QueryPooling, TokenStats, check_divides, slice_values

HEAD_WIDTH = 64


class CAPI(FoldedKeys, QueryPooling):
    """CAPI's probe with M heads (D/64); raises `IceprobeError` if M doesn't divide D."""

    linear_in_tokens = True
    additive = own_slices = True
    token_maps = ("kv",)
    fold_only = ("query",)

    def __init__(self, dim: int, heads: int | None = None):
        if heads is None and dim % HEAD_WIDTH:
            raise IceprobeError(
                f"capi has heads of {HEAD_WIDTH} channels and dim={dim} is no multiple of that: "
                "give the number of heads, such as capi4"
            )
        super().__init__(dim, heads or dim // HEAD_WIDTH)
        check_divides("capi", self.num_predictors, dim=dim)
        self.query = nn.Parameter(torch.empty(1, dim))
        self.kv = nn.Linear(dim, 2 * dim)
        nn.init.trunc_normal_(self.query, std=0.02)
        truncated_normal_(self.kv)

    def fold(self) -> Tensor:
        return fold_keys(self.query, self.kv.weight[: self.out_dim], self.num_predictors)

    def fold_macs(self) -> int:
        return self.out_dim**2

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        weight, bias = self.kv.weight[-self.out_dim :], self.kv.bias[-self.out_dim :]
        return slice_values(weight, pooled) + bias

    def macs(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.num_predictors * self.out_dim + self.out_dim**2
