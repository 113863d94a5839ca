"""The part of the training split that selects settings."""

import numpy as np


def heldout_split(
    labels: np.ndarray, seed: int, fraction: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, both sorted; stratified and seeded.

    Of a class with m images ``round(fraction · m)`` are held out, at least one where the class
    has two or more; a class with one image stays in training whole, so that no class is held out
    without having been seen. (scikit-learn's stratified splitters refuse such classes.)

    Args:
        labels: ``(n,)`` classes of the training images.
        seed: of the draw.
        fraction: to hold out, in (0, 1).
    """
    rng = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = max(1, round(fraction * len(rows))) if len(rows) > 1 else 0
        held.append(rows[:count])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out
