"""Whether attention is on the object.

    mass_j = Σ_n a_jn s_n      s_n: area share of cell n inside the box or the mask
    centroid_j = Σ_n a_jn c_n      c_n: centre of cell n

Uniform attention scores the object's own share of the picture, ``shares.mean(-1)``. Cells lie on
the H × W grid of the crop that the backbone saw, S pixels a side, or of another height and width; boxes
are ``x0, y0, x1, y1`` in its pixels with exclusive upper ends, as in a store.
"""

import torch
from torch import Tensor

Grid = tuple[int, int]
Size = int | tuple[int, int]  # S, or height and width


def box_shares(boxes: Tensor, grid: Grid, size: Size) -> Tensor:
    """Area share of each cell inside a box: ``(B, 4)`` → ``(B, N)`` in [0, 1].

    A cell that the box cuts counts by the part inside; a box without area gives zeros.

    Args:
        boxes: floating point, in pixels of the crop.
        grid: H and W, N = H·W.
        size: S, pixels a side, or height and width.
    """
    tall, wide = sides(size)
    rows = _overlaps(boxes[:, 1:2], boxes[:, 3:4], grid[0], tall)
    columns = _overlaps(boxes[:, 0:1], boxes[:, 2:3], grid[1], wide)
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def mask_shares(masks: Tensor, grid: Grid) -> Tensor:
    """Area share of each cell on the object: masks ``(B, S, S)`` of 0 and 1 → ``(B, N)``.

    Exact where a cell's edge runs through a pixel as well.
    """
    masks = masks if masks.is_floating_point() else masks.float()
    pixels = torch.arange(masks.shape[-1], device=masks.device, dtype=masks.dtype)[:, None]
    # (S, H) and (S, W): which part of a cell a pixel makes up, along one side.
    rows, columns = (_overlaps(pixels, pixels + 1, count, masks.shape[-1]) for count in grid)
    return (rows.mT @ masks @ columns).flatten(1)


def mass(maps: Tensor, shares: Tensor) -> Tensor:
    """Attention on the object: maps ``(B, M, N)``, shares ``(B, N)`` → ``(B, M)``."""
    return (maps @ shares.to(maps.dtype)[..., None])[..., 0]


def centroids(maps: Tensor, grid: Grid, size: Size) -> Tensor:
    """Attention-weighted mean cell centre: ``(B, M, N)`` → ``(B, M, 2)``, x and y in pixels."""
    (height, width), (tall, wide) = grid, sides(size)
    y = (torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5) * (tall / height)
    x = (torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5) * (wide / width)
    centres = torch.stack([x.repeat(height), y.repeat_interleave(width)], -1)
    return maps @ centres


def centroid_in_box(maps: Tensor, boxes: Tensor, grid: Grid, size: Size) -> Tensor:
    """Whether each map's centroid lies in the box, upper ends excluded: ``(B, M, N)``, ``(B, 4)`` →
    ``(B, M)`` bool."""
    points = centroids(maps, grid, size)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return ((points >= low) & (points < high)).all(-1)


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def _overlaps(low: Tensor, high: Tensor, cells: int, size: int) -> Tensor:
    """Which part of each of ``cells`` equal pieces of ``[0, size]`` is in ``[low, high]``.

    ``(B, 1)``, ``(B, 1)`` → ``(B, cells)``.
    """
    length = size / cells
    start = torch.arange(cells, device=low.device, dtype=low.dtype) * length
    inside = torch.minimum(high, start + length) - torch.maximum(low, start)
    return inside.clamp_min(0) / length
