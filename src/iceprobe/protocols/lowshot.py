"""Few labels: seeded draws of training images, each contained in the larger ones of its seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.task import Task


def draw(
    strata: np.ndarray,
    names: Sequence[str],
    *,
    shots: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of the training split that a low-shot fit is trained on, sorted.

    Each class's images are shuffled by ``(seed, class)`` alone and the first ones are taken. So the
    1-shot images of a seed are among its 5-shot images, and points of a curve over shots are comparable.
    Of tags ``shots`` images of each are drawn likewise; an image with several may be drawn for each of them. A
    ``fraction`` of tagged images are the first of one order, and the first with each tag.
    With groups the draw is of groups: ``shots`` of them, with all images of the class that they have.

    Args:
        strata: ``(n,)`` classes of the training images (or bins of a number), or tags ``(n, K)`` bool.
        names: of classes or tags, for errors.
        shots: images, or groups, a class, or
        fraction: of each class, in (0, 1]; rounded, at least one.
        seed: of the draw.
        groups: ``(n,)``.

    Raises:
        IceprobeError: if both or neither are given, and for a class with fewer images than ``shots``.
    """
    if (shots is None) == (fraction is None):
        raise IceprobeError(f"shots={shots} and fraction={fraction}: give one of the two")
    tagged = strata.ndim == 2
    if tagged and fraction is not None:
        return _share(strata, fraction, seed, groups)
    chosen = []
    for label in range(strata.shape[1]) if tagged else np.unique(strata).tolist():
        rows = np.flatnonzero(strata[:, label] if tagged else strata == label)
        units = rows if groups is None else np.unique(groups[rows])
        count = shots if fraction is None else max(1, round(fraction * len(units)))
        assert count is not None
        if count > len(units):
            of, what = ("class", "images") if not tagged else ("tag", "images")
            what = what if groups is None else "groups"
            raise IceprobeError(
                f"shots={shots}: {of} {names[label]!r} has only {len(units)} training {what}, "
                f"take --shots {len(units)} at most"
            )
        taken = np.random.default_rng((seed, int(label))).permutation(units)[:count]
        chosen.append(taken if groups is None else rows[np.isin(groups[rows], taken)])
    return np.unique(np.concatenate(chosen))


def drawn(
    task: Task,
    targets: np.ndarray,
    names: Sequence[str],
    *,
    shots: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """:func:`draw` of training examples with targets ``(n, …)``.

    Raises:
        IceprobeError: as there, and for ``shots`` of numbers, which have no classes.
    """
    if shots is not None and not task.weighs_classes:
        raise IceprobeError(
            f"shots={shots}: {task.name} has no classes to draw of each, take --fraction"
        )
    how: dict[str, Any] = {"shots": shots, "fraction": fraction, "seed": seed, "groups": groups}
    return draw(task.strata(targets), names, **how)


def _share(tags: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None) -> np.ndarray:
    """A fraction of tagged images, or of their groups."""
    units, of = np.unique(np.arange(len(tags)) if groups is None else groups, return_inverse=True)
    place = np.empty(len(units), np.int64)
    place[np.random.default_rng(seed).permutation(len(units))] = np.arange(len(units))
    place = place[of]  # of each image's unit in the order
    taken = place < max(1, round(fraction * len(units)))
    for tag in tags.T:
        if tag.any():
            taken |= place == place[tag].min()
    return np.flatnonzero(taken)
