"""Few labels: seeded draws of training images, each contained in the larger ones of its seed."""

import numpy as np

from iceprobe.core.errors import IceprobeError


def draw(
    labels: np.ndarray,
    classes: list[str],
    *,
    shots: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Rows of the training split that a low-shot fit is trained on, sorted.

    Each class's images are shuffled by ``(seed, class)`` alone and the first ones are taken. So the
    1-shot images of a seed are among its 5-shot images, and points of a curve over shots are comparable.

    Args:
        labels: ``(n,)`` classes of the training images.
        classes: their names, for errors.
        shots: images a class, or
        fraction: of each class, in (0, 1]; rounded, at least one image.
        seed: of the draw.

    Raises:
        IceprobeError: if both or neither are given, and for a class with fewer images than ``shots``.
    """
    if (shots is None) == (fraction is None):
        raise IceprobeError(f"shots={shots} and fraction={fraction}: give one of the two")
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = shots if fraction is None else max(1, round(fraction * len(rows)))
        assert count is not None
        if count > len(rows):
            raise IceprobeError(
                f"shots={shots}: class {classes[label]!r} has only {len(rows)} training images, "
                f"take --shots {len(rows)} at most"
            )
        shuffled = np.random.default_rng((seed, int(label))).permutation(rows)
        chosen.append(shuffled[:count])
    return np.sort(np.concatenate(chosen))
