"""Results over several backbones, layers or numbers of training images: ranks and curves."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from iceprobe.core.specs import parse_spec
from iceprobe.results.comparison import clear_pairs
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import level
from iceprobe.results.schema import Result
from iceprobe.results.tables import leaderboard
from iceprobe.results.varying import draw_of


@dataclass(frozen=True)
class Ranked:
    """A backbone under one probe."""

    result: FittedResult
    rank: int  # 1 for the best backbone under this probe; equal scores have one rank
    tied: bool  # whether the backbone before it isn't clearly better (`clear_pairs`); not the first


@dataclass(frozen=True)
class Ranking:
    """Backbones on the same images, under each probe."""

    title: str  # the data set, and the draw where there is one
    paradigms: dict[str, list[str]]  # how they were pre-trained → backbones, in the order given
    probes: list[str]  # those that every backbone has, in the order given
    cells: dict[tuple[str, str], Ranked]  # (backbone, probe) → its place

    @property
    def backbones(self) -> list[str]:
        return [name for names in self.paradigms.values() for name in names]

    def moved(self) -> bool:
        """Whether two probes put a pair of backbones clearly in different orders."""
        orders = [clear_order(self.under(probe)) for probe in self.probes]
        above = {pair for order in orders for pair in order}
        return any((worse, better) in above for better, worse in above)

    def under(self, probe: str) -> list[FittedResult]:
        """Results of the backbones under one probe."""
        return [self.cells[backbone, probe].result for backbone in self.backbones]


@dataclass(frozen=True)
class Sweep:
    """One backbone on one data set at several points of an axis."""

    title: str  # backbone and data set
    lines: dict[str, list[tuple[float, FittedResult]]]  # probe → (x, result) in the order of x


def rankings(results: Sequence[FittedResult]) -> list[Ranking]:
    """A ranking for each set of test images on which several backbones have the same probe.

    Layers of one backbone aren't ranked: they have their own curve.
    """
    found = []
    for (title, *_), members in split_by(results, same_images).items():
        names = list(dict.fromkeys(one.backbone for one in members))
        if len({without_layer(name) for name in names}) < len(names) or len(names) < 2:
            continue
        by_setup = {(one.backbone, one.label): one for one in members}
        probes = [
            probe
            for probe in dict.fromkeys(one.label for one in members)
            if all((name, probe) in by_setup for name in names)
        ]
        cells = {
            (one.result.backbone, probe): one
            for probe in probes
            for one in rank([by_setup[name, probe] for name in names])
        }
        paradigms: dict[str, list[str]] = defaultdict(list)
        for name in names:
            of = next(one.paradigm for one in members if one.backbone == name)
            paradigms[of or "unknown"].append(name)
        found += [Ranking(title, paradigms, probes, cells)] if probes else []
    return found


def rank(results: Sequence[FittedResult]) -> list[Ranked]:
    """Results of one probe on the same images, best first."""
    ordered = leaderboard(results)
    clear = clear_pairs(ordered)
    ranked = [Ranked(ordered[0], 1, tied=False)]
    for place, (better, one) in enumerate(pairwise(ordered), 2):
        equal = level(better) == level(one)
        tied = (place - 2, place - 1) not in clear
        ranked.append(Ranked(one, ranked[-1].rank if equal else place, tied))
    return ranked


def leaders(results: Sequence[FittedResult]) -> list[FittedResult]:
    """The best of results on the same images, and all others that it isn't clearly better than (Holm)."""
    ordered = leaderboard(results)
    clear = clear_pairs(ordered)
    return [one for place, one in enumerate(ordered) if (0, place) not in clear]


def clear_order(results: Sequence[FittedResult]) -> set[tuple[str, str]]:
    """Pairs (better, worse) of backbones that are clearly in this order under one probe."""
    return {(results[i].backbone, results[j].backbone) for i, j in clear_pairs(results)}


def by_layer(results: Sequence[FittedResult]) -> list[Sweep]:
    """A sweep for each backbone that was read at several layers."""
    return _sweeps(
        [(one.layer, one) for one in results],
        lambda one: (without_layer(one.backbone), one.dataset, draw_of(one)),
    )


def by_training_images(results: Sequence[FittedResult]) -> list[Sweep]:
    """A sweep for each backbone that was probed with several numbers of training images."""
    return _sweeps(
        [(one.train_images, one) for one in results], lambda one: (one.backbone, one.dataset)
    )


def without_layer(backbone: str) -> str:
    """A backbone's spec without the layer it was read at."""
    spec = parse_spec(backbone)
    options = {key: value for key, value in spec.options.items() if key != "layer"}
    return str(replace(spec, options=options))


def _sweeps(
    placed: Sequence[tuple[int | None, FittedResult]],
    kind: Callable[[FittedResult], tuple[str, ...]],
) -> list[Sweep]:
    lines: dict[tuple[str, ...], dict[str, list[tuple[float, FittedResult]]]]
    lines = defaultdict(lambda: defaultdict(list))
    for x, one in placed:
        if x is not None:
            place = (" · ".join(filter(None, kind(one))), one.images, one.protocol, one.split)
            lines[place][one.label].append((float(x), one))
    return [
        Sweep(title, {probe: sorted(points, key=lambda p: p[0]) for probe, points in of.items()})
        for (title, *_), of in lines.items()
        if any(len({x for x, _ in points}) > 1 for points in of.values())
    ]


def same_images(one: Result) -> tuple[str, str]:
    """What comparable results share: data set, draw, protocol and split in words, and the images' hash."""
    title = " · ".join(filter(None, (one.dataset, draw_of(one), one.protocol, one.split)))
    return title, one.images


def split_by(
    results: Sequence[FittedResult], key: Callable[[FittedResult], tuple[str, ...]]
) -> dict[tuple[str, ...], list[FittedResult]]:
    """Results by ``key``, in the order in which each first appears."""
    found: dict[tuple[str, ...], list[FittedResult]] = defaultdict(list)
    for one in results:
        found[key(one)].append(one)
    return found
