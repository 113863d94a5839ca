"""Efficient probing (EP).

    a_j = softmax_N(X u_j / √D) ∈ R^N      y_j = W_Vj X a_j ∈ R^{D_o/M}      y = [y_1 … y_M]

Psomas et al., "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency":
multi-head cross-attention whose keys are absorbed into M free queries u_j ∈ R^D.

Two ablations: ``value="identity"`` leaves W_V out, so y_j is the j-th of M slices of Xᵀa_j;
``query="sliced"`` is W_K = identity, so u_j ∈ R^{D/M} reads only the j-th slice of the tokens.
"""

import torch
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.pooling import (
    QueryPooling,
    TokenStats,
    check_divides,
    slice_values,
    take_slices,
)

# AdamW's steps are the same for a query and for W_V, but queries need larger values because scores
# are divided by √D. With 16 in place of 1, EP12 gains 1 to 2 points (docs/selection.md).
QUERY_UNIT = 16.0


class EfficientProbing(QueryPooling):
    """EP with M queries and D_o outputs.

    Args:
        dim: D, width of the tokens.
        queries: M; divides D_o.
        out_dim: D_o, by default D.
        value: ``"linear"`` (W_V) or ``"identity"`` (slices of the pooled tokens).
        query: ``"full"`` (u_j ∈ R^D) or ``"sliced"`` (u_j ∈ R^{D/M}).

    Raises:
        IceprobeError: if M doesn't divide what it has to, or W_V is left out and D_o isn't D.
    """

    refusal = "its queries are free of keys already"
    linear_in_tokens = True
    additive = own_slices = True

    def __init__(
        self,
        dim: int,
        queries: int = 32,
        out_dim: int | None = None,
        value: str = "linear",
        query: str = "full",
    ):
        super().__init__()
        self.out_dim = out_dim or dim
        self.num_predictors = queries
        self.sliced = query == "sliced"
        if value == "identity" and self.out_dim != dim:
            raise IceprobeError(
                f"ep: value=identity has out_dim {dim}, the width of the tokens, not "
                f"{self.out_dim}: leave out_dim out or take value=linear"
            )
        widths = {"out_dim": self.out_dim} | ({"dim": dim} if self.sliced else {})
        check_divides("ep", queries, **widths)
        width = dim // queries if self.sliced else dim
        self.query = nn.Parameter(torch.empty(queries, width))
        self.scale = width**-0.5
        self.value = nn.Linear(dim, self.out_dim, bias=False) if value == "linear" else None
        nn.init.normal_(self.query, std=0.02)
        self.token_maps = ("query",) if self.value is None else ("query", "value")
        self.own_values = self.value is None
        self.units = {"query": QUERY_UNIT}

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        if not self.sliced:
            return self.query * self.scale
        # Zero-padded to D, so that they share one product with all other queries.
        own = torch.eye(self.num_predictors, dtype=self.query.dtype, device=self.query.device)
        return (own[:, :, None] * (self.query * self.scale)[:, None, :]).flatten(1)

    def values(self, pooled: Tensor, stats: TokenStats | None = None) -> Tensor:
        if self.value is not None:
            return slice_values(self.value.weight, pooled)
        return take_slices(pooled)

    def macs(self, num_tokens: int) -> int:
        dim = self.query.shape[1] * (self.num_predictors if self.sliced else 1)
        value = 0 if self.value is None else dim * self.out_dim
        return 2 * num_tokens * self.num_predictors * dim + value
