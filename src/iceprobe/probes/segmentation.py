"""Dense probes: outputs z_n ∈ R^C per patch token, upsampled to the pixels of the targets' map.

    linear   z_n = W x_n + b
    epM      z_n = W x_n + b + 1/M Σ_m N·a_mn · E_m p_m      a_m = softmax_N(X u_m/√D), p_m = Xᵀ a_m

x_n are patch tokens, standardised by the fixed mean and deviation of the training tokens. E_m ∈
R^{C×D} is EP's value map and classifier in one: E_m p_m is class evidence of the image, which
returns to the patches that it was pooled from, in proportion to their weights
(docs/segmentation.md). Maps as M more inputs of the classifier, W [x_n; N·a_1n … N·a_Mn], would
carry only the position of an object; the descriptor added to all patches only its class.

Outputs are logits of C classes, or with C = 1 a number in the target's unit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec
from iceprobe.probes import parse_probe, probe_label

Grid = tuple[int, int]


class LinearSegmentation(nn.Module):
    """One linear classifier, or regressor, for all patches.

    Parameters may have leading dimensions ``…`` of members that are trained together; logits have
    them too.

    Args:
        dim: D, width of the tokens.
        num_classes: C.
    """

    reads_tokens: tuple[str, ...] = ("weight",)  # parameters (…, D) that multiply tokens
    gives: tuple[str, ...] = ("weight",)  # parameters (…, C, D) that outputs are linear in
    mean: Tensor  # (D,) of the training tokens
    std: Tensor  # (D,)

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.weight = _uniform(num_classes, dim)
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Patch tokens ``(B, N, D)`` → logits ``(…, B, N, C)``."""
        return self.logits((tokens - self.mean) / self.std)

    def logits(self, x: Tensor) -> Tensor:
        """Logits of standardised tokens."""
        z = torch.einsum("bnd,...cd->...bnc", x, self.weight)
        return z + self.bias[..., None, None, :]

    def scale(self, shift: Tensor, scale: Tensor) -> None:
        """Let outputs z become σ z + μ: μ and σ are ``(C,)``."""
        for name in self.gives:
            self.get_parameter(name).mul_(scale[:, None])
        self.bias.copy_(self.bias * scale + shift)

    def macs(self, num_tokens: int) -> int:
        """Multiply–adds per image, without standardising and upsampling."""
        return num_tokens * self.weight.numel()


class EPSegmentation(LinearSegmentation):
    """The linear classifier, and EP's class evidence returned to the patches it was pooled from.

    Args:
        dim: D, width of the tokens.
        num_classes: C.
        queries: M.
    """

    reads_tokens = ("weight", "query", "evidence")
    gives = ("weight", "evidence")

    def __init__(self, dim: int, num_classes: int, queries: int):
        super().__init__(dim, num_classes)
        self.query = nn.Parameter(torch.empty(queries, dim))
        nn.init.normal_(self.query, std=0.02)
        self.evidence = _uniform(queries, num_classes, dim)

    def attention(self, tokens: Tensor) -> Tensor:
        """Patch tokens ``(B, N, D)`` → maps a_m ``(…, B, M, N)``, each with sum 1."""
        return self._maps((tokens - self.mean) / self.std)

    def logits(self, x: Tensor) -> Tensor:
        maps = self._maps(x)
        pooled = torch.einsum("...bmn,bnd->...bmd", maps, x)
        evidence = torch.einsum("...bmd,...mcd->...bmc", pooled, self.evidence)
        back = torch.einsum("...bmn,...bmc->...bnc", maps, evidence)
        return super().logits(x) + back * (x.shape[1] / self.query.shape[-2])

    def macs(self, num_tokens: int) -> int:
        classes, dim = self.weight.shape[-2:]
        queries = self.query.shape[-2]
        of_maps = 2 * num_tokens * queries * dim
        return super().macs(num_tokens) + of_maps + queries * classes * (dim + num_tokens)

    def _maps(self, x: Tensor) -> Tensor:
        scores = torch.einsum("bnd,...md->...bmn", x, self.query) * x.shape[-1] ** -0.5
        return scores.softmax(-1)


def label(text: str) -> str:
    """The canonical name of a segmentation probe, ``"linear"`` or ``"ep8"``."""
    spec = parse_probe(text)
    if spec.name not in ("linear", "ep") or set(spec.options) - {"queries"}:
        raise IceprobeError(
            f"probe {text!r} doesn't segment: take linear or an EP by its number of queries, ep8"
        )
    return probe_label(spec)


def build(probe: str | Spec, dim: int, num_classes: int) -> LinearSegmentation:
    """Build a segmentation probe.

    Args:
        probe: ``"linear"`` or ``"ep8"`` with M = 8 queries.
        dim: D, width of the tokens.
        num_classes: C, background among them.

    Raises:
        IceprobeError: for another probe.

    Examples:
        >>> sum(p.numel() for p in build("ep8", dim=192, num_classes=11).parameters())
        20555
    """
    spec = parse_probe(label(str(probe)))
    if spec.name == "linear":
        return LinearSegmentation(dim, num_classes)
    return EPSegmentation(dim, num_classes, int(spec.options["queries"]))


def upsample(logits: Tensor, grid: Grid, side: int) -> Tensor:
    """Bilinear upsampling, ``(…, N, C)`` → ``(…, C, side, side)``."""
    *leading, _, classes = logits.shape
    cells = logits.reshape(-1, *grid, classes).permute(0, 3, 1, 2)
    pixels = F.interpolate(cells, size=(side, side), mode="bilinear", align_corners=False)
    return pixels.reshape(*leading, classes, side, side)


def _uniform(*shape: int) -> nn.Parameter:
    """Initialised like a `torch.nn.Linear` of that width."""
    bound = shape[-1] ** -0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
