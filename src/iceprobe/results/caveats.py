"""What is said beside a figure: what its interval is over, and what isn't in it."""

from collections.abc import Sequence

from iceprobe.results.schema import Result


def kept(result: Result) -> str:
    """``"2 of 3 seeds"`` where some have diverged, ``"3 seeds"``, ``""`` where nothing is random."""
    if not result.seeds:
        return ""
    noun = "replicate" if result.variance == "replicates" else "seed"
    there, lost = len(result.seeds), len(result.lost_seeds)
    of = f" of {there + lost}" if lost else ""
    return f"{there}{of} {noun}{'s' if there + lost > 1 else ''}"


def lost_note(result: Result) -> str:
    """Which seeds diverged, and that figure and interval are of the others; ``""`` without any."""
    if not (lost := result.lost_seeds):
        return ""
    noun = "replicate" if result.variance == "replicates" else "seed"
    names = f"{noun}{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
    return (
        f"{names} diverged and {'are' if len(lost) > 1 else 'is'} left out: figure, deviation and "
        f"interval are of {kept(result)}"
    )


def covered(*results: Result) -> str:
    """What an interval of these is over: ``"2,000 test images and 3 seeds"``.

    Of two probes whose replicates aren't the same ones it says that they aren't paired.
    """
    images = next((f"{one.test_images:,} " for one in results if one.test_images), "")
    over = f"{images}{results[0].split} images"
    rows = list(dict.fromkeys(filter(None, map(kept, results))))
    if not rows:
        return over
    if all(len(one.seeds) == 1 for one in results if one.seeds):
        return f"{over} alone, of one seed"
    sets = {tuple(one.seeds) for one in results if one.variance == "replicates"}
    return f"{over} and {' or '.join(rows)}{', unpaired' if len(sets) > 1 else ''}"


def few_rows(results: Sequence[Result]) -> str:
    """What the intervals of a single seed leave out, and of a few get wrong; ``""`` without any.

    Seeds of two probes have nothing in common and pool what they vary by; replicates are paired and
    don't, hence one more of them (docs/verdicts.md).
    """
    trained = [one for one in results if one.seeds]
    alone = [one.label for one in trained if len(one.seeds) == 1]
    few = [
        one.label
        for one in trained
        if 1 < len(one.seeds) <= (3 if one.variance == "replicates" else 2)
    ]
    said = []
    for names, words in ((alone, _ALONE), (few, _FEW)):
        if names:
            said.append(words.format(f" ({listed(names)})" if len(names) < len(trained) else ""))
    return " ".join(said)


_ALONE = (
    "One seed{}: what another initialisation, order or held-out part would change is in no interval; "
    "--replicates 5 puts it there."
)
_FEW = (
    "Two seeds, or two or three replicates,{} say hardly how far others would lie: where they differ a "
    "lot, intervals are too narrow; --replicates 5 carries them."
)


def listed(names: Sequence[str], most: int = 4) -> str:
    """``"a, b"``; of many the first and how many more."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
