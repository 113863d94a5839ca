"""Words beside a figure: what its interval is over, what it leaves out, and whether it can be trusted."""

from collections.abc import Sequence

from iceprobe.core.text import counted
from iceprobe.results.examples import examples_of
from iceprobe.results.schema import Result
from iceprobe.store.format import FOLDS


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
    """What an interval of these is over: ``"2,000 test images and 3 seeds"``, ``"groups of 2,000 …"`` where
    images aren't independent, ``", unpaired"`` where the replicates of two probes aren't the same."""
    images = next((f"{one.test_images:,} " for one in results if one.test_images), "")
    of = examples_of(*results)
    over = f"{'groups of ' if results[0].group else ''}{images}{tested(results[0])} {of}"
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


def enumerated(names: Sequence[str]) -> str:
    """``"a, b and c"``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def listed(names: Sequence[str], most: int = 4) -> str:
    """``"a, b"``; of more than ``most`` the first ones, and the number of the others."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
