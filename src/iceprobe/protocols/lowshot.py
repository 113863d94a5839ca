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

    Each class's images are shuffled by ``(seed, class)`` alone and the first ones are taken, so of
    one seed the 1-shot images are among the 5-shot ones, and a curve over shots compares like
    with like.

    Args:
        labels: ``(n,)`` classes of the training images.
        classes: their names, for errors.
        shots: images a class, or
        fraction: of each class, in (0, 1]; rounded, at least one image.
        seed: of the draw.

    Raises:
        IceprobeError: if both or neither are given, for a value out of range, and for a class
            with fewer images than ``shots``.
    """
    if (shots is None) == (fraction is None):
        raise IceprobeError(f"shots={shots} and fraction={fraction}: give one of the two")
    if shots is not None and shots < 1:
        raise IceprobeError(f"shots={shots}: give at least 1 image a class")
    if fraction is not None and not 0 < fraction <= 1:
        raise IceprobeError(f"fraction={fraction}: give a number above 0 and at most 1")
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
