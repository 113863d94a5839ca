"""Keys folded into queries in every forward pass, or absorbed into them permanently.

    (W_Kj x)ᵀ q_j · s  =  xᵀ u_j        u_j = s W_Kjᵀ q_j

Folding computes u_j once per step, D² multiply–adds in place of N·D² per image; parameters,
gradients and results are those of the published probe. Absorbing makes u_j the parameter: the same
function with fewer parameters, without W_K.
"""

import copy
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.layer_norm import center
from iceprobe.probes.pooling import Pooling, TokenStats


class FoldedKeys(Pooling):
    """A pooling of M learned queries over linear keys.

    Args:
        dim: D, width of the tokens and of the descriptor.
        heads: M.

    Attributes:
        fold_only: modules and parameters that only `fold` reads. Absorbing removes them, and the
            keys' half of a fused key-and-value map ``kv``.
        u: the absorbed queries, ``(M, D)``; ``None`` before.
    """

    fold_only: ClassVar[tuple[str, ...]] = ()
    u: nn.Parameter | None

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.out_dim, self.num_predictors = dim, heads
        self.register_parameter("u", None)

    def fold(self) -> Tensor:
        """u_j from query and keys, ``(M, D)``, softmax scale and norm of the keys included."""
        raise NotImplementedError

    def fold_macs(self) -> int:
        """Multiply–adds of `fold`; here those of W_Q and W_K, both ``(D, D)``."""
        return 2 * self.out_dim**2

    def queries(self, stats: TokenStats | None = None) -> Tensor:
        """u_j, ``(M, D)``, centred where a LayerNorm is in front of the keys."""
        u = self.fold() if self.u is None else self.u
        return center(u) if self.token_norms else u

    def macs_per_step(self) -> int:
        return self.fold_macs() if self.u is None else 0

    def absorbed(self) -> Self:
        if self.u is not None:
            raise IceprobeError(
                f"{type(self).__name__} can't be absorbed: its keys are absorbed already"
            )
        pooling = copy.deepcopy(self)
        pooling.u = nn.Parameter(self.fold().detach())
        for name in self.fold_only:
            delattr(pooling, name)
        if isinstance(kv := getattr(pooling, "kv", None), nn.Linear):
            pooling.kv = _value_half(kv)
        return pooling


def _value_half(kv: nn.Linear) -> nn.Linear:
    """The second half of a fused key-and-value map."""
    rows = kv.out_features // 2
    value = nn.Linear(kv.in_features, rows, bias=kv.bias is not None).to(kv.weight)
    state = {name: tensor[-rows:] for name, tensor in kv.state_dict().items()}
    value.load_state_dict(state)
    return value


@torch.no_grad()
def truncated_normal_(module: nn.Module) -> None:
    """Initialise every linear map in ``module``: weights truncated normal 0.02, biases zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
