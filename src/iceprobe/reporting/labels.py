"""Where names go beside the points of a scatter plot so that none covers another."""

from collections.abc import Sequence
from dataclasses import dataclass

_LINE, _MARK = 14.0, 6.0  # pixels at 12 px type
_NEAR = (10.0, 18.0)  # pixels from a mark to its label
_GAPS = (*_NEAR, 28.0, 40.0, 54.0)
# Letters of bold 12 px type in DejaVu Sans, the widest font that a page is shown in: at most so wide.
_NARROW, _WIDE = frozenset(" .,:;|!'`ijlIft()[]/\\-"), frozenset("mwMW%@")


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


def text_width(text: str) -> float:
    """Pixels that ``text`` takes in bold 12 px type, at most."""
    return sum(map(_advance, text))


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    obstacles: Sequence[Box],
    size: tuple[float, float],
    *,
    close: bool = False,
) -> list[tuple[float, float] | None]:
    """The centre of each label in pixels, greedily from near to far; None where no place is free.

    A name that was written before is written again only close to its mark.

    Args:
        points: marks in pixels, the most important first.
        texts: one label a point.
        obstacles: what must stay visible besides the marks (error bars).
        size: width and height of the plot.
        close: whether a name is only written beside its mark: among many it is else taken for another's.
    """
    marks = [Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in points]
    taken = [*marks, *obstacles]
    centres: list[tuple[float, float] | None] = []
    written: set[str] = set()
    for (x, y), text in zip(points, texts, strict=True):
        half = text_width(text) / 2
        for dx, dy in _candidates(half, _NEAR if close or text in written else _GAPS):
            box = Box(x + dx - half, y + dy - _LINE / 2, x + dx + half, y + dy + _LINE / 2)
            if box.within(*size) and not any(box.overlaps(other) for other in taken):
                centres.append((x + dx, y + dy))
                taken.append(box)
                written.add(text)
                break
        else:
            centres.append(None)
    return centres


def _candidates(half: float, gaps: Sequence[float]) -> list[tuple[float, float]]:
    """Offsets of a label's centre from its mark: sides first, then corners, then further off."""
    offsets = []
    for gap in gaps:
        side, lift = half + gap, gap + _LINE / 2
        offsets += [(side, 0), (-side, 0), (side, -lift / 2), (side, lift / 2)]
        offsets += [(-side, -lift / 2), (-side, lift / 2), (0, -lift), (0, lift)]
        offsets += [(side, -lift), (-side, -lift), (side, lift), (-side, lift)]
        offsets += [(-half, -lift), (-half, lift), (half, -lift), (half, lift)]
    return offsets


def _advance(letter: str) -> float:
    if letter in _NARROW:
        return 5.8
    if letter in _WIDE or not letter.isascii():
        return 13.3
    return 8.7 if letter.islower() or letter.isdigit() else 10.3
