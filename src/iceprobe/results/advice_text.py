"""The paragraph of :func:`iceprobe.results.advice.advise`: what was found, in words."""

from collections.abc import Sequence

from iceprobe.core.text import counted
from iceprobe.results.caveats import enumerated, few_rows, kept, lost_note
from iceprobe.results.choice import Undecided
from iceprobe.results.comparison import Comparison, warned
from iceprobe.results.encoders import REMEDIES, Encoder, Order
from iceprobe.results.examples import an_example_of, examples_of
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
    several = len(encoders) > 1
    parts = [*map(_each, encoders), *_ordered(orders)] if several else [_single(encoders[0])]
    parts = [*_untrained(encoders), *parts, *_caveats(encoders)]
    return " ".join([_head(title, results, margin), *filter(None, parts)])


def _head(title: str, results: Sequence[Result], margin: float) -> str:
    """Where the numbers are from; of ``paper``, what they were selected on."""
    names = list(dict.fromkeys(one.backbone for one in results))
    subject = names[0] if len(names) == 1 else f"{len(names)} encoders"
    nouns = examples_of(*results)
    images = next((f", {one.test_images:,} {nouns}" for one in results if one.test_images), "")
    selected = ""
    if flattered := next((one for one in results if one.selected_on_reported), None):
        selected = (
            f" Every number here was selected on the reported split ({flattered.split}), as protocol "
            f"{flattered.protocol} does, and is flattered by that."
        )
    metric = shared_metric(*results)
    points = (" point" if margin == 0.01 else " points") if metric.percent else ""
    allowed = f" A cheaper probe may lose less than {metric.scale * margin:g}{points}."
    seeds = {len(one.seeds) for one in results if one.seeds}
    noun = "replicate" if any(one.variance == "replicates" for one in results) else "seed"
    many = f", {counted(max(seeds), noun)}" if seeds else ""
    what = "accuracies are" if metric.accuracy else "scores are"
    order = "" if metric.higher_is_better else " (less is better)"
    return f"{subject} on {title}{images}{many}; {what} {metric.title}{order}.{selected}{allowed}"


def _single(encoder: Encoder) -> str:
    """How much aggregation matters, what to report, and what other probes read."""
    if encoder.best.undertrained:
        return ""
    parts = [_aggregation(encoder), _report(encoder)]
    others = [*encoder.linear, *encoder.knn]
    by = encoder.attentive or encoder.best
    if others and not any(by is one for one in others):
        read = ", ".join(f"{_percent(one)} under {one.label}" for one in others)
        parts.append(
            f"Without attention the encoder would read {read}, against {_percent(by)} under {by.label}."
        )
    return " ".join(filter(None, parts))


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
    many = encoder.attentive_of
    of = f", the best of {many} attentive probes," if many > 1 else ""
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
        return f"The highest number is that of {_full(best)}; no interval tells it apart."
    several = f"less than the margin to each of the {encoder.of - 1} others"
    if not encoder.shown:
        said = (
            f"No probe is shown to lose {several}, so none is reported; the highest figure, of "
            f"{encoder.of} picked by these {examples_of(best)}, is that of {_full(best)}{warned(best)}."
        )
        return " ".join([said, *map(_undecided, encoder.undecided)])
    if encoder.of == 1:
        said = f"Report {_full(best)}{warned(best)}: there is no other."
    elif encoder.loss is None:
        said = (
            f"Report {_full(best)}{warned(best)}: the best of {encoder.of} by these {examples_of(best)}, and none "
            f"with fewer parameters is shown to lose {several}."
        )
    else:
        said = (
            f"Report {_full(cheapest)}: the cheapest that is shown to lose {several}; to the best of "
            f"these by its figure, {_full(best)}, it is {_points(encoder.loss)}{warned(cheapest, best)}."
        )
    if leanest is not cheapest:
        said += f" With the fewest FLOPs it is {_full(leanest)}."
    return " ".join([said, *map(_undecided, encoder.undecided)])


