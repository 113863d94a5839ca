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
from iceprobe.probes.masks import mean_parts, only_scores, only_tokens
from iceprobe.probes.pooling import Pooling, batch_norm


class DELF(Pooling):
    """DELF's attention over tokens, each through the same maps: where they lie changes nothing.

    ``dim`` is D, width of the tokens and of the descriptor.
    """

    num_predictors = 1
    linear_in_tokens = additive = True
    token_maps = ("conv",)
    normalised = False
    norms_whole = True
    refusal = "its scores come from a ReLU of every token, not from a query over keys"

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim
        self.conv = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.scorer = nn.Linear(dim, 1)
        for layer in (self.conv, self.scorer):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        z, scores = self._weigh(tokens, mask, remember=True)
        length = z.norm(dim=-1).clamp_min(1e-12)
        total = ((scores / length[:, None]) @ z).squeeze(1)
        return total / (z.shape[1] if mask is None else mask.sum(1, keepdim=True))

    def attention(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores s ``(B, 1, N)``, positive."""
        return self._weigh(tokens, mask, remember=False)[1]

    def evidence(
        self, tokens: Tensor, directions: Tensor, centre: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        z, scores = self._weigh(tokens, mask, remember=False)
        parts = scores.mT * z / z.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return even_evidence(mean_parts(parts, mask), directions, directions @ centre, mask)

    def _weigh(self, tokens: Tensor, mask: Tensor | None, remember: bool) -> tuple[Tensor, Tensor]:
        """z ``(B, N, D)`` and s ``(B, 1, N)``, both 0 in padding."""
        tokens = only_tokens(tokens, mask).to(self.conv.weight.dtype)
        if mask is None:
            rows = self.conv(tokens).flatten(0, 1)
            z = batch_norm(self.norm, rows, remember).unflatten(0, tokens.shape[:2])
        else:  # the batch norm sees tokens only
            rows = batch_norm(self.norm, self.conv(tokens[mask]), remember)
            z = rows.new_zeros(*mask.shape, rows.shape[-1]).masked_scatter(mask[..., None], rows)
        return z, only_scores(F.softplus(self.scorer(F.relu(z))).mT, mask, 0.0)

    def macs(self, num_tokens: int) -> int:
        return num_tokens * self.out_dim**2 + 2 * num_tokens * self.out_dim
