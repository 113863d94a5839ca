"""What the numbers say, in one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

from iceprobe.errors import IceprobeError
from iceprobe.results.comparison import (
    BASELINES,
    Comparison,
    best_baseline,
    compare_pair,
    probe_name,
    reference_ep,
)
from iceprobe.results.schema import Result
from iceprobe.results.sweeps import Ranking, Sweep
from iceprobe.results.tables import leaderboard, signed_points
from iceprobe.specs import parse_spec

_NAMES = {
    "knn": "k-NN",
    "linear": "linear",
    "ep": "EP",
    "mhca": "MHCA",
    "aim": "AIM",
    "abmilp": "AbMILP",
    "cbam": "CBAM",
    "delf": "DELF",
    "mean_value": "mean + Wᵥ",
    "simpool": "SimPool",
    "clip": "CLIP",
    "siglip": "SigLIP",
    "vjepa": "V-JEPA",
    "cait": "CaiT",
    "cae": "CAE",
    "coca": "CoCa",
    "capi": "CAPI",
    "slot": "slots",
    "lora": "LoRA",
    "bitfit": "BitFit",
    "layernorm": "LayerNorm",
    "full": "fine-tuned",
}


@dataclass(frozen=True)
class Finding:
    """The headline.

    Attributes:
        sentence: a full sentence with its numbers.
        strong: the difference alone, ``"+9.9 points"``, or None where nothing is compared.
        detail: what is uncertain about it, a short second sentence.
        comparison: the two results compared, where there are two.
    """

    sentence: str
    strong: str | None
    detail: str
    comparison: Comparison | None


def display_name(probe: str) -> str:
    """A probe's label as people write it: "EP12", "linear (mean)", "EP48 (out_dim=96)".

    With an adaptation before it: "LoRA (rank=16) + EP12".
    """
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


def find(results: Sequence[Result]) -> Finding:
    """The headline of results on one backbone and one data set.

    EP against the best linear probe, or against k-NN where nothing linear was run; without an EP
    the best other probe takes its place; without either, the best number is told alone.
    """
    linear = [result for result in results if probe_name(result) == "linear"]
    baseline = best_baseline(linear or results)
    others = [result for result in leaderboard(results) if probe_name(result) not in BASELINES]
    subject = reference_ep(results) or next(iter(others), None)
    if subject is None or baseline is None:
        return _alone(leaderboard(results)[0])
    ours, theirs = f"{100 * subject.top1.mean:.1f}%", f"{100 * baseline.top1.mean:.1f}%"
    name = display_name(subject.label)
    other = "k-NN" if probe_name(baseline) == "knn" else "a linear probe"
    gap = subject.top1.mean - baseline.top1.mean
    strong = f"{signed_points(gap)} points"
    try:
        comparison = compare_pair(subject, baseline)
    except IceprobeError:
        sentence = f"{name} reads {ours} where {other} reads {theirs}."
        return Finding(sentence, strong, "Predictions weren't kept: no paired interval.", None)
    low, high = comparison.difference.interval
    if comparison.difference.clear:
        sentence = f"{name} reads {ours} where {other} reads {theirs}."
    else:
        sentence = f"{name} reads {ours} and {other} {theirs}: no clear difference."
    rival = display_name(baseline.label)
    over = f" over {rival}, the best of its kind here" if len(linear) > 1 else ""
    detail = (
        f"95% interval {signed_points(low)} to {signed_points(high)}{over} "
        f"(paired bootstrap over the {subject.split} images)"
    )
    return Finding(sentence, strong, detail, comparison)


def find_across(
    ranked: Sequence[Ranking], layers: Sequence[Sweep], draws: Sequence[Sweep]
) -> Finding | None:
    """The headline over several backbones, layers or numbers of training images, if there are."""
    if ranked:
        return _of_ranking(ranked[0], len(ranked))
    if layers:
        best = [_best(points) for points in layers[0].lines.values()]
        told = [f"{display_name(one.label)} at layer {one.layer} ({_percent(one)})" for one in best]
        detail = f"The best layer of each probe, found on the {best[0].split} split itself"
        return Finding(f"Highest: {_listed(told)}.", None, f"{detail} · {layers[0].title}", None)
    if draws:
        told = [
            f"{display_name(probe)} {_percent(points[0][1])} from {points[0][0]:,.0f} training "
            f"images, {_percent(points[-1][1])} from {points[-1][0]:,.0f}"
            for probe, points in sorted(
                draws[0].lines.items(), key=lambda line: -_best(line[1]).top1.mean
            )
        ]
        return Finding(f"{told[0]}.", None, f"{'; '.join(told[1:])} · {draws[0].title}", None)
    return None


def _of_ranking(ranking: Ranking, of: int) -> Finding:
    leads: dict[str, list[str]] = {}
    for probe in ranking.probes:
        (leader,) = [b for b in ranking.backbones if ranking.cells[b, probe].rank == 1]
        leads.setdefault(leader, []).append(display_name(probe))
    count = len(ranking.backbones)
    if len(leads) == 1:
        sentence = f"{next(iter(leads))} leads {count} backbones under every probe."
    else:
        under = [f"{leader} under {_listed(probes)}" for leader, probes in leads.items()]
        sentence = f"Which of {count} backbones leads depends on the probe: {', '.join(under)}."
    below = [cell for cell in ranking.cells.values() if cell.rank > 1]
    clear = sum(not cell.tied for cell in below)
    more = f"; {of - 1} more ranking{'s' if of > 2 else ''} below" if of > 1 else ""
    detail = (
        f"{ranking.title}: {clear} of {len(below)} differences between neighbours in rank are "
        f"clear (paired bootstrap, 95%){more}"
    )
    return Finding(sentence, None, detail, None)


def _best(points: Sequence[tuple[float, Result]]) -> Result:
    return max((result for _, result in points), key=lambda result: result.top1.mean)


def _percent(result: Result) -> str:
    return f"{100 * result.top1.mean:.1f}%"


def _listed(texts: Sequence[str]) -> str:
    """``"a, b and c"``."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _alone(best: Result) -> Finding:
    sentence = f"{display_name(best.label)} reads {100 * best.top1.mean:.1f}%."
    return Finding(sentence, None, "Nothing to compare it with in this report.", None)
