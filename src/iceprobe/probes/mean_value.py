"""Mean pooling and the value map: efficient probing without attention.

    y = W_V mean_N(X)

The ablation "GAP + W_V" of Psomas et al., "Attention, Please! Revisiting Attentive Probing
Through the Lens of Efficiency".
"""

from torch import Tensor, nn

from iceprobe.probes.evidence import even_evidence
from iceprobe.probes.masks import mean_parts, mean_tokens
from iceprobe.probes.pooling import Pooling


class MeanValue(Pooling):
    """Mean of the tokens through W_V: ``(D_o, D)``, no bias."""

    linear_in_tokens = additive = True
    token_maps = ("value",)

    def __init__(self, dim: int, out_dim: int | None = None):
        super().__init__()
        self.out_dim = out_dim or dim
        self.value = nn.Linear(dim, self.out_dim, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.value(mean_tokens(tokens, mask).to(self.value.weight.dtype))

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        read = directions @ self.value.weight
        parts = mean_parts(tokens.to(directions.dtype), mask)
        return even_evidence(parts, read, directions @ centre, mask)

    def macs(self, num_tokens: int) -> int:
        return self.value.weight.numel()
