"""Words beside a figure: what its interval is over, what it leaves out, and whether it can be trusted."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.results.schema import Result
from iceprobe.results.units import codes_of, number_of
from iceprobe.store.format import FOLDS
from iceprobe.tasks.metrics import Metric
from iceprobe.tasks.targets import UNKNOWN

UNTRUSTED = "the interval can't be trusted"
FEW = 10  # independent examples or groups, or positives, below which an interval isn't trusted
FEW_HAVING = 5  # groups with the rarest outcome, likewise
#: Formulas of integer targets that count all examples alike, not those of a class or tag.
_ALIKE = frozenset({"ece", "exact_match"})
_POOLED = "_micro"  # metrics that take the cells of all tags for one


def kept(result: Result) -> str:
    """``"3 seeds"``, ``"2 of 3 seeds"`` where some diverged, ``""`` where nothing is random."""
    if not result.seeds:
        return ""
    lost = len(result.lost_seeds)
    of = f"{len(result.seeds)} of " if lost else ""
    return of + counted(len(result.seeds) + lost, _row_noun(result))


def lost_note(result: Result) -> str:
    """Which seeds diverged and are left out; ``""`` if none."""
    if not (lost := result.lost_seeds):
        return ""
    noun, are = (f"{_row_noun(result)}s", "are") if len(lost) > 1 else (_row_noun(result), "is")
    return (
        f"{noun} {', '.join(map(str, lost))} diverged and {are} left out: figure, deviation and "
        f"interval are of {kept(result)}"
    )


def covered(*results: Result) -> str:
    """What an interval of these is over: ``"2,000 test images and 3 seeds"``, ``", unpaired"`` where the
    replicates of two probes aren't the same."""
    images = next((f"{one.test_images:,} " for one in results if one.test_images), "")
    over = f"{images}{tested(results[0])} images"
    rows = list(dict.fromkeys(filter(None, map(kept, results))))
    if not rows:
        return over
    if all(len(one.seeds) == 1 for one in results if one.seeds):
        return f"{over} alone, of one seed"
    sets = {tuple(one.seeds) for one in results if one.variance == "replicates"}
    return f"{over} and {' or '.join(rows)}{', unpaired' if len(sets) > 1 else ''}"


def tested(result: Result) -> str:
    """What its test images are called: ``"test"``, ``"out-of-fold"``."""
    return "out-of-fold" if result.split == FOLDS else result.split


def few_rows(results: Sequence[Result]) -> str:
    """A caveat for results of one seed or of few; ``""`` if there are none.

    Seeds of two probes are independent, and their variances are pooled. Paired replicates give one
    variance, so one more of them counts as few (docs/verdicts.md).
    """
    trained = [one for one in results if one.seeds]
    most = {"replicates": 3}
    alone = [one.label for one in trained if len(one.seeds) == 1]
    few = [one.label for one in trained if 1 < len(one.seeds) <= most.get(one.variance, 2)]
    return " ".join(
        words.format(f" ({listed(names)})" if len(names) < len(trained) else "")
        for names, words in ((alone, _ALONE), (few, _FEW))
        if names
    )


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
    if targets.dtype.kind not in "iub" or metric.name in _ALIKE:
        return None
    if metric.formula is None and metric.strata is None:
        return None
    codes = codes_of(groups, len(targets))
    units = np.arange(len(targets)) if codes is None else codes
    columns = [targets] if targets.ndim == 1 else list(targets.T)
    if metric.name.endswith(_POOLED):
        columns, units = [targets.ravel()], np.repeat(units, targets.shape[1])
    found: list[tuple[int, int]] = []
    for column in columns:
        known = np.ones(len(column), bool) if targets.ndim == 1 else column != UNKNOWN
        outcomes = np.unique(column[known], return_inverse=True)[1]
        pairs = np.unique(np.stack([outcomes, units[known]]), axis=1)
        found += zip(np.bincount(outcomes).tolist(), np.bincount(pairs[0]).tolist(), strict=True)
    return (min(one for one, _ in found), min(of for _, of in found)) if found else (0, 0)


_ALONE = (
    "One seed{}: what another initialisation, order or held-out part would change is in no interval; "
    "--replicates 5 puts it there."
)
_FEW = (
    "Two seeds, or two or three replicates,{} say hardly how far others would lie: where they differ a "
    "lot, intervals are too narrow; --replicates 5 carries them."
)


def _row_noun(result: Result) -> str:
    return "replicate" if result.variance == "replicates" else "seed"


def counted(number: int, noun: str) -> str:
    """``"1 seed"``, ``"3 seeds"``."""
    return f"{number} {noun}{'s' if number > 1 else ''}"


def enumerated(names: Sequence[str]) -> str:
    """``"a, b and c"``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def listed(names: Sequence[str], most: int = 4) -> str:
    """``"a, b"``; of more than ``most`` the first ones, and the number of the others."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
