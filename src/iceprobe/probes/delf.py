"""Attentive pooling of DELF.

    z_n = BatchNorm(W x_n + b)      s_n = softplus(wᵀ ReLU(z_n) + c)      y = mean_N(s_n z_n/‖z_n‖₂)

W and w are 1×1 convolutions, linear maps of a token. The scores are positive and not normalised
over tokens: their sum differs between images. Noh et al., "Large-Scale Image Retrieval with
Attentive Deep Local Features"; BatchNorm and the unit length as in Cao et al., "Unifying Deep Local
and Global Features for Image Search", and Yang et al., "DOLG", whose code (pycls) initialises
convolutions normal with deviation √(2/fan_out): √(2/D) for W and √2 for w.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.probes.evidence import even_evidence
from iceprobe.probes.pooling import Pooling, batch_norm, check_grid


class DELF(Pooling):
    """DELF's attention over a map of patches.

    Args:
        dim: D, width of the tokens and of the descriptor.
        grid: rows and columns of the map; N = H·W.
    """

    num_predictors = 1
    linear_in_tokens = additive = True
    token_maps = ("conv",)
    normalised = False
    norms_whole = True
    refusal = "its scores come from a ReLU of every token, not from a query over keys"

    def __init__(self, dim: int, grid: tuple[int, int]):
        super().__init__()
        self.out_dim, self.grid = dim, grid
        self.conv = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.scorer = nn.Linear(dim, 1)
        for layer in (self.conv, self.scorer):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, tokens: Tensor) -> Tensor:
        z, scores = self._weigh(tokens, remember=True)
        length = z.norm(dim=-1).clamp_min(1e-12)
        return ((scores / length[:, None]) @ z).squeeze(1) / z.shape[1]

    def attention(self, tokens: Tensor) -> Tensor:
        """Scores s ``(B, 1, N)``, positive."""
        return self._weigh(tokens, remember=False)[1]

    def evidence(self, tokens: Tensor, directions: Tensor, centre: Tensor) -> Tensor:
        z, scores = self._weigh(tokens, remember=False)
        parts = scores.mT * z / z.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return even_evidence(parts / z.shape[1], directions, directions @ centre)

    def _weigh(self, tokens: Tensor, remember: bool) -> tuple[Tensor, Tensor]:
        """z ``(B, N, D)`` and s ``(B, 1, N)``."""
        check_grid("delf", tokens, self.grid)
        rows = self.conv(tokens.to(self.conv.weight.dtype)).flatten(0, 1)
        z = batch_norm(self.norm, rows, remember).unflatten(0, tokens.shape[:2])
        return z, F.softplus(self.scorer(F.relu(z))).mT

    def macs(self, num_tokens: int) -> int:
        return num_tokens * self.out_dim**2 + 2 * num_tokens * self.out_dim
