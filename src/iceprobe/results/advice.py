"""Which probe to report, from the results: one paragraph for each set of test images.

The one to report is the cheapest (fewest trainable parameters, of equals fewest FLOPs) of those that are
shown to lose less than a margin, one point of the headline unless said, to every other
(`results/choice.py`). Where none is shown nothing is reported: the paragraph says between which it is
undecided, and how many test images, or replicates, would probably decide.

A probe that is undertrained (`results/undertrained.py`) is in none of these comparisons: it is named,
and while there is one nothing is said of which probe to report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.results.agreement import Agreement, agreement
from iceprobe.results.caveats import few_rows, kept, lost_note
from iceprobe.results.choice import Choice, Undecided, choose, cost
from iceprobe.results.comparison import (
    Comparison,
    compare_pair,
    efficient,
    family,
    level,
    probe_name,
    shared_headline,
    warned,
)
from iceprobe.results.headline import NAMES, weights
from iceprobe.results.schema import Result
from iceprobe.results.sweeps import Ranked, clear_order, rank, same_images, split_by
from iceprobe.results.tables import TRAIN_LONGER, short, signed_points, span, tenths

LINEAR = "linear"
MARGIN = 0.01  # of the headline: what a cheaper probe may lose
#: Probes without learned aggregation.
PLAIN = ("knn", LINEAR, "mean_value")
#: What is missing → the spec to add.
REMEDIES = {"linear probe": "linear?input=mean", "k-NN": "knn", "attentive probe": "ep32"}


@dataclass(frozen=True)
class Encoder:
    """One frozen backbone, or layer of it, on one set of test images.

    Attributes:
        backbone: its spec.
        best: the most accurate probe.
        cheapest: of those that may be reported, that with the fewest parameters; ``best`` where
            nothing may.
        leanest: that with the fewest FLOPs.
        shown: whether they are shown to lose less than the margin to every other probe.
        undecided: probes that may be reported if more images show it, cheaper than ``cheapest``
            where that is shown.
        loss: ``cheapest`` minus ``best``, paired; ``None`` where they are one.
        attentive: the best probe with learned aggregation, of ``attentive_of``.
        gains: ``attentive`` minus each linear probe, paired, the best linear probe first.
        linear, knn: baselines, best first.
        paired: whether predictions of all probes were kept. Where they weren't there are no
            ``gains``, and ``cheapest`` is ``best``, nothing being known of error bars.
        undertrained: probes that are in none of the above, unless nothing else was run.
        of: probes that ``best`` is the best of.
    """

    backbone: str
    best: Result
    cheapest: Result
    leanest: Result
    loss: Comparison | None
    attentive: Result | None
    attentive_of: int
    gains: list[Comparison]
    linear: list[Result]
    knn: list[Result]
    paired: bool = True
    undertrained: list[Result] = field(default_factory=list)
    shown: bool = True
    undecided: list[Undecided] = field(default_factory=list)
    of: int = 1

    @property
    def ran(self) -> list[Result]:
        """What is named of it."""
        shown = [self.best, self.cheapest, *filter(None, [self.attentive]), *self.linear, *self.knn]
        undecided = [one.comparison.probe for one in self.undecided]
        every = [*shown, *undecided, *self.undertrained]
        return list({id(one): one for one in every}.values())

    @property
    def missing(self) -> list[str]:
        """Which keys of ``REMEDIES`` weren't run on it."""
        names = [probe_name(one) for one in self.ran]
        attentive = self.attentive or any(name not in PLAIN for name in names)
        there = (LINEAR in names, "knn" in names, attentive)
        return [name for name, found in zip(REMEDIES, there, strict=True) if not found]


@dataclass(frozen=True)
class Order:
    """Backbones under a linear probe and under an attentive one, each best first.

    Attributes:
        agreement: of the two; ``None`` where predictions weren't kept.
        changes: whether two backbones are clearly in one order under the first probe and clearly
            in the other under the second.
        holds: whether all pairs are clearly in the same order under both.
    """

    linear: list[Ranked]
    attentive: list[Ranked]
    agreement: Agreement | None
    changes: bool = False
    holds: bool = False


