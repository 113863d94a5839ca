"""Statistics by name: a test of a claim → its numbers with intervals, and verdicts by its rule.

Accuracies are compared image by image, in points of top-1. Test images and replicates (own
initialisation, order of batches and held-out part each) are both taken for draws from many
(:mod:`iceprobe.results.crossed`). Of a number that a replicate has as a whole, such as a correlation
over its predictors, the replicates are the sample: mean ± t_{R−1} s/√R.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

import iceprobe
from benchmarks.claims import looking
from benchmarks.claims.claim import OWN, Claim, NotThere, Runs, Test, load
from benchmarks.claims.rules import Finding, Interval, Rule, Verdict
from iceprobe.adaptation.registry import ON, pairs
from iceprobe.analysis import Analysis
from iceprobe.analysis import shortcut as background_shortcut
from iceprobe.analysis.schema import Predictor
from iceprobe.probes import parse_probe, probe_label
from iceprobe.probes.counts import count
from iceprobe.results import Result, paired_difference
from iceprobe.results.agreement import agreement
from iceprobe.results.crossed import spread_of_difference
from iceprobe.results.statistics import accuracy_interval, holm, together

DRAWS = 2_000  # of rankings and correlations

Statistic = Callable[[Claim, Test, Runs], list[Finding]]
Values = NDArray[np.float64]


def difference(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """Accuracy of each probe minus that of each it is set against, on the first backbone."""
    results = runs.results(claim, runs.backbones(claim)[0])
    return [
        paired(f"{a} − {b}", _correct(results[a]), _correct(results[b]), test.rule)
        for a, b in itertools.product(_labels(test.of), _labels(test.against))
    ]


def gain(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """What a probe reads beyond the best of the others: on the first backbone minus on another."""
    (probe,), others = _labels(test.of), _labels(test.against)
    first, *rest = runs.backbones(claim)

    def over_best(backbone: str) -> tuple[Values, str]:
        results = runs.results(claim, backbone)
        best = max((results[label] for label in others), key=lambda result: result.top1.mean)
        return _correct(results[probe]) - _correct(best), best.probe

    ours, best = over_best(first)
    found = [paired(f"{probe} − {best} on {first}", ours, np.zeros_like(ours), None)]
    for backbone in rest:
        what = f"gain of {probe} on {first} − on {backbone}"
        try:
            theirs, best = over_best(backbone)
        except NotThere as reason:
            found.append(_not_run(what, test, str(reason)))
            continue
        found.append(paired(f"{probe} − {best} on {backbone}", theirs, np.zeros_like(theirs), None))
        found.append(paired(what, ours, theirs, test.rule))
    return found


def ratio(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """Parameters or FLOPs of each probe over those of another, here or at a size that is given."""
    if test.at:
        size = (test.at["dim"], test.at["classes"], tuple(test.at["grid"]))
        place = f"D = {size[0]}, C = {size[1]:,}"
        numbers = {p: _counted(count(p, *size), test.quantity) for p in [*test.of, *test.against]}
        labels, against = test.of, test.against
    else:
        results = runs.results(claim, runs.backbones(claim)[0])
        place = "here"
        labels, against = _labels(test.of), _labels(test.against)
        numbers = {p: _of_result(results[p], test.quantity) for p in [*labels, *against]}
    found = []
    for a, b in itertools.product(labels, against):
        value = numbers[a] / numbers[b]
        note = f"{numbers[a]:,} / {numbers[b]:,}"
        what = f"{test.quantity}: {a} / {b}, {place}"
        found.append(exact(what, value, test.rule, unit="×", note=note))
    return found


def entropy(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """Of each probe's maps, 1 where they are uniform: the mean over its predictors, by replicate."""
    found = []
    for one in _analyses(claim, test, runs):
        rows = [np.mean([p.entropy.mean for p in fit]) for fit in _by_replicate(one)]
        found.append(
            over_replicates(f"{one.probe}: entropy of its maps", rows, test.rule, unit="of 1")
        )
    return found


