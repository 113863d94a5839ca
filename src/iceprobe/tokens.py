"""Tokens: what a frozen backbone makes of a batch of images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        vectors: what the model makes of its tokens at its very end, by name, each ``(B, D')``
            with a width of its own. ``pooled`` is the output of its learned attention pool
            (SigLIP, SigLIP2, PE), or of its global pooling where it ends in a map (CNNs, Swin);
            ``class_projected`` the class token in the space shared with text, not yet divided by
            its length (CLIP). Empty where the model has none and for layers before the last.
    """

    patches: Tensor
    prefix: Tensor
    grid: tuple[int, int] | None = None
    has_class: bool = False
    vectors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (b, n, d), (pb, p, pd) = self.patches.shape, self.prefix.shape
        if (b, d) != (pb, pd):
            raise ValueError(f"patches {(b, n, d)} and prefix {(pb, p, pd)} differ in B or D")
        if self.grid is not None and self.grid[0] * self.grid[1] != n:
            raise ValueError(f"a grid of {self.grid} has not {n} patches")
        if self.has_class and p == 0:
            raise ValueError("has_class is set but there is no prefix token")
        for name, vector in self.vectors.items():
            if vector.ndim != 2 or len(vector) != b:
                raise ValueError(f"vector {name!r} {tuple(vector.shape)} is not of shape ({b}, D')")

    @property
    def class_token(self) -> Tensor | None:
        """``(B, D)``, or ``None`` where the backbone has none."""
        return self.prefix[:, 0] if self.has_class else None

    @property
    def mean(self) -> Tensor:
        """Mean of the patch tokens in float32, ``(B, D)``."""
        return self.patches.float().mean(1)
