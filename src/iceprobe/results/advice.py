"""Which probe to report, from the results: one paragraph for each set of test images.

    within(best) = { p : low end of the paired 95% interval of best − p  ≤  margin }

The best probe is the one with the highest top-1 accuracy. Another is *within its error bar* when
the paired bootstrap over the test images doesn't rule out that it loses no more than ``margin``
(0 unless said), and the cheapest of those is the one to report: fewest trainable parameters, of
equals fewest FLOPs. The best is picked on the images that are reported, which flatters it a little;
intervals aren't corrected for that, so the rule is kind to what was picked and strict on the rest.

A probe that is undertrained (`results/undertrained.py`) is in none of these comparisons: it is named,
and while there is one nothing is said of which probe to report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from iceprobe.errors import IceprobeError
from iceprobe.results.agreement import Agreement, agreement
from iceprobe.results.comparison import Comparison, compare_pair, efficient, probe_name
from iceprobe.results.schema import Result
from iceprobe.results.sweeps import Ranked, clear_order, rank, same_images, split_by
from iceprobe.results.tables import TRAIN_LONGER, short, signed_points, span, tenths

LINEAR = "linear"
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
        cheapest: of those within the error bar of the best, that with the fewest parameters.
        leanest: that with the fewest FLOPs.
        loss: ``cheapest`` minus ``best``, paired; ``None`` where they are one.
        attentive: the best probe with learned aggregation, of ``attentive_of``.
        gains: ``attentive`` minus each linear probe, paired, the best linear probe first.
        linear, knn: baselines, best first.
        paired: whether predictions of all probes were kept. Where they weren't there are no
            ``gains``, and ``cheapest`` is ``best``, nothing being known of error bars.
        undertrained: probes that are in none of the above, unless nothing else was run.
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

    @property
    def missing(self) -> list[str]:
        """Which keys of ``REMEDIES`` weren't run on it."""
        ran = [self.best, *self.linear, *self.knn, *self.undertrained]
        names = [probe_name(one) for one in ran]
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


def advise(results: Sequence[Result], margin: float = 0.0) -> Advice:
    """Which probe to report, how much aggregation matters, and what linear probing would have said.

    Everything is computed from the results and the predictions kept with them; the rule stands at
    the head of this file.

    Args:
        results: of a run, a campaign, or several runs on frozen backbones.
        margin: top-1 that a cheaper probe may lose, a fraction: 0.005 is half a point.

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
    best = min(results, key=lambda one: (-one.top1.mean, *_cost(one)))
    attending = _best_first([one for one in results if probe_name(one) not in PLAIN])
    linear = _best_first([one for one in results if probe_name(one) == LINEAR])
    attentive = next(iter(attending), None)
    paired = all(one.predictions() is not None for one in results)
    losses = {one.label: compare_pair(one, best) for one in results if paired and one is not best}
    # The low end of best − p is minus the high one of p − best.
    within = [c.probe for c in losses.values() if -c.difference.interval[1] <= margin]
    cheapest = min([best, *within], key=_cost)
    return Encoder(
        backbone=backbone,
        best=best,
        cheapest=cheapest,
        leanest=min([best, *within], key=lambda one: _cost(one)[::-1]),
        loss=losses.get(cheapest.label),
        attentive=attentive,
        attentive_of=len(attending),
        gains=[compare_pair(attentive, one) for one in linear] if attentive and paired else [],
        linear=linear,
        knn=_best_first([one for one in results if probe_name(one) == "knn"]),
        paired=paired,
        undertrained=weak,
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
        x, y = ([one.correct.mean(0) for one in of_probe if one] for of_probe in kept)
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
    return sorted(results, key=lambda one: -one.top1.mean)


def _cost(one: Result) -> tuple[int, int]:
    return one.parameters.total, one.flops.per_image


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
    allowed = f" Up to {100 * margin:g} points may be lost." if margin else ""
    seeds = {len(one.seeds) for one in results if one.seeds}
    many = f", {max(seeds)} seed{'s' if max(seeds) > 1 else ''}" if seeds else ""
    return f"{subject} on {title}{images}{many}; accuracies are top-1.{selected}{allowed}"


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
        gap = signed_points(ours.top1.mean - theirs.top1.mean)
        return f"{ours.label} reads {_percent(ours)} and {theirs.label} {_percent(theirs)}, {gap} points."
    first, *rest = encoder.gains
    difference = first.difference
    verdict = (
        ("Aggregation matters" if difference.mean > 0 else "Learned aggregation loses")
        if difference.clear
        else "Aggregation makes no clear difference"
    )
    of = (
        f", the best of {encoder.attentive_of} attentive probes,"
        if encoder.attentive_of > 1
        else ""
    )
    interval = encoder.attentive.top1.interval
    own = f" (95% interval {span(interval)})" if interval else ""
    more = "".join(
        f"; over {gain.against.label} ({_percent(gain.against)}) it is {_points(gain)}"
        for gain in rest
    )
    return (
        f"{verdict}: {encoder.attentive.label}{of} reads {_percent(encoder.attentive)}{own} and "
        f"{first.against.label} {_percent(first.against)}, {_points(first)}{more}."
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
    if encoder.loss is None:
        said = (
            f"Report {best.label} ({_percent(best)}, {_costs(best)}): it is the best, and no probe "
            "with fewer parameters is within its error bar."
        )
    else:
        said = (
            f"Report {cheapest.label} ({_percent(cheapest)}, {_costs(cheapest)}): the cheapest "
            f"within the error bar of the best, {best.label} ({_percent(best)}, {_costs(best)}), "
            f"at {_points(encoder.loss)}."
        )
    if leanest is not cheapest:
        said += f" With the fewest FLOPs it is {leanest.label} ({_percent(leanest)}, {_costs(leanest)})."
    return said


def _each(encoder: Encoder) -> str:
    """The same in short, for one of several encoders."""
    if encoder.undertrained:
        return f"{encoder.backbone}: which probe to report can't be said before all are trained."
    gain = next(iter(encoder.gains), None)
    told = [
        f"{gain.probe.label} over {gain.against.label} is {_points(gain)}" if gain else "",
        f"{'report' if encoder.paired else 'the highest number is that of'} {encoder.cheapest.label} ({_percent(encoder.cheapest)}, {_costs(encoder.cheapest)})",
        f"the best, {encoder.best.label}, reads {_percent(encoder.best)}" if encoder.loss else "",
    ]
    return f"{encoder.backbone}: {'; '.join(filter(None, told))}."


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
            "Predictions weren't kept, so there is no paired interval and no error bar to be within: "
            "fit again."
        )
    return said


def _names(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _named(one: Result, encoders: Sequence[Encoder]) -> str:
    return one.label if len(encoders) == 1 else f"{one.label} on {one.backbone}"


def _percent(one: Result) -> str:
    return f"{tenths(one.top1.mean)}%"


def _costs(one: Result) -> str:
    return f"{short(one.parameters.total)} parameters, {short(one.flops.per_image)} FLOPs an image"


def _points(one: Comparison) -> str:
    difference = one.difference
    return (
        f"{signed_points(difference.mean)} points "
        f"(paired 95% interval {span(difference.interval, signed=True)})"
    )