def _undecided(one: Undecided) -> str:
    """A probe that may do, and what it would take to know."""
    probe, other = one.comparison.probe, one.comparison.against
    spread = one.comparison.difference.spread
    known = probe.test_images or round(spread.size)
    nouns = examples_of(probe)
    takes = f"neither more test {nouns} nor more replicates alone would show it"
    if one.images is not None:
        takes = f"about {one.images:,} test {nouns} in place of {known:,} would show it"
    elif one.replicates is not None:
        takes = f"about {one.replicates} replicates in place of {spread.rows} would show it"
    return (
        f"Undecided: {_full(probe)} is {_points(one.comparison)} to {other.label}"
        f"{warned(probe, other)}; {takes}."
    )


def _each(encoder: Encoder) -> str:
    """The same in short, for one of several encoders."""
    if encoder.undertrained:
        return f"{encoder.backbone}: which probe to report can't be said before all are trained."
    gains = [
        f"{one.probe.label} over {one.against.label} is {_points(one)}; "
        for one in encoder.gains[:1]
    ]
    reported = "the highest number is that of"
    if encoder.paired:
        none = "the highest number, and none that may be reported, is that of"
        reported = "report" if encoder.shown else none
    best = encoder.best
    than = f"; the best, {best.label}, reads {_percent(best)}" if encoder.loss else ""
    cheapest = f"{_full(encoder.cheapest)}{warned(encoder.cheapest)}"
    said = f"{encoder.backbone}: {''.join(gains)}{reported} {cheapest}{than}."
    return " ".join([said, *map(_undecided, encoder.undecided[:1])])


def _ordered(orders: Sequence[Order]) -> list[str]:
    return [
        f"Ranked under {order.linear[0].result.label}: {_listed(order.linear)}; under "
        f"{order.attentive[0].result.label}: {_listed(order.attentive)} (≈: no clear difference)"
        f"{_tau(order)}."
        for order in orders
    ] or [
        "How linear probing would have ranked them isn't known: run one linear probe and one "
        "attentive probe on all of them, such as --probe linear?input=mean --probe ep32."
    ]


def _tau(order: Order) -> str:
    found = order.agreement
    if found is None:
        return ""
    for ranked in (order.linear, order.attentive):
        if len({one.rank for one in ranked}) == 1:
            return f"; all tie under {ranked[0].result.label}, so there is no order to compare"
    low, high = found.interval
    kept = "the same order" if order.holds else "no clear change of order"
    same = "the order changes" if order.changes else kept
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
    if said:
        said.append(f"No order is read from {'it' if len(said) == 1 else 'them'}: {TRAIN_LONGER}.")
    return said


def _caveats(encoders: Sequence[Encoder]) -> list[str]:
    """What is missing, with the spec to add, and why there are no intervals."""
    lacking = {name: [one.backbone for one in encoders if name in one.missing] for name in REMEDIES}
    said = [
        f"No {name} was run{'' if len(names) == len(encoders) else f' on {enumerated(names)}'}: add "
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


def _named(one: Result, encoders: Sequence[Encoder]) -> str:
    return one.label if len(encoders) == 1 else f"{one.label} on {one.backbone}"


def _percent(one: Result) -> str:
    score = f"{figure(one.score.mean, one.metric)}{one.metric.unit}"
    return f"{score} of {kept(one)}" if one.lost_seeds else score


def _full(one: Result) -> str:
    """``"ep4 (77.8%, 500 parameters, 3 k FLOPs an image)"``."""
    parameters, flops = short(one.parameters.total), short(one.flops.per_image)
    each = f"{flops} FLOPs {an_example_of(one)}"
    return f"{one.label} ({_percent(one)}, {parameters} parameters, {each})"


def _points(one: Comparison) -> str:
    difference = one.difference
    alone = difference.clear and not one.clear and one.among > 1
    but = f"; among {one.among} comparisons not clear, by Holm" if alone else ""
    return (
        f"{gap(one.shown.mean, one.metric)} "
        f"(paired 95% interval {span(one.shown.interval, one.metric, signed=True)}{but})"
    )