@dataclass(frozen=True)
class Question:
    """One set of test images: what was found on it, and the paragraph that says so."""

    title: str
    encoders: list[Encoder]
    orders: list[Order]
    paragraph: str


@dataclass(frozen=True)
class Advice:
    """What `advise` says; ``str(advice)`` is its text.

    Attributes:
        questions: one for each data set, draw, protocol and split.
        remark: what of the results was left out, and why.
    """

    questions: list[Question] = field(default_factory=list)
    remark: str = ""

    def __str__(self) -> str:
        return "\n\n".join(filter(None, [*(q.paragraph for q in self.questions), self.remark]))


def advise(results: Sequence[Result], margin: float = MARGIN) -> Advice:
    """Which probe to report, how much aggregation matters, and what linear probing would have said.

    Everything is computed from the results and the predictions kept with them; the rule stands at
    the head of this file.

    Args:
        results: of a run, a campaign, or several runs on frozen backbones.
        margin: accuracy that a cheaper probe may lose, a fraction: 0.005 is half a point.

    Raises:
        IceprobeError: for a negative margin, without a result on a frozen backbone, or where a
            probe stands twice for one backbone and set of test images.
    """
    if not margin >= 0:
        raise IceprobeError(f"margin={margin:g}: give a number from 0 up")
    frozen = [one for one in results if one.adaptation is None]
    if not frozen:
        raise IceprobeError(
            "no result on a frozen backbone: advise is about those, give it such a run"
        )
    questions = [
        _question(title, members, margin)
        for (title, *_), members in split_by(frozen, same_images).items()
    ]
    adapted = len(results) - len(frozen)
    many = f"{adapted} result{'s' if adapted > 1 else ''}"
    remark = f"Left out: {many} on an adapted backbone (see iceprobe compare)."
    return Advice(questions, remark if adapted else "")


def _question(title: str, results: Sequence[Result], margin: float) -> Question:
    by_backbone = split_by(results, lambda one: (one.backbone,))
    for (backbone,), members in by_backbone.items():
        labels = [one.label for one in members]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise IceprobeError(
                f"{twice} on {backbone} stands twice for {title}: give one of the two runs"
            )
    encoders = [_encoder(name, members, margin) for (name,), members in by_backbone.items()]
    orders = _orders(list(by_backbone.values())) if len(encoders) > 1 else []
    said = [_single(encoders[0])] if len(encoders) == 1 else [_each(one) for one in encoders]
    if len(encoders) > 1:
        said.append(_ordered(orders))
    said = [*_untrained(encoders), *said, *_caveats(encoders)]
    paragraph = " ".join([_head(title, results, margin), *filter(None, said)])
    return Question(title, encoders, orders, paragraph)


def _encoder(backbone: str, everything: Sequence[Result], margin: float) -> Encoder:
    weak = [one for one in everything if one.undertrained]
    results = [one for one in everything if not one.undertrained] or everything
    best = min(results, key=lambda one: (-level(one), *cost(one)))
    attending = _best_first([one for one in results if probe_name(one) not in PLAIN])
    linear = _best_first([one for one in results if probe_name(one) == LINEAR])
    attentive = next(iter(attending), None)
    paired = all(one.predictions() is not None for one in results)
    choice = choose(results, margin) if paired else Choice([], [])
    may = choice.shown or [best]
    cheapest = min(may, key=cost)
    return Encoder(
        backbone=backbone,
        best=best,
        cheapest=cheapest,
        leanest=min(may, key=lambda one: cost(one)[::-1]),
        loss=compare_pair(cheapest, best) if cheapest is not best else None,
        attentive=attentive,
        attentive_of=len(attending),
        gains=[
            one
            for one in (family(attending, linear) if paired and not best.undertrained else [])
            if one.probe is attentive
        ],
        linear=linear,
        knn=_best_first([one for one in results if probe_name(one) == "knn"]),
        paired=paired,
        undertrained=weak,
        shown=bool(choice.shown),
        undecided=[
            one
            for one in choice.undecided
            if not choice.shown or cost(one.comparison.probe) < cost(cheapest)
        ],
        of=len(results),
    )


