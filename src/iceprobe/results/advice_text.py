"""The paragraph of :func:`iceprobe.results.advice.advise`: what was found, in words."""

from collections.abc import Sequence

from iceprobe.results.caveats import few_rows, kept, lost_note
from iceprobe.results.choice import Undecided
from iceprobe.results.comparison import Comparison, warned
from iceprobe.results.encoders import REMEDIES, Encoder, Order
from iceprobe.results.primary import shared_metric
from iceprobe.results.schema import Result
from iceprobe.results.sweeps import Ranked
from iceprobe.results.tables import TRAIN_LONGER, figure, gap, short, span


def paragraph(
    title: str,
    results: Sequence[Result],
    encoders: Sequence[Encoder],
    orders: Sequence[Order],
    margin: float,
) -> str:
    """Where the numbers are from, what isn't trained, each encoder, their order, what is missing."""
    parts = [_single(encoders[0])] if len(encoders) == 1 else [_each(one) for one in encoders]
    if len(encoders) > 1:
        parts.append(_ordered(orders))
    parts = [*_untrained(encoders), *parts, *_caveats(encoders)]
    return " ".join([_head(title, results, margin), *filter(None, parts)])


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
    metric = shared_metric(*results)
    points = (" point" if margin == 0.01 else " points") if metric.percent else ""
    allowed = f" A cheaper probe may lose less than {metric.scale * margin:g}{points}."
    seeds = {len(one.seeds) for one in results if one.seeds}
    noun = "replicate" if any(one.variance == "replicates" for one in results) else "seed"
    many = f", {max(seeds)} {noun}{'s' if max(seeds) > 1 else ''}" if seeds else ""
    what = "accuracies are" if metric.accuracy else "scores are"
    order = "" if metric.higher_is_better else " (less is better)"
    return f"{subject} on {title}{images}{many}; {what} {metric.title}{order}.{selected}{allowed}"


def _single(encoder: Encoder) -> str:
    """How much aggregation matters, what to report, and what other probes read."""
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
        more = gap(ours.score.mean - theirs.score.mean, shared_metric(ours, theirs))
        return f"{ours.label} reads {_percent(ours)} and {theirs.label} {_percent(theirs)}, {more}."
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
    own = f" (95% interval {span(interval, encoder.attentive.metric)})" if interval else ""
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
    parts = [
        f"{gain.probe.label} over {gain.against.label} is {_points(gain)}" if gain else "",
        f"{_may_be_reported(encoder)} {encoder.cheapest.label} ({_percent(encoder.cheapest)}, {_costs(encoder.cheapest)}){warned(encoder.cheapest)}",
        f"the best, {encoder.best.label}, reads {_percent(encoder.best)}" if encoder.loss else "",
    ]
    return " ".join(
        [
            f"{encoder.backbone}: {'; '.join(filter(None, parts))}.",
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
    """Which probes are undertrained, before any comparison."""
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
    score = f"{figure(one.score.mean, one.metric)}{one.metric.unit}"
    return f"{score} of {kept(one)}" if one.lost_seeds else score


def _costs(one: Result) -> str:
    return f"{short(one.parameters.total)} parameters, {short(one.flops.per_image)} FLOPs an image"


def _points(one: Comparison) -> str:
    difference = one.difference
    alone = difference.clear and not one.clear and one.among > 1
    but = f"; among {one.among} comparisons not clear, by Holm" if alone else ""
    return (
        f"{gap(one.shown.mean, one.metric)} "
        f"(paired 95% interval {span(one.shown.interval, one.metric, signed=True)}{but})"
    )
