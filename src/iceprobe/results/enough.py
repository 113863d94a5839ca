"""Whether there are enough independent examples for an interval to be trusted."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.core.text import counted
from iceprobe.results.units import cells_of, codes_of, number_of
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.targets import UNKNOWN

UNTRUSTED = "the interval can't be trusted"
FEW = 10  # independent examples or groups, or positives, below which an interval isn't trusted
FEW_HAVING = 5  # groups with the rarest outcome, likewise


def caveat(metric: Metric, targets: NDArray, groups: ArrayLike | None = None) -> str | None:
    """Why the interval of a metric can't be trusted, in words; None where there is no reason.

    There are fewer than 10 independent examples or groups; or, of a metric that counts examples of a class or
    tag, fewer than 10 with the rarest outcome, or fewer than 5 groups that have some.

    Args:
        targets: ``(n, …)`` as the task has them.
        groups: ``(n,)``, equal for examples that aren't independent; None: all are.
    """
    codes = codes_of(groups, len(targets))
    units = number_of(codes, len(targets))
    if units < FEW:
        return f"{UNTRUSTED}: it is over {counted(units, 'example' if codes is None else 'group')}"
    if (found := rarest(metric, targets, codes)) is None:
        return None
    examples, having = found
    if examples < FEW:
        return f"{UNTRUSTED}: {counted(examples, 'example')} of the rarest outcome"
    if having < FEW_HAVING:
        return f"{UNTRUSTED}: {counted(having, 'group')} with the rarest outcome"
    return None


def rarest(
    metric: Metric, targets: NDArray, groups: ArrayLike | None = None
) -> tuple[int, int] | None:
    """How many examples, and how many groups, have the rarest outcome; None where the metric counts none.

    Outcomes are the classes that occur; of tags having one and lacking one, among known cells. Examples and
    groups may have different rarest outcomes.
    """
    targets = np.asarray(targets)
    if targets.dtype.kind not in "iub" or metric.counts == "examples":
        return None
    if metric.formula is None and metric.strata is None:
        return None
    codes = codes_of(groups, len(targets))
    units = np.arange(len(targets)) if codes is None else codes
    columns = [targets] if targets.ndim == 1 else list(targets.T)
    if metric.counts == "cells":
        columns, units = [targets.ravel()], np.repeat(units, targets.shape[1])
    found: list[tuple[int, int]] = []
    for column in columns:
        known = np.ones(len(column), bool) if targets.ndim == 1 else column != UNKNOWN
        outcomes = np.unique(column[known], return_inverse=True)[1]
        having, _, _ = cells_of(outcomes, units[known])
        found += zip(np.bincount(outcomes).tolist(), np.bincount(having).tolist(), strict=True)
    return (min(one for one, _ in found), min(of for _, of in found)) if found else (0, 0)