def _orders(by_backbone: Sequence[Sequence[Result]]) -> list[Order]:
    """An order for each linear probe that all backbones have, beside that under EP."""
    placed = [{one.label: one for one in results} for results in by_backbone]
    common = [one for one in by_backbone[0] if all(one.label in place for place in placed)]
    linear = [one.label for one in common if probe_name(one) == LINEAR]
    attending = [one for one in common if probe_name(one) not in PLAIN]
    if not attending:
        return []

    def under(label: str) -> list[Result]:
        return [place[label] for place in placed]

    def over_all(one: Result) -> tuple[bool, float]:
        every = under(one.label)
        trained = not any(one.undertrained for one in every)
        return trained, round(sum(one.score.mean for one in every), 9)

    subject = max(efficient(attending) or attending, key=over_all)
    return [_order(under(label), under(subject.label)) for label in linear]


def _order(linear: Sequence[Result], attentive: Sequence[Result]) -> Order:
    kept = [[one.predictions() for one in results] for results in (linear, attentive)]
    found = None
    if all(one is not None for of_probe in kept for one in of_probe):
        headline = shared_headline(*linear, *attentive)
        x, y = (
            [one.correct.mean(0) * weights(headline, one.labels) for one in of_probe if one]
            for of_probe in kept
        )
        found = agreement(np.stack(x), np.stack(y))
    x_pairs, y_pairs = clear_order(linear), clear_order(attentive)
    every = len(linear) * (len(linear) - 1) // 2
    return Order(
        rank(linear),
        rank(attentive),
        found,
        changes=any((worse, better) in y_pairs for better, worse in x_pairs),
        holds=len(x_pairs) == every and x_pairs == y_pairs,
    )


def _best_first(results: Sequence[Result]) -> list[Result]:
    return sorted(results, key=lambda one: -level(one))


def _head(title: str, results: Sequence[Result], margin: float) -> str:
    """Where the numbers are from; of ``paper``, what they were selected on."""
    names = list(dict.fromkeys(one.backbone for one in results))
    subject = names[0] if len(names) == 1 else f"{len(names)} encoders"
    images = next((f", {one.test_images:,} images" for one in results if one.test_images), "")
    flattered = [one for one in results if one.selected_on_reported]
    selected = (
        f" Every number here was selected on the reported split ({flattered[0].split}), as protocol "
        f"{flattered[0].protocol} does, and is flattered by that."
        if flattered
        else ""
    )
    plural = "" if margin == 0.01 else "s"
    allowed = f" A cheaper probe may lose less than {100 * margin:g} point{plural}."
    seeds = {len(one.seeds) for one in results if one.seeds}
    noun = "replicate" if any(one.variance == "replicates" for one in results) else "seed"
    many = f", {max(seeds)} {noun}{'s' if max(seeds) > 1 else ''}" if seeds else ""
    metric = NAMES[shared_headline(*results)]
    return f"{subject} on {title}{images}{many}; accuracies are {metric}.{selected}{allowed}"


def _single(encoder: Encoder) -> str:
    """How much aggregation matters, what to report, and how other probes would have read it."""
    if encoder.best.undertrained:
        return ""
    others = [*encoder.linear, *encoder.knn]
    read = ", ".join(f"{_percent(one)} under {one.label}" for one in others)
    by = encoder.attentive or encoder.best
    instead = (
        f"Without attention the encoder would read {read}, against {_percent(by)} under {by.label}."
    )
    read = "" if any(by is one for one in others) else read  # by the best of them itself
    return " ".join(filter(None, [_aggregation(encoder), _report(encoder), read and instead]))


