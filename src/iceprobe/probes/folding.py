"""Keys folded into queries in every forward, and absorbed into them for good.

    (W_Kj x)ᵀ q_j · s  =  xᵀ u_j        u_j = s W_Kjᵀ q_j

Folding computes u_j once a step, and its parameters, gradients and results are those of the
published probe: D² multiply–adds a step in place of N·D² an image. Absorbing makes u_j the
parameter: the same function without W_K, fewer parameters, nothing to fold.
"""

import copy
from typing import Self

import torch
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.probes.pooling import Pooling


class FoldedKeys(Pooling):
    """A pooling with learned queries over linear keys.

    Attributes:
        u: the queries, ``(M, D)``, once they are absorbed; ``None`` before.
    """

    u: nn.Parameter | None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("u", None)

    def fold(self) -> Tensor:
        """u_j from query and keys, ``(M, D)``, softmax scale and norm of the keys included."""
        raise NotImplementedError

    def fold_macs(self) -> int:
        """Multiply–adds of `fold`."""
        raise NotImplementedError

    def drop_keys(self) -> None:
        """Remove the parameters that only `fold` reads."""
        raise NotImplementedError

    def folded_queries(self) -> Tensor:
        return self.fold() if self.u is None else self.u

    def macs_per_step(self) -> int:
        return self.fold_macs() if self.u is None else 0

    def absorbed(self) -> Self:
        if self.u is not None:
            raise IceprobeError(
                f"{type(self).__name__} can't be absorbed: its keys are absorbed already"
            )
        pooling = copy.deepcopy(self)
        pooling.u = nn.Parameter(self.fold().detach())
        pooling.drop_keys()
        return pooling


def value_rows(kv: nn.Linear, rows: int) -> nn.Linear:
    """The last ``rows`` rows of a fused key-and-value map, as a map of its own."""
    value = nn.Linear(kv.in_features, rows, bias=kv.bias is not None).to(kv.weight)
    state = {name: tensor[-rows:] for name, tensor in kv.state_dict().items()}
    value.load_state_dict(state)
    return value


@torch.no_grad()
def truncated_normal_(module: nn.Module) -> None:
    """Every linear map in ``module``: weights truncated normal 0.02, biases zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
