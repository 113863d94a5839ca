"""One transformer block over all tokens, then the mean of its output.

    Z = X + MHSA(LN X)      Y = Z + W₂ GELU(W₁ LN Z + b₁) + b₂      y = mean_N(Y)

Eight heads, qkv without bias, projection with bias, MLP ratio 4, no LayerScale, LN ε = 1e-5: the
pre-norm block of Dosovitskiy et al., "An Image is Worth 16x16 Words", trained on frozen tokens as
in the comparison of Psomas et al., "Attention, Please! Revisiting Attentive Probing Through the
Lens of Efficiency". Tokens attend to one another, so there is no attention map of M predictors.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.probes.masks import mean_tokens, only_tokens
from iceprobe.probes.pooling import Pooling, check_divides

EPSILON, MLP_RATIO = 1e-5, 4


class Block(Pooling):
    """A pre-norm transformer block and the mean of its output.

    Raises `IceprobeError` if ``heads``, of the self-attention, don't divide D.
    """

    refusal = "every token is a query and a key of its own, so no learned query is there to fold in"
    token_norms = ("norm1",)
    entangled = "its tokens attend to each other and pass an MLP before they are pooled"

    def __init__(self, dim: int, heads: int = 8):
        super().__init__()
        check_divides("block", heads, dim=dim)
        self.out_dim, self.heads = dim, heads
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(dim, MLP_RATIO * dim), nn.GELU(), nn.Linear(MLP_RATIO * dim, dim)
        )

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = only_tokens(tokens, mask).to(self.qkv.weight.dtype)
        tokens = tokens + self._mix(self.norm1(tokens), mask)
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.mean(1) if mask is None else mean_tokens(tokens, mask).to(tokens.dtype)

    def _mix(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Multi-head self-attention, ``(B, N, D)`` → ``(B, N, D)``; padding is finite and no key."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        q, k, v = torch.unbind(qkv.transpose(1, 3), 2)
        keys = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, keys)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def macs(self, num_tokens: int) -> int:
        n, d = num_tokens, self.out_dim
        return (4 + 2 * MLP_RATIO) * n * d * d + 2 * n * n * d