def _aggregation(encoder: Encoder) -> str:
    if encoder.attentive is None or not encoder.linear:
        return ""
    if not encoder.paired:
        ours, theirs = encoder.attentive, encoder.linear[0]
        gap = signed_points(ours.score.mean - theirs.score.mean)
        return f"{ours.label} reads {_percent(ours)} and {theirs.label} {_percent(theirs)}, {gap} points."
    first, *rest = encoder.gains
    verdict = (
        ("Aggregation matters" if first.difference.mean > 0 else "Learned aggregation loses")
        if first.clear
        else "Aggregation makes no clear difference"
    )
    of = (
        f", the best of {encoder.attentive_of} attentive probes,"
        if encoder.attentive_of > 1
        else ""
    )
    interval = encoder.attentive.score.interval
    own = f" (95% interval {span(interval)})" if interval else ""
    more = "".join(
        f"; over {gain.against.label} ({_percent(gain.against)}) it is {_points(gain)}"
        for gain in rest
    )
    return (
        f"{verdict}: {encoder.attentive.label}{of} reads {_percent(encoder.attentive)}{own} and "
        f"{first.against.label} {_percent(first.against)}, {_points(first)}{more}"
        f"{warned(encoder.attentive, *encoder.linear)}."
    )


def _report(encoder: Encoder) -> str:
    best, cheapest, leanest = encoder.best, encoder.cheapest, encoder.leanest
    if encoder.undertrained:
        return "Which probe to report can't be said before all of them are trained."
    if not encoder.paired:
        return (
            f"The highest number is that of {best.label} ({_percent(best)}, {_costs(best)}); no "
            "interval tells it apart."
        )
    several = f"less than the margin to each of the {encoder.of - 1} others"
    if not encoder.shown:
        said = (
            f"No probe is shown to lose {several}, so none is reported; the highest figure, of "
            f"{encoder.of} picked by these images, is that of {best.label} ({_percent(best)}, "
            f"{_costs(best)}){warned(best)}."
        )
        return " ".join([said, *map(_undecided, encoder.undecided)])
    if encoder.of == 1:
        said = f"Report {best.label} ({_percent(best)}, {_costs(best)}){warned(best)}: there is no other."
    elif encoder.loss is None:
        said = (
            f"Report {best.label} ({_percent(best)}, {_costs(best)}){warned(best)}: the best of "
            f"{encoder.of} by these images, and none with fewer parameters is shown to lose {several}."
        )
    else:
        said = (
            f"Report {cheapest.label} ({_percent(cheapest)}, {_costs(cheapest)}): the cheapest that is "
            f"shown to lose {several}; to the best of these by its figure, {best.label} "
            f"({_percent(best)}, {_costs(best)}), it is {_points(encoder.loss)}"
            f"{warned(cheapest, best)}."
        )
    if leanest is not cheapest:
        said += f" With the fewest FLOPs it is {leanest.label} ({_percent(leanest)}, {_costs(leanest)})."
    return " ".join([said, *map(_undecided, encoder.undecided)])


def _undecided(one: Undecided) -> str:
    """A probe that may do, and what it would take to know."""
    probe, other = one.comparison.probe, one.comparison.against
    spread = one.comparison.difference.spread
    known = probe.test_images or round(spread.size)
    takes = "neither more test images nor more replicates alone would show it"
    if one.images is not None:
        takes = f"about {one.images:,} test images in place of {known:,} would show it"
    elif one.replicates is not None:
        takes = f"about {one.replicates} replicates in place of {spread.rows} would show it"
    return (
        f"Undecided: {probe.label} ({_percent(probe)}, {_costs(probe)}) is {_points(one.comparison)} "
        f"to {other.label}{warned(probe, other)}; {takes}."
    )


def _each(encoder: Encoder) -> str:
    """The same in short, for one of several encoders."""
    if encoder.undertrained:
        return f"{encoder.backbone}: which probe to report can't be said before all are trained."
    gain = next(iter(encoder.gains), None)
    told = [
        f"{gain.probe.label} over {gain.against.label} is {_points(gain)}" if gain else "",
        f"{_may_be_reported(encoder)} {encoder.cheapest.label} ({_percent(encoder.cheapest)}, {_costs(encoder.cheapest)}){warned(encoder.cheapest)}",
        f"the best, {encoder.best.label}, reads {_percent(encoder.best)}" if encoder.loss else "",
    ]
    return " ".join(
        [
            f"{encoder.backbone}: {'; '.join(filter(None, told))}.",
            *map(_undecided, encoder.undecided[:1]),
        ]
    )


