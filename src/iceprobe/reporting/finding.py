"""The headline of a report: its finding in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.core.text import counted
from iceprobe.results.caveats import covered, enumerated, kept
from iceprobe.results.comparison import (
    BASELINES,
    Comparison,
    best_baseline,
    efficient,
    family,
    probe_name,
    reference_ep,
    warnings_of,
)
from iceprobe.results.dense import Dense
from iceprobe.results.examples import examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import adds_up, level, unit_of
from iceprobe.results.sweeps import Ranking, Sweep, leaders
from iceprobe.results.tables import TRAIN_LONGER, figure, gap, leaderboard, span, worded
from iceprobe.tasks.registry import get_task

_NAMES = {
    "knn": "k-NN", "linear": "linear", "mean_value": "mean + Wᵥ", "slot": "slots",
    "ep": "EP", "mhca": "MHCA", "aim": "AIM", "abmilp": "AbMILP", "cbam": "CBAM", "delf": "DELF",
    "simpool": "SimPool", "clip": "CLIP", "siglip": "SigLIP", "vjepa": "V-JEPA", "cait": "CaiT",
    "cae": "CAE", "coca": "CoCa", "capi": "CAPI", "dsmil": "DSMIL",
    "lora": "LoRA", "bitfit": "BitFit", "layernorm": "LayerNorm", "full": "fine-tuned",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The headline."""

    sentence: str  # a full sentence with its numbers
    detail: str  # how uncertain it is, a short second sentence
    strong: str | None = None  # the difference alone, ``"+9.9 points"``, where two are compared
    comparison: Comparison | None = None  # of the two


def display_name(probe: str) -> str:
    """A probe's label for readers: "EP12", "linear (mean)", "EP48 (out_dim=96)", "LoRA (rank=16) + EP12"."""
    adaptation, plus, on_top = probe.partition(" + ")
    if plus:
        return f"{display_name(adaptation)} + {display_name(on_top)}"
    spec = parse_spec(probe)
    name = spec.name.rstrip("0123456789")
    number = spec.name[len(name) :]
    shown = _NAMES.get(name, name) + number
    options = dict(spec.options)
    remarks = [options.pop("input")] if "input" in options else []
    if options.get("value") == "identity":
        del options["value"]
        remarks.append("without Wᵥ")
    if options.get("query") == "sliced":
        del options["query"]
        remarks.append("sliced queries")
    remarks += [f"{key}={value}" for key, value in sorted(options.items())]
    return f"{shown} ({', '.join(remarks)})" if remarks else shown


def find(results: Sequence[FittedResult]) -> Finding:
    """The headline of results on one backbone and one data set.

    The best EP against the best linear probe, or k-NN if no linear one was run; without an EP the best
    other probe; without either the best number alone. An order is claimed where the paired difference
    shows it, and never of an undertrained fit. Where the same images choose among several EPs or linear
    probes, it is corrected for all pairs that they choose from (Holm).
    """
    linear = [result for result in results if probe_name(result) == "linear"]
    baseline = best_baseline(linear or results)
    others = [result for result in leaderboard(results) if probe_name(result) not in BASELINES]
    subject = reference_ep(results) or next(iter(others), None)
    if subject is None or baseline is None:
        best = leaderboard(results)[0]
        reads = f"{display_name(best.label)} reads {_with_error(best, ' on average')}"
        return alone(reads, "Nothing to compare it with in this report.", best)
    ours, theirs = _with_error(subject, " on average"), _with_error(baseline)
    name = display_name(subject.label)
    other = "k-NN" if probe_name(baseline) == "knn" else "a linear probe"
    if subject.undertrained or baseline.undertrained:
        known = other.replace("a linear", "the linear")  # it has been named
        return no_order(
            f"{name} reads {ours} and {other} {theirs}", {name: subject, known: baseline}
        )
    try:
        pairs = family(
            efficient(results) or others, linear or [baseline], picked=(subject, baseline)
        )
    except IceprobeError:
        sentence = f"{name} reads {ours} and {other} {theirs}: no interval tells them apart."
        return Finding(sentence, "Predictions weren't kept: no paired interval.")
    comparison = next(one for one in pairs if one.probe is subject and one.against is baseline)
    warnings = warnings_of(subject, baseline)
    but = ", with warnings" if warnings else ""
    if comparison.clear:
        sentence = f"{name} reads {ours} where {other} reads {theirs}{but}."
    else:
        sentence = f"{name} reads {ours} and {other} {theirs}{but}: no clear difference."
    rival = display_name(baseline.label)
    over = f" over {rival}, the best of {len(linear)} linear probes" if len(linear) > 1 else ""
    if (eps := len(efficient(results))) > 1 and probe_name(subject) == "ep":
        over += f", {name} being the best of {eps} EPs on these {examples_of(*results)}"
    holm = f"; order by Holm among {comparison.among} pairs" if comparison.among > 1 else ""
    detail = (
        f"95% interval {span(comparison.shown.interval, comparison.metric, signed=True)}{over} "
        f"(paired, over {covered(subject, baseline)}{holm})"
        + (f". Warnings: {warnings}" if warnings else "")
    )
    return Finding(sentence, detail, gap(comparison.shown.mean, comparison.metric), comparison)


