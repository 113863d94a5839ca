"""Efficient probing within a budget: the M and D_o for which the probe stays within it.

    parameters = D·D_o + M·D + D_o·C + C        FLOPs = 2 (2·N·M·D + D·D_o + D_o·C)

Queries take M·D parameters and most of the FLOPs; a narrower output D_o saves parameters in the
value map and the classifier. Psomas et al., "Attention, Please!".
"""

import math
from typing import TYPE_CHECKING

from iceprobe.core.errors import IceprobeError

if TYPE_CHECKING:
    from iceprobe.settings import Fitting
    from iceprobe.tokens import TokenShape

QUERIES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
NARROWING = (1, 2, 4, 8, 16)  # D / D_o


def within_budget(
    dim: int,
    num_classes: int,
    num_tokens: int,
    *,
    parameters: int | None = None,
    flops: int | None = None,
    parts: int = 1,
) -> list[str]:
    """Specs of the EPs that stay within a budget, the smallest first.

    Args:
        dim: D, width of the tokens.
        num_classes: C.
        num_tokens: N, patch tokens per image.
        parameters: most parameters of pooling and classifier.
        flops: most FLOPs of the whole probe per image.
        parts: of an image, of which each is projected and classified by itself.

    Raises:
        IceprobeError: if none does, with the least that any EP needs.

    Examples:
        >>> within_budget(768, 1000, 196, parameters=110_000)
        ['ep1?out_dim=48', 'ep2?out_dim=48', 'ep4?out_dim=48', 'ep8?out_dim=48', 'ep12?out_dim=48', 'ep16?out_dim=48', 'ep24?out_dim=48']
    """
    grid = []
    for narrowing in NARROWING:
        out_dim = dim // narrowing
        for queries in QUERIES:
            if dim % narrowing or out_dim % queries:
                continue
            spec = f"ep{queries}" + (f"?out_dim={out_dim}" if narrowing > 1 else "")
            size = dim * out_dim + queries * dim + out_dim * num_classes + num_classes
            macs = 2 * num_tokens * queries * dim + parts * out_dim * (dim + num_classes)
            grid.append((size, 2 * macs, spec))
    grid.sort()
    most, dearest = parameters or math.inf, flops or math.inf
    fits = [spec for size, cost, spec in grid if size <= most and cost <= dearest]
    if not fits:
        least = {"parameters": min(g[0] for g in grid), "FLOPs": min(g[1] for g in grid)}
        asked = {"parameters": parameters, "FLOPs": flops}
        which = [f"{asked[k]:,} {k} (the least is {v:,})" for k, v in least.items() if asked[k]]
        raise IceprobeError(
            f"no EP at D={dim} and {num_classes} classes stays within a budget of "
            f"{' and '.join(which)}: raise it"
        )
    return fits


def budgeted(shape: "TokenShape", num_classes: int, asked: "Fitting") -> list[str]:
    """The EPs within the budget of a fit on tokens of ``shape``; none if it has no budget.

    Raises:
        IceprobeError: as `within_budget`.
    """
    if asked.budget is None and asked.budget_flops is None:
        return []
    return within_budget(
        shape.dim,
        num_classes,
        shape.num_tokens,
        parameters=asked.budget,
        flops=asked.budget_flops,
        parts=shape.parts,
    )
