"""Expected calibration error in bins of equal mass.

    ECE = Σ_b |∫_b (c − a)|        over B = 15 bins b of equal mass, of all examples ordered by confidence c

a says whether an example is right; the integral is over its share of the weight, so that a bin adds its mass
times the gap between its mean confidence and its accuracy (Guo et al. 2017; bins of equal mass: Nguyen and
O'Connor 2015). An example that lies across a border counts in both bins, with the part of its weight in each.
Examples of equal confidence are one: each part of their weight has the accuracy of them all. So neither the
order of examples nor the size of their weights matters.
"""

import torch
from torch import Tensor

from iceprobe.tasks.formulas import CELLS, picked, ratio
from iceprobe.tasks.metrics import BINS
from iceprobe.tasks.rankings import tied


def calibration_error(
    confidence: Tensor, right: Tensor, weights: Tensor, examples: Tensor | None = None
) -> Tensor:
    """ECE of each row: ``(R, m)`` in [0, 1], ``(R, m)`` bool, ``(W, n)`` → ``(R, W)``; NaN without weight.

    Args:
        examples: ``(m,)`` int64, whose the cells are; None: cell i is of example i.
    """
    found = []
    for row, is_right in zip(confidence, right.to(confidence.dtype), strict=True):
        ordered, order = row.sort()
        gap = ordered - is_right[order]
        if not len(gap):
            found.append(weights.sum(1) * torch.nan)
            continue
        first, last = (of[0] for of in tied(ordered[None]))
        mine = order if examples is None else examples[order]
        parts = weights.split(max(1, CELLS // max(len(mine), 1)))
        of_parts = [_of_row(gap, first, last, picked(part, mine)) for part in parts]
        found.append(torch.cat(of_parts))
    return torch.stack(found)


def _of_row(gap: Tensor, first: Tensor, last: Tensor, each: Tensor) -> Tensor:
    """Of cells in order of confidence, ``(m,)``, and where equal ones begin and end; ``each (W, m)``."""
    # G, the integral from 0 on, is linear from one confidence to the next.
    mass, gaps = each.cumsum(-1), (each * gap).cumsum(-1)
    whole = mass[:, -1:]
    borders = whole * (torch.arange(1, BINS, dtype=mass.dtype) / BINS)
    cell = torch.searchsorted(mass.detach(), borders.detach()).clamp(max=len(gap) - 1)
    mass_low, gap_low = (_up_to(of, first[cell] - 1) for of in (mass, gaps))
    mass_high, gap_high = (_up_to(of, last[cell]) for of in (mass, gaps))
    share = ratio(borders - mass_low, mass_high - mass_low, 0.0)
    at = gap_low + share * (gap_high - gap_low)
    at = torch.cat([torch.zeros_like(whole), at, gaps[:, -1:]], 1)
    return ratio(at.diff(dim=1).abs().sum(1), whole[:, 0])


def _up_to(cumulated: Tensor, where: Tensor) -> Tensor:
    """Sums up to cells ``(W, B − 1)``; 0 up to −1."""
    return cumulated.gather(1, where.clamp(min=0)) * (where >= 0)