def importance(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """Spearman's ρ over the predictors of a fit: importance and where a predictor looks."""
    found = []
    for one in _analyses(claim, test, runs):
        what = f"{one.probe}: importance and {test.quantity.replace('_', ' ')}"
        pairs = [
            [(p.importance, getattr(p, test.quantity)) for p in fit] for fit in _by_replicate(one)
        ]
        if any(value is None for fit in pairs for pair in fit for value in pair):
            found.append(_not_run(what, test, "; ".join(one.notes)))
            continue
        rows = [stats.spearmanr([[a.mean, b.mean] for a, b in fit]).statistic for fit in pairs]
        note = f"{len(pairs[0])} predictors in each of {len(pairs)} replicates"
        found.append(over_replicates(what, rows, test.rule, unit="ρ", note=note))
    return found


def _by_replicate(one: Analysis) -> list[list[Predictor]]:
    """The predictors of each fit."""
    return [[p for p in one.predictors if p.seed == seed] for seed in one.seeds]


def _analyses(claim: Claim, test: Test, runs: Runs) -> list[Analysis]:
    """Of the probes of a test, without MaxBoxAccV2; each probe is looked at once."""
    backbone = runs.backbones(claim)[0]
    results, store = runs.results(claim, backbone), runs.store(claim, backbone)
    keys = [(store.identity, label) for label in _labels(test.of)]
    for key in keys:
        if key not in runs.analyses:
            result = results[key[1]].replaced(open_store=store)
            (runs.analyses[key],) = iceprobe.analyze([result], thresholds=1, draws=DRAWS)
    return [runs.analyses[key] for key in keys]


def complementarity(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """1 − the mean cosine between two maps of an image: each probe minus each other."""
    backbone = runs.backbones(claim)[0]
    results, store = runs.results(claim, backbone), runs.store(claim, backbone)
    (probe,) = _labels(test.of)

    def known(label: str) -> Values:
        if label == OWN:
            return looking.own_complementarity(load(backbone), store, results[probe].split)
        return looking.complementarity(results[label], store)

    ours = known(probe)
    found = [Finding(probe, float(ours.mean()), unit="1 − cos")]
    for other in [OWN if text == OWN else _label(text) for text in test.against]:
        theirs = known(other)
        found.append(Finding(other, float(theirs.mean()), unit="1 − cos"))
        found.append(paired(f"{probe} − {other}", ours, theirs, test.rule, scale=1, unit="1 − cos"))
    return found


def shortcut(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """What a probe loses with another image's surroundings, minus what others lose."""
    backbone = runs.backbones(claim)[0]
    results, store = runs.results(claim, backbone), runs.store(claim, backbone)
    (probe,), others = _labels(test.of), _labels(test.against)
    chosen = {label: results[label] for label in [probe, *others]}
    after = looking.exchanged(chosen, load(backbone), store)
    before = {label: _correct(result) for label, result in chosen.items()}
    found = []
    for label in chosen:
        drop = background_shortcut(before[label], after[label])
        what = f"{label}: accuracy lost with another background"
        found.append(Finding(what, 100 * drop.mean, _scaled(drop.interval, 100)))
    for other in others:
        lost, theirs = before[probe] - after[probe], before[other] - after[other]
        found.append(paired(f"loss of {probe} − loss of {other}", lost, theirs, test.rule))
    return found


def reversals(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """Pairs of backbones and of readers that put them in opposite orders.

    Which of two backbones is better by a reader is known where Holm's p is below 5% in the family of
    all pairs and readers, so that all that are known are right in 95% of such studies. The interval of
    the count runs from reversals of which both orders are known to all but those known to agree.
    """
    readers, right, missing = _labels(test.of), {}, []
    for backbone in runs.backbones(claim):
        try:
            results = runs.results(claim, backbone)
        except NotThere as reason:
            missing.append(str(reason))
            continue
        right[backbone] = {reader: _correct(results[reader]) for reader in readers}
    found = [
        Finding(
            f"{reader}: {', '.join(_ranked(right, reader))}",
            note="best first, top-1 in %",
            unit="",
        )
        for reader in readers
    ]
    orders = {
        (a, b, r): paired_difference(*_rows(right[a][r], right[b][r]), replicates=True)
        for a, b in itertools.combinations(right, 2)
        for r in readers
    }
    pairs = [((a, r), (b, r)) for a, b, r in orders]
    corrected = holm([one.p for one in together(list(orders.values()), pairs)])
    known = {key: p < 0.05 for key, p in zip(orders, corrected, strict=True)}
    apparent = low = agreeing = 0
    seen = []
    pairs = list(itertools.combinations(right, 2))
    for (a, b), (one, two) in itertools.product(pairs, list(itertools.combinations(readers, 2))):
        opposite = orders[a, b, one].mean * orders[a, b, two].mean < 0
        sure = known[a, b, one] and known[a, b, two]
        apparent += opposite
        agreeing += sure and not opposite
        if sure and opposite:
            low += 1
            seen.append(f"{a} and {b} by {one} and {two}")
    total = len(pairs) * len(readers) * (len(readers) - 1) // 2
    interval = (float(low), float(total - agreeing))
    what = f"reversals among {len(right)} backbones and layers, {len(readers)} readers"
    note = "; ".join([f"of {total}", *seen[:3], *missing])
    verdict = test.rule.decide(interval, interval) if test.rule else Verdict.SHOWN
    found.append(
        Finding(what, float(apparent), interval, "pairs", str(test.rule or ""), verdict, note)
    )
    found += _rank_correlations(right, readers)
    return found


def _rank_correlations(
    right: Mapping[str, Mapping[str, Values]], readers: Sequence[str]
) -> list[Finding]:
    """Kendall's τ between the rankings by the last reader and by each other."""
    *others, last = readers
    correct = {
        reader: np.stack([by[reader].mean(0) for by in right.values()]) for reader in readers
    }
    found = []
    for other in others:
        both = agreement(correct[last], correct[other], draws=DRAWS)
        what = f"rankings by {last} and {other}"
        found.append(Finding(what, both.tau, both.interval, "Kendall τ"))
    return found


def stability(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """How often a verdict on accuracy is the same from one replicate as from all others.

    Of claims with more replicates than another the first ones are read. Rows are replicates, columns
    verdicts: both are draws.
    """
    compared = []
    for number in test.claims:
        other = runs.claim(number)
        results = runs.results(other, runs.backbones(other)[0])
        for one in other.tests:
            if one.statistic != "difference" or one.rule is None:
                continue
            for a, b in itertools.product(_labels(one.of), _labels(one.against)):
                right = _rows(_correct(results[a]), _correct(results[b]))
                compared.append((f"{number}: {a} − {b}", right, one.rule))
    fewest = min(len(ours) for _, (ours, _), _ in compared)
    same = np.zeros((fewest, len(compared)))
    contradicted = []
    for column, (what, (ours, theirs), rule) in enumerate(compared):
        for row in range(fewest):
            rest = [r for r in range(fewest) if r != row]
            alone = paired("", ours[[row]], theirs[[row]], rule).verdict
            others = paired("", ours[rest], theirs[rest], rule).verdict
            same[row, column] = alone is others
            if {alone, others} == {Verdict.HOLDS, Verdict.FAILS}:
                contradicted.append(what)
    interval = _scaled(accuracy_interval(same), 100)
    return [
        Finding(
            f"verdicts of one replicate that are those of the {fewest - 1} others",
            100 * float(same.mean()),
            interval,
            "%",
            str(test.rule or ""),
            test.rule.decide(interval, interval) if test.rule else Verdict.SHOWN,
            f"{len(compared)} verdicts, {fewest} replicates",
        ),
        exact(
            f"of {same.size} verdicts of one replicate, contradicted by the others",
            len(contradicted),
            None,
            unit="",
            note="; ".join(dict.fromkeys(contradicted)),
        ),
    ]


def adapted(claim: Claim, test: Test, runs: Runs) -> list[Finding]:
    """Accuracy of an adaptation with its probe minus that of another."""
    of, against = ([_pair(text) for text in texts] for texts in (test.of, test.against))
    try:
        results = runs.adapted(claim)
    except NotThere as reason:
        return [
            _not_run(f"{a} − {b}", test, str(reason)) for a, b in itertools.product(of, against)
        ]
    return [
        paired(
            f"{a} − {b}", _correct(results[a]), _correct(results[b]), test.rule, replicates=False,
            note=f"{results[a].parameters.total:,} and {results[b].parameters.total:,} parameters",
        )
        for a, b in itertools.product(of, against)
    ]  # fmt: skip


STATISTICS: dict[str, Statistic] = {
    "difference": difference,
    "gain": gain,
    "ratio": ratio,
    "entropy": entropy,
    "importance": importance,
    "complementarity": complementarity,
    "shortcut": shortcut,
    "reversals": reversals,
    "stability": stability,
    "adapted": adapted,
}


def paired(
    what: str,
    ours: ArrayLike,
    theirs: ArrayLike,
    rule: Rule | None,
    *,
    replicates: bool = True,
    scale: float = 100,
    unit: str = "points",
    note: str = "",
) -> Finding:
    """The mean of a − b over ``(S, n)`` with its paired interval, and the verdict."""
    a, b = _rows(ours, theirs)
    mean, (interval, ninety) = _intervals(a, b, paired=replicates and len(a) > 1)
    verdict = (
        rule.decide(_scaled(interval, scale), _scaled(ninety, scale)) if rule else Verdict.SHOWN
    )
    return Finding(
        what, scale * mean, _scaled(interval, scale), unit, str(rule or ""), verdict, note
    )


def over_replicates(
    what: str, rows: ArrayLike, rule: Rule | None, *, unit: str, note: str = ""
) -> Finding:
    """The mean of a number that each replicate has, mean ± t_{R−1} s/√R."""
    values = np.asarray(rows, np.float64)
    error = values.std(ddof=1) / len(values) ** 0.5
    ends = {}
    for level in (0.95, 0.90):
        half = stats.t.ppf((1 + level) / 2, len(values) - 1) * error
        ends[level] = (float(values.mean() - half), float(values.mean() + half))
    verdict = rule.decide(ends[0.95], ends[0.90]) if rule else Verdict.SHOWN
    return Finding(what, float(values.mean()), ends[0.95], unit, str(rule or ""), verdict, note)


def _rows(ours: ArrayLike, theirs: ArrayLike) -> tuple[Values, Values]:
    """Replicates of both, ``(R, n)``; one row without any chance in it stands beside each."""
    a, b = np.atleast_2d(ours), np.atleast_2d(theirs)
    return (a, b) if len(a) == len(b) else tuple(np.broadcast_arrays(a, b))


def _intervals(a: Values, b: Values, *, paired: bool) -> tuple[float, list[Interval]]:
    """The mean of a − b, its 95% and its 90% interval; mean ± q·√Var of what is no share."""
    if min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1:
        difference = paired_difference(a, b, replicates=paired)
        return difference.mean, [difference.within(level) for level in (0.95, 0.90)]
    found = spread_of_difference(a, b, paired=paired)
    halves = [found.quantile(level) * found.variance**0.5 for level in (0.95, 0.90)]
    return found.mean, [(found.mean - half, found.mean + half) for half in halves]


def exact(what: str, value: float, rule: Rule | None, *, unit: str, note: str = "") -> Finding:
    """A number without uncertainty."""
    verdict = rule.decide((value, value), (value, value)) if rule else Verdict.SHOWN
    return Finding(what, value, None, unit, str(rule or ""), verdict, note)


def _not_run(what: str, test: Test, note: str) -> Finding:
    return Finding(what, rule=str(test.rule or ""), verdict=Verdict.NOT_RUN, note=note)


def _correct(result: Result) -> Values:
    predictions = result.predictions()
    assert predictions is not None
    return predictions.correct.astype(np.float64)


def _label(text: str) -> str:
    return probe_label(parse_probe(text))


def _pair(text: str) -> str:
    """Canonical label of an adaptation with its probe."""
    ((adaptation, probe),) = pairs([text], [])
    return f"{adaptation}{ON}{probe}"


def _labels(texts: Sequence[str]) -> list[str]:
    return [_label(text) for text in texts]


def _scaled(interval: Interval, scale: float) -> Interval:
    return scale * interval[0], scale * interval[1]


def _ranked(right: Mapping[str, Mapping[str, Values]], reader: str) -> list[str]:
    accuracies = {name: 100 * by[reader].mean() for name, by in right.items()}
    best_first = sorted(accuracies, key=lambda name: -accuracies[name])
    return [f"{name.partition(':')[2]} {accuracies[name]:.1f}" for name in best_first]


def _counted(counts, quantity: str) -> int:  # type: ignore[no-untyped-def]
    return {"parameters": counts.total, "pooling": counts.pooling, "FLOPs": counts.flops}[quantity]


def _of_result(result: Result, quantity: str) -> int:
    return {
        "parameters": result.parameters.total,
        "pooling": result.parameters.pooling,
        "FLOPs": result.flops.per_image,
    }[quantity]
