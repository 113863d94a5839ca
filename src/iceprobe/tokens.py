"""Tokens: what a frozen backbone makes of a batch of images."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Tokens of a batch of images.

    Attributes:
        patches: ``(B, N, D)``, one vector per image patch (or cell of a CNN's last map), row by
            row over the grid.
        prefix: ``(B, P, D)``, the class token first where there is one, then registers; P may
            be 0.
        grid: rows and columns ``(H, W)`` of the patches, N = H·W; ``None`` where they have no
            grid.
        has_class: whether ``prefix[:, 0]`` is a class token.
    """

    patches: Tensor
    prefix: Tensor
    grid: tuple[int, int] | None = None
    has_class: bool = False

    def __post_init__(self) -> None:
        (b, n, d), (pb, p, pd) = self.patches.shape, self.prefix.shape
        if (b, d) != (pb, pd):
            raise ValueError(f"patches {(b, n, d)} and prefix {(pb, p, pd)} differ in B or D")
        if self.grid is not None and self.grid[0] * self.grid[1] != n:
            raise ValueError(f"a grid of {self.grid} has not {n} patches")
        if self.has_class and p == 0:
            raise ValueError("has_class is set but there is no prefix token")

    @property
    def class_token(self) -> Tensor | None:
        """``(B, D)``, or ``None`` where the backbone has none."""
        return self.prefix[:, 0] if self.has_class else None

    @property
    def mean(self) -> Tensor:
        """Mean of the patch tokens in float32, ``(B, D)``."""
        return self.patches.float().mean(1)
