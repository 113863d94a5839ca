"""Segmentation probes: class logits z_n ∈ R^C for each patch token, upsampled to the mask's pixels.

    linear   z_n = W x_n + b
    epM      z_n = W x_n + b + 1/M Σ_m N·a_mn · E_m p_m      a_m = softmax_N(X u_m/√D), p_m = Xᵀ a_m

x_n are patch tokens, standardised by the fixed mean and deviation of the training tokens: a batch
norm without affine whose statistics are known.

The linear probe decides every patch by itself. What EP knows is about the image: its query u_m reads
patches with the weights a_m; its value map and classifier, two linear maps in a row and here one, E_m ∈ R^{C×D},
make class evidence E_m p_m of what was pooled there. The conditioned probe gives that evidence back to
the patches it was pooled from, in the proportion N·a_mn in which they were read: *what* comes from
the pooled descriptor, *where* from the maps. Each a_m sums to 1, hence

    mean_n z_n = W x̄ + b + 1/M Σ_m E_m p_m

is what the linear probe on the mean token and EP say of the image together; nothing is added but their
way back. Maps as M more inputs of the classifier, W [x_n; N·a_1n … N·a_Mn], would say where and not
what; the descriptor given to all patches alike, what and not where.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec
from iceprobe.probes import parse_probe, probe_label

Grid = tuple[int, int]


class LinearSegmentation(nn.Module):
    """One linear classifier for all patches.

    Parameters may have leading dimensions ``…``, members that are trained side by side: logits get them.

    Args:
        dim: D, width of the tokens.
        num_classes: C.
    """

    reads_tokens: tuple[str, ...] = ("weight",)  # parameters (…, D) that are multiplied by tokens
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
        """The same of standardised tokens."""
        z = torch.einsum("bnd,...cd->...bnc", x, self.weight)
        return z + self.bias[..., None, None, :]

    def macs(self, num_tokens: int) -> int:
        """Multiply–adds of an image; standardising and upsampling are left out."""
        return num_tokens * self.weight.numel()


class EPSegmentation(LinearSegmentation):
    """The linear classifier, and EP's class evidence given back to where it was pooled.

    Args:
        dim: D, width of the tokens.
        num_classes: C.
        queries: M.
    """

    reads_tokens = ("weight", "query", "evidence")

    def __init__(self, dim: int, num_classes: int, queries: int):
        super().__init__(dim, num_classes)
        self.query = nn.Parameter(torch.empty(queries, dim))
        nn.init.normal_(self.query, std=0.02)
        self.evidence = _uniform(queries, num_classes, dim)

    def attention(self, tokens: Tensor) -> Tensor:
        """Maps a_m of patch tokens ``(B, N, D)``: ``(…, B, M, N)``, each sums to 1."""
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
    """The canonical name of a segmentation probe, ``"linear"`` or ``"ep8"``.

    Raises:
        IceprobeError: for anything else.
    """
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
    """Bilinear between the patches' centres: ``(…, N, C)`` → ``(…, C, side, side)``."""
    *leading, _, classes = logits.shape
    cells = logits.reshape(-1, *grid, classes).permute(0, 3, 1, 2)
    pixels = F.interpolate(cells, size=(side, side), mode="bilinear", align_corners=False)
    return pixels.reshape(*leading, classes, side, side)


def _uniform(*shape: int) -> nn.Parameter:
    """As torch initialises a linear layer of that width."""
    bound = shape[-1] ** -0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
