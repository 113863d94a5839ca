"""Independent units: examples, or groups of examples that aren't independent of each other."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def codes_of(groups: ArrayLike | None, n: int) -> NDArray[np.int64] | None:
    """The group 0 … G − 1 of each example, ``(n,)``; None if each is alone.

    Raises:
        ValueError: if there isn't one group an example.
    """
    if groups is None:
        return None
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(f"{n} examples have {groups.shape} groups")
    found, codes = np.unique(groups, return_inverse=True)
    return None if len(found) == n else codes.astype(np.int64)


def number_of(groups: ArrayLike | None, n: int) -> int:
    """G, how many units n examples are; n without groups."""
    codes = codes_of(groups, n)
    return n if codes is None else 1 + int(codes.max(initial=-1))


def cells_of(
    strata: NDArray[np.int64], codes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of stratum and unit that occur: the stratum and the unit of each, and the pair of each example.

    Both are numbers from 0, ``(n,)``. Pairs are in order, by stratum first.
    """
    many = 1 + int(codes.max(initial=0))
    cells, place = np.unique(strata * many + codes, return_inverse=True)
    return (*np.divmod(cells, many), place)


def summed(values: NDArray[np.float64], codes: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """Sums over the examples of each unit: ``(n,)`` → ``(G,)``."""
    return values if codes is None else np.bincount(codes, values).astype(np.float64)


def worth(weights: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> float:
    """The number of equally weighted units that are worth as much: 1/Σ W², W the weights of units."""
    each = summed(weights, codes)
    return 1 / float(each @ each)