def _may_be_reported(encoder: Encoder) -> str:
    if encoder.paired and encoder.shown:
        return "report"
    return (
        "the highest number, and none that may be reported, is that of"
        if encoder.paired
        else "the highest number is that of"
    )


def _ordered(orders: Sequence[Order]) -> str:
    if not orders:
        return (
            "How linear probing would have ranked them isn't known: run one linear probe and one "
            "attentive probe on all of them, such as --probe linear?input=mean --probe ep32."
        )
    return " ".join(
        f"Ranked under {order.linear[0].result.label}: {_listed(order.linear)}; under "
        f"{order.attentive[0].result.label}: {_listed(order.attentive)} (≈: no clear difference)"
        f"{_tau(order)}."
        for order in orders
    )


def _tau(order: Order) -> str:
    found = order.agreement
    if found is None:
        return ""
    for ranked in (order.linear, order.attentive):
        if len({one.rank for one in ranked}) == 1:
            return f"; all tie under {ranked[0].result.label}, so there is no order to compare"
    low, high = found.interval
    same = "no clear change of order"
    if order.changes or order.holds:
        same = "the order changes" if order.changes else "the same order"
    text = f"; {same}, Kendall's τ {found.tau:+.2f} (95% interval {low:+.2f} to {high:+.2f})"
    return text.replace("-", "−")


def _listed(ranked: Sequence[Ranked]) -> str:
    return "".join(
        f"{'' if place == 0 else ' ≈ ' if one.tied else ' > '}{one.result.backbone} "
        f"({_percent(one.result)})"
        for place, one in enumerate(ranked)
    )


def _untrained(encoders: Sequence[Encoder]) -> list[str]:
    """Which probes hadn't learned to their end, before any comparison."""
    said = [
        f"{_named(one, encoders)} reads {_percent(one)} and is undertrained: "
        f"{', '.join(one.undertrained)}."
        for encoder in encoders
        for one in encoder.undertrained
    ]
    said += (
        [f"No order is read from {'it' if len(said) == 1 else 'them'}: {TRAIN_LONGER}."]
        if said
        else []
    )
    return said


def _caveats(encoders: Sequence[Encoder]) -> list[str]:
    """What is missing, with the spec to add, and why there are no intervals."""
    lacking = {name: [one.backbone for one in encoders if name in one.missing] for name in REMEDIES}
    said = [
        f"No {name} was run{'' if len(names) == len(encoders) else f' on {_names(names)}'}: add "
        f"--probe {REMEDIES[name]}."
        for name, names in lacking.items()
        if names
    ]
    if not all(one.paired for one in encoders):
        said.append(
            "Predictions weren't kept, so there is no paired interval and no probe is shown to stand "
            "in for another: fit again."
        )
    ran = [one for encoder in encoders for one in encoder.ran]
    said += [f"{_named(one, encoders)}: {note}." for one in ran if (note := lost_note(one))]
    return [*said, *filter(None, [few_rows(ran)])]


def _names(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _named(one: Result, encoders: Sequence[Encoder]) -> str:
    return one.label if len(encoders) == 1 else f"{one.label} on {one.backbone}"


def _percent(one: Result) -> str:
    return f"{tenths(one.score.mean)}%" + (f" of {kept(one)}" if one.lost_seeds else "")


def _costs(one: Result) -> str:
    return f"{short(one.parameters.total)} parameters, {short(one.flops.per_image)} FLOPs an image"


def _points(one: Comparison) -> str:
    difference = one.difference
    alone = difference.clear and not one.clear and one.among > 1
    but = f"; among {one.among} comparisons not clear, by Holm" if alone else ""
    return (
        f"{signed_points(difference.mean)} points "
        f"(paired 95% interval {span(difference.interval, signed=True)}{but})"
    )