def no_order(reads: str, two: Mapping[str, FittedResult | Dense]) -> Finding:
    """The headline of two results, by their names in it, of which one or both are undertrained."""
    weak = {name: one for name, one in two.items() if one.undertrained}
    verb = "is" if len(weak) == 1 else "are"
    return Finding(
        f"{reads}, but {enumerated([*weak])} {verb} undertrained: that shows no order.",
        f"{'; '.join(map(signs, weak.values()))}. To compare them {TRAIN_LONGER}",
    )


def alone(reads: str, detail: str, one: FittedResult | Dense) -> Finding:
    """The headline of a single result."""
    if not one.undertrained:
        return Finding(f"{reads}.", detail)
    trust = f"{signs(one)}. To trust the number {TRAIN_LONGER}"
    return Finding(f"{reads}, but it is undertrained.", trust)


def find_across(
    ranked: Sequence[Ranking], layers: Sequence[Sweep], draws: Sequence[Sweep]
) -> Finding | None:
    """The headline over several backbones, layers or numbers of training images, if there are any."""
    if ranked:
        return _of_ranking(ranked[0], len(ranked))
    if layers:
        lines = [[one for _, one in points] for points in layers[0].lines.values()]
        found = [_of_layers(results) for results in lines]
        detail = f"Layers of each probe, compared on the {lines[0][0].split} split itself"
        return Finding(f"{'; '.join(found)}.", f"{detail} · {layers[0].title}")
    if draws:
        best_first = sorted(
            draws[0].lines.items(), key=lambda line: -max(level(one) for _, one in line[1])
        )
        found = [
            f"{display_name(probe)} {_percent(points[0][1])} from {points[0][0]:,.0f} training "
            f"{examples_of(*(one for _, one in points))}, {_percent(points[-1][1])} from {points[-1][0]:,.0f}"
            for probe, points in best_first
        ]
        return Finding(f"{found[0]}.", f"{'; '.join(found[1:])} · {draws[0].title}")
    return None


def _of_ranking(ranking: Ranking, of: int) -> Finding:
    leads: dict[str, list[str]] = {}
    none: list[str] = []
    for probe in ranking.probes:
        best, *alike = leaders(ranking.under(probe))
        names = none if alike else leads.setdefault(best.backbone, [])
        names.append(display_name(probe))
    count = len(ranking.backbones)
    every = "every probe" if len(ranking.probes) > 1 else display_name(ranking.probes[0])
    if not leads:
        any_ = every.replace("every", "any")
        sentence = f"No clear difference: none of {count} backbones leads under {any_}."
    elif none:
        some = [f"{leader} leads under {enumerated(probes)}" for leader, probes in leads.items()]
        sentence = (
            f"Of {count} backbones {', '.join(some)}; none leads clearly under {enumerated(none)}."
        )
    elif len(leads) == 1:
        sentence = f"{next(iter(leads))} leads {count} backbones under {every}."
    else:
        under = [f"{leader} under {enumerated(probes)}" for leader, probes in leads.items()]
        sentence = f"Which of {count} backbones leads depends on the probe: {', '.join(under)}."
    below = len(ranking.probes) * (count - 1)
    clear = sum(not cell.tied for cell in ranking.cells.values()) - len(ranking.probes)
    more = f"; {counted(of - 1, 'more ranking')} below" if of > 1 else ""
    detail = (
        f"{ranking.title}: {clear} of {below} differences between neighbours in rank are "
        f"clear (all pairs, Holm, 5%){more}"
    )
    weak = [cell.result for cell in ranking.cells.values() if cell.result.undertrained]
    if weak:
        those = enumerated([f"{display_name(one.label)} on {one.backbone}" for one in weak])
        detail += f"; undertrained, so without an order: {those}"
    return Finding(sentence, detail)


def signs(one: FittedResult | Dense) -> str:
    """``"EP12: 3 training steps, …"``: why it counts as undertrained."""
    return f"{display_name(one.label)}: {', '.join(one.undertrained)}"


def _of_layers(results: Sequence[FittedResult]) -> str:
    """The best layer of one probe, if an interval shows it."""
    name, (best, *alike) = display_name(results[0].label), leaders(results)
    if not alike:
        return f"{name} reads most at layer {best.layer} ({_percent(best)})"
    layers = enumerated([str(one) for one in sorted(one.layer or 0 for one in (best, *alike))])
    return f"{name}: no clear difference between layers {layers} ({_percent(best)} at {best.layer})"


def _percent(result: FittedResult) -> str:
    lost = f" ({kept(result)})" if result.lost_seeds else ""
    return f"{worded(result)}{lost}"


def _with_error(result: FittedResult, more: str = "") -> str:
    """Its score, with the mean error in the unit of the targets: ``"R² 0.831 (off by 3.214 years)"``."""
    known = get_task(result.task).metrics.values()
    errors = (one for one in known if one.unit_of_target and one.name in result.metrics)
    error = next(errors, None)
    if error is None or error == result.metric or not adds_up(error, result):
        return _percent(result)
    value = figure(result.metrics[error.name].mean, error)
    off = f"{value} {unit_of(error, [result])}".rstrip()
    return f"{_percent(result)} (off by {off}{more})"
