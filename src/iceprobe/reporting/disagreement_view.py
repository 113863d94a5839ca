"""The images two probes disagree on, with both maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from iceprobe.results.comparison import BASELINES, EFFICIENT, probe_name, reference_ep
from iceprobe.results.disagreement import Disagreement, disagreement
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import noun_of
from iceprobe.results.tables import leaderboard

if TYPE_CHECKING:
    from iceprobe.reporting.attention import Album
    from iceprobe.store import Store

COUNT = 4  # images on each side


@dataclass(frozen=True)
class Disputed:
    """One image and the answers of both; a map is None where a probe has none."""

    name: str
    label: str
    read: tuple[str, str]
    image: str
    maps: tuple[str | None, str | None]


@dataclass(frozen=True)
class DisagreementView:
    """What the page shows of a pair of probes."""

    pair: tuple[FittedResult, FittedResult]
    rule: str  # how the second was chosen, as the end of a sentence
    counted: Disagreement
    sides: tuple[list[Disputed], list[Disputed]]  # the first alone is right, the second alone


def chosen_pair(results: Sequence[FittedResult]) -> tuple[FittedResult, FittedResult, str] | None:
    """The two probes to compare, and how the second was chosen.

    EP (the best one, as in the headline; without an EP the most accurate attentive probe) against the
    most accurate attentive probe of another kind, else against the most accurate other EP, else against
    the most accurate linear probe.
    """
    asked = [
        one
        for one in results
        if one.method == "trained" and one.adaptation is None and one.predictions() is not None
    ]
    usable = leaderboard(asked)
    attentive = [one for one in usable if probe_name(one) not in BASELINES]
    first = reference_ep(asked) or next(iter(attentive), None)
    if first is None:
        return None
    others = [one for one in attentive if one is not first]
    kind = probe_name(first)
    no_kin = "that is no EP" if kind == EFFICIENT else "of another kind"
    most = "most accurate" if noun_of(usable) == "accuracy" else "best"
    candidates = {
        f"attentive probe {no_kin}": [one for one in others if probe_name(one) != kind],
        "other probe of its kind": others,
        "linear probe": [one for one in usable if probe_name(one) == "linear"],
    }
    rules = ((first, found[0], f"the {most} {what}") for what, found in candidates.items() if found)
    return next(rules, None)


def disagreement_view(
    results: Sequence[FittedResult], opened: Callable[[FittedResult], "Store"]
) -> DisagreementView | None:
    """Images that two of the results disagree on; None where no two can be compared.

    Args:
        results: on the same images.
        opened: result → its store.

    Raises:
        IceprobeError: if the store, its images or the fitted probes can't be found.
    """
    if (chosen := chosen_pair(results)) is None:
        return None
    first, second, rule = chosen
    a, b = first.needed_predictions(), second.needed_predictions()
    counted = disagreement(a, b, COUNT)
    rows = np.concatenate([counted.for_a, counted.for_b])
    if not len(rows):
        return None
    from iceprobe.reporting.attention import Album, check_maps  # torch: only where maps are drawn

    store = opened(first)
    check_maps(store, first.split)
    album = Album(store, first.split, rows)
    maps = [_mean_maps(one, album) for one in (first, second)]
    classes = list(album.store.classes)
    disputed = [
        Disputed(
            name=album.names[i],
            label=classes[int(album.labels[i])],
            read=(classes[int(a.predicted[0, row])], classes[int(b.predicted[0, row])]),
            image=album.pictures[i],
            maps=(maps[0][i], maps[1][i]),
        )
        for i, row in enumerate(rows)
    ]
    cut = len(counted.for_a)
    return DisagreementView((first, second), rule, counted, (disputed[:cut], disputed[cut:]))


def _mean_maps(result: FittedResult, album: "Album") -> list[str | None]:
    """Each image's mean map over the predictors of the first seed."""
    if (found := album.maps(album.probe(result))) is None:
        return [None] * len(album.rows)
    return [overlays[0] for overlays in album.overlays(found.mean(1, keepdim=True))]
