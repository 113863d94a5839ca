"""Where names go beside the points of a scatter plot so that none covers another."""

from collections.abc import Sequence
from dataclasses import dataclass

_CHARACTER, _LINE, _MARK = 6.3, 13.0, 6.0  # pixels at 12 px type


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, width: float, height: float) -> bool:
        return self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    obstacles: Sequence[Box],
    size: tuple[float, float],
) -> list[tuple[float, float] | None]:
    """Centres of the labels, greedily: near places first, best-ranked point first.

    Args:
        points: marks in pixels, the most important first.
        texts: one label a point.
        obstacles: what must stay visible besides the marks (error bars).
        size: width and height of the plot.

    Returns:
        The centre of each label in pixels, or None where no place is free.
    """
    marks = [Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in points]
    taken = [*marks, *obstacles]
    centres: list[tuple[float, float] | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        half = len(text) * _CHARACTER / 2
        chosen = None
        for dx, dy in _candidates(half):
            box = Box(x + dx - half, y + dy - _LINE / 2, x + dx + half, y + dy + _LINE / 2)
            if box.within(*size) and not any(box.overlaps(other) for other in taken):
                chosen = (x + dx, y + dy)
                taken.append(box)
                break
        centres.append(chosen)
    return centres


def _candidates(half: float) -> list[tuple[float, float]]:
    """Offsets of a label's centre from its mark: sides first, then corners, then further off."""
    places = []
    for gap in (10.0, 18.0, 28.0, 40.0):
        side, lift = half + gap, gap + _LINE / 2
        places += [(side, 0), (-side, 0), (side, -lift / 2), (side, lift / 2)]
        places += [(-side, -lift / 2), (-side, lift / 2), (0, -lift), (0, lift)]
        places += [(side, -lift), (-side, -lift), (side, lift), (-side, lift)]
    return places
