"""A test split for examples that come without one: stratified, seeded, no group cut."""

import numpy as np

from iceprobe.core.errors import IceprobeError


def divided(
    strata: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int
) -> np.ndarray:
    """Which examples are for testing, ``(n,)`` bool: about ``fraction`` of each stratum.

    Train keeps an example at least of each stratum.

    Args:
        strata: ``(n,)``, of the task.
        groups: ``(n,)`` codes, −1 for an example that is its own; ``None`` if there are none.

    Raises:
        IceprobeError: if no group can be taken without one.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        chosen = np.zeros(len(strata), bool)
        for stratum in np.unique(strata):
            rows = np.flatnonzero(strata == stratum)
            take = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
            chosen[rng.permutation(rows)[:take]] = True
    else:
        chosen = _of_groups(strata, groups, fraction, rng)
    if not chosen.any():
        raise IceprobeError(
            f"test_fraction={fraction:g} leaves no test split: of {len(strata)} rows no "
            f"{'row' if groups is None else 'group'} can be taken that train doesn't need; add rows, or "
            "name a split="
        )
    return chosen


def _of_groups(
    strata: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Groups in a random order, large ones first; each is taken if the strata come closer to their
    shares."""
    own = groups.max(initial=-1) + 1 + np.arange(len(groups))
    _, member = np.unique(np.where(groups < 0, own, groups), return_inverse=True)
    _, stratum = np.unique(strata, return_inverse=True)
    counts = np.zeros((member.max() + 1, stratum.max() + 1))
    np.add.at(counts, (member, stratum), 1)
    total = counts.sum(0)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    missing, left = fraction * total, total.copy()
    taken = np.zeros(len(counts), bool)
    for group in order:
        inside = counts[group]
        closer = (((missing - inside) ** 2 - missing**2) / total).sum() < 0
        if closer and (left - inside > 0).all():
            taken[group], missing, left = True, missing - inside, left - inside
    if not taken.any():
        spare = [group for group in order[::-1] if (total - counts[group] > 0).all()]
        taken[spare[:1]] = True
    chosen: np.ndarray = taken[member]
    return chosen
