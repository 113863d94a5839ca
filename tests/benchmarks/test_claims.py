"""benchmarks/claims: rules on hand-made numbers, statistics on planted predictions, one claim run."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

import iceprobe
from benchmarks.claims import measures, page, run
from benchmarks.claims.claim import (
    OWN,
    ROOT,
    Claim,
    NotThere,
    Runs,
    Settings,
    load,
    load_data,
    look,
    read_claims,
)
from benchmarks.claims.rules import Finding, Rule, Verdict, together
from iceprobe.adaptation.registry import pairs
from iceprobe.cli.config import resolve
from iceprobe.probes.probe import build_for
from iceprobe.settings import AdaptRun
from iceprobe.tokens import TokenShape

HOLDS, FAILS, UNDECIDED, NOT_RUN, SHOWN = Verdict
CLAIMS = read_claims()


@pytest.mark.parametrize(
    ("rule", "interval", "verdict"),
    [
        ({"above": 0}, (0.1, 2.0), HOLDS),
        ({"above": 0}, (-2.0, -0.1), FAILS),
        ({"above": 0}, (-0.1, 2.0), UNDECIDED),
        ({"above": -1.5}, (-1.4, 0.3), HOLDS),
        ({"above": 0}, (0.0, 0.0), FAILS),  # a count of none
        ({"below": 1}, (0.54, 0.54), HOLDS),
        ({"below": 1}, (1.0, 1.0), FAILS),
        ({"below": 1.5}, (1.6, 4.0), FAILS),
        ({"below": 1.5}, (1.4, 4.0), UNDECIDED),
        ({"within": 1.5}, (-1.4, 1.4), HOLDS),
        ({"within": 1.5}, (-1.6, 1.4), UNDECIDED),
        ({"within": 1.5}, (1.6, 3.0), FAILS),
        ({"within": 1.5}, (-3.0, -1.6), FAILS),
    ],
)
def test_rules_on_numbers(rule, interval, verdict):
    assert Rule(**rule).decide(interval, interval) is verdict


def test_rules_and_numbers_are_reported_with_minus_signs():
    assert str(Rule(above=-1.5)) == "above −1.5"
    assert str(Rule(within=1.5)) == "within ±1.5"
    shown = [page.value({"value": v, "unit": "points"}) for v in (-0.01, -0.06, 2.349)]
    assert shown == ["+0.0 points", "−0.1 points", "+2.3 points"]


def test_equivalence_is_decided_by_the_90_percent_interval_and_refuted_by_the_95():
    rule = Rule(within=1.0)
    assert rule.decide((-1.1, 0.9), (-0.9, 0.7)) is HOLDS
    assert rule.decide((0.9, 3.0), (1.1, 2.8)) is UNDECIDED


@pytest.mark.parametrize("given", [{}, {"above": 0, "below": 1}, {"within": 0}, {"near": 1}])
def test_a_rule_is_one_kind_with_a_border(given):
    with pytest.raises(ValidationError):
        Rule(**given)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([HOLDS, HOLDS, SHOWN], HOLDS),
        ([HOLDS, FAILS, UNDECIDED], FAILS),
        ([HOLDS, NOT_RUN], UNDECIDED),
        ([FAILS, NOT_RUN], FAILS),
        ([HOLDS, UNDECIDED], UNDECIDED),
        ([SHOWN], UNDECIDED),
    ],
)
def test_a_claim_is_its_parts_together(parts, verdict):
    assert together(parts) is verdict


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: str(claim.number))
def test_every_file_names_what_exists(claim):
    shape = TokenShape(192, 196, 1, (14, 14), True)
    for test in claim.tests:
        assert test.statistic in measures.STATISTICS
        assert set(test.claims) <= {other.number for other in CLAIMS}
        assert test.rule is None or test.statistic != "importance" or test.rule.kind != "within"
    for probe in claim.probes:
        if probe != "knn":
            build_for(shape, probe, 10)
    if claim.config is not None:
        config = resolve(AdaptRun, {}, ROOT / claim.config)
        known = {measures._pair(" + ".join(pair)) for pair in pairs(config.adapt, config.probe)}
        named = [text for test in claim.tests for text in [*test.of, *test.against]]
        assert {measures._pair(text) for text in named} <= known
    assert set(load_data(claim.data).splits) == {"train", "test"}
    assert OWN not in claim.probes


def test_claim_7_trains_as_the_example_does():
    def read(file):
        return yaml.safe_load((ROOT / file).read_text())

    ours, example = read("benchmarks/claims/adaptation.yaml"), read("examples/adaptation.yaml")
    assert set(ours.pop("adapt")) < set(example.pop("adapt"))
    assert ours.pop("output") != example.pop("output")
    assert ours == example


def test_other_clutter_lies_around_the_same_items():
    bundled, other = load_data("bundled:fashion-clutter"), load_data("clutter:200")
    for split in ("train", "test"):
        a, b = bundled.splits[split], other.splits[split]
        assert a.labels.tolist() == b.labels.tolist()
        assert not any(a.image(i) == b.image(i) for i in range(20))


def test_numbers_are_those_of_the_files():
    assert [claim.number for claim in CLAIMS] == list(range(1, len(CLAIMS) + 1))


class Planted:
    """Runs whose predictions are given: ``{backbone: {probe: (S, n) booleans}}``."""

    def __init__(self, right, claims=()):
        self.right, self._claims = right, {claim.number: claim for claim in claims}

    def backbones(self, claim):
        return claim.backbone

    def claim(self, number):
        return self._claims[number]

    def results(self, claim, backbone):
        if backbone not in self.right:
            raise NotThere(f"{backbone}: backbone not bundled yet")
        return {
            label: SimpleNamespace(
                probe=label,
                top1=SimpleNamespace(mean=np.mean(right)),
                predictions=lambda right=right: SimpleNamespace(correct=np.asarray(right)),
            )
            for label, right in self.right[backbone].items()
        }


def claim(*tests, backbone=("bundled:a", "bundled:b", "bundled:c"), number=1, **fields):
    settings = Settings(epochs=1, learning_rates=[1e-2])
    given = dict(claim="c", source="s", data="bundled:fashion-clutter", settings=settings)
    return Claim(number=number, backbone=list(backbone), tests=list(tests), **given | fields)


def right(percent, n=1000, rows=3):
    """The first ``percent`` of n images are answered rightly, in every replicate."""
    return np.tile(np.arange(n) < n * percent / 100, (rows, 1))


def test_gains_are_over_the_best_of_the_others_and_missing_backbones_are_said():
    test = dict(statistic="gain", of="ep2", against=["knn", "linear"], rule={"above": 0})
    runs = Planted(
        {
            "bundled:a": {"ep2": right(80), "knn": right(30), "linear": right(60)},
            "bundled:b": {"ep2": right(90), "knn": right(85), "linear": right(70)},
        }
    )
    asked = claim(test)
    found = measures.gain(asked, asked.tests[0], runs)
    assert [round(f.value, 9) for f in found[:3]] == [20, 5, 15]
    assert [f.verdict for f in found] == [SHOWN, SHOWN, HOLDS, NOT_RUN]
    assert "knn" in found[1].what
    assert found[3].note == "bundled:c: backbone not bundled yet"
    low, high = found[2].interval
    # The paired values are 1, 0 or −1: 20% ones and 5% minus ones, a standard error of 1.5 points.
    error = 100 * np.sqrt((0.25 - 0.15**2) / 1000)
    assert (low, high) == pytest.approx((15 - 1.96 * error, 15 + 1.96 * error), abs=0.4)


def test_a_reversal_needs_both_orders_to_be_known():
    test = dict(statistic="reversals", of=["knn", "ep2"], rule={"above": 0})
    asked = claim(test, backbone=["bundled:a", "bundled:b"])

    def found(a, b):
        runs = Planted(
            {
                name: {"knn": r[0], "ep2": r[1]}
                for name, r in zip(asked.backbone, (a, b), strict=True)
            }
        )
        return measures.reversals(asked, asked.tests[0], runs)

    *shown, counted, tau = found((right(60), right(50)), (right(40), right(70)))
    assert (counted.value, counted.interval, counted.verdict) == (1, (1, 1), HOLDS)
    assert shown[0].what == "knn: a 60.0, b 40.0"
    assert shown[1].what == "ep2: b 70.0, a 50.0"
    assert tau.value == -1
    shuffled = np.random.default_rng(0).permuted(right(49.9), axis=1)
    *_, counted, tau = found((right(60), shuffled), (right(40), right(50)))
    assert (counted.value, counted.interval, counted.verdict) == (1, (0, 1), UNDECIDED)
    *_, counted, tau = found((right(60), right(70)), (right(40), right(50)))
    assert (counted.interval, counted.verdict, tau.value) == ((0, 0), FAILS, 1)
    # Same order by the means, but one of the two not known: it may be a reversal.
    *_, counted, tau = found((right(60), right(50)), (right(40), shuffled))
    assert (counted.value, counted.interval) == (0, (0, 1))


def test_orders_are_known_by_holm_over_all_of_them():
    """7 images differ, all one way: McNemar's p is 1/64 alone, and 6/64 as the least of six."""
    test = dict(statistic="reversals", of=["knn", "ep2"], rule={"above": 0})
    few = [right(percent, rows=1) for percent in (50, 50.7)]
    two = {"bundled:a": {"knn": few[0], "ep2": few[1]}, "bundled:b": {"knn": few[1], "ep2": few[0]}}
    asked = claim(test, backbone=[*two])
    *_, counted, _ = measures.reversals(asked, asked.tests[0], Planted(two))
    assert counted.interval == (1, 1)  # 2/64 of two
    three = two | {"bundled:c": {"knn": few[1], "ep2": few[1]}}
    asked = claim(test, backbone=[*three])
    *_, counted, _ = measures.reversals(asked, asked.tests[0], Planted(three))
    assert (counted.value, counted.interval) == (1, (0, 3))


def test_a_verdict_of_one_replicate_is_held_against_the_others():
    one = claim(dict(statistic="difference", of="ep2", against="linear", rule={"above": 0}))
    rule = {"above": 75}
    asked = claim(dict(statistic="stability", claims=[1], rule=rule), number=2)

    def found(ours):
        theirs = right(50, rows=len(ours))
        runs = Planted({"bundled:a": {"ep2": ours, "linear": theirs}}, [one])
        return measures.stability(asked, asked.tests[0], runs)

    same, contradicted = found(right(60))
    assert (same.value, contradicted.value) == (100, 0)
    assert same.verdict is UNDECIDED  # one verdict says little
    same, contradicted = found(np.concatenate([right(90, rows=20), right(40, rows=1)]))
    assert (same.value, contradicted.value) == (pytest.approx(100 * 20 / 21), 1)
    assert contradicted.note == "1: ep2 − linear"
    # Half of the replicates say the one, half the other: each is undecided by the rest together.
    same, _ = found(np.concatenate([right(60, rows=3), right(40, rows=3)]))
    assert (same.value, same.verdict) == (0, UNDECIDED)


def test_many_verdicts_from_replicates_that_agree_hold_and_from_ones_that_do_not_fail():
    rng = np.random.default_rng(0)
    probes = [f"ep{m}" for m in range(2, 42)]
    one = claim(dict(statistic="difference", of=probes, against="linear", rule={"above": 0}))
    asked = claim(dict(statistic="stability", claims=[1], rule={"above": 75}), number=2)

    def found(accuracies):
        results = {p: rng.random((5, 500)) < accuracies[p] for p in probes}
        runs = Planted({"bundled:a": {"linear": right(50, 500, 5)} | results}, [one])
        return measures.stability(asked, asked.tests[0], runs)[0]

    assert found(dict.fromkeys(probes, 0.7)).verdict is HOLDS
    luck = {p: rng.choice([0.3, 0.7], (5, 1)) for p in probes}
    assert found(luck).verdict is FAILS


def test_where_predictors_look_is_correlated_in_each_replicate(monkeypatch):
    def predictor(seed, importance, mass, entropy):
        means = [SimpleNamespace(mean=value) for value in (importance, mass, entropy)]
        return SimpleNamespace(
            seed=seed, importance=means[0], mass_in_box=means[1], entropy=means[2]
        )

    fits = {0: [1, 2, 3, 4], 1: [1, 2, 4, 3], 2: [2, 1, 4, 3]}  # ρ = 1, 0.8, 0.6
    predictors = [
        predictor(seed, rank, ranked, 0.5 + 0.1 * seed)
        for seed, ranks in fits.items()
        for rank, ranked in enumerate(ranks)
    ]
    one = SimpleNamespace(probe="ep4", seeds=[0, 1, 2], predictors=predictors[::-1], notes=["none"])
    monkeypatch.setattr(measures, "_analyses", lambda *_: [one])
    test = dict(statistic="importance", of="ep4", quantity="mass_in_box", rule={"above": 0})
    asked = claim(test)
    (found,) = measures.importance(asked, asked.tests[0], None)
    half = 4.302653 * 0.2 / 3**0.5  # t of two degrees of freedom
    assert (found.value, *found.interval) == pytest.approx((0.8, 0.8 - half, 0.8 + half))
    assert (found.verdict, found.note) == (HOLDS, "4 predictors in each of 3 replicates")
    (found,) = measures.entropy(asked, asked.tests[0].model_copy(update={"rule": None}), None)
    half = 4.302653 * 0.1 / 3**0.5
    assert (found.value, *found.interval) == pytest.approx((0.6, 0.6 - half, 0.6 + half))
    predictors[0].mass_in_box = None
    (found,) = measures.importance(asked, asked.tests[0], None)
    assert (found.verdict, found.note) == (NOT_RUN, "none")


def test_ratios_are_counted_at_the_size_that_is_given():
    asked = claim(
        dict(
            statistic="ratio", quantity="parameters", of="ep48?out_dim=96", against="linear",
            at={"dim": 768, "classes": 1000, "grid": [14, 14]}, rule={"below": 1},
        )
    )  # fmt: skip
    (found,) = measures.ratio(asked, asked.tests[0], Planted({}))
    assert found.value == (48 * 768 + 768 * 96 + 96 * 1000 + 1000) / (768 * 1000 + 1000)
    assert found.verdict is HOLDS


def test_backbones_that_do_not_ship_are_said_to_be_missing():
    with pytest.raises(NotThere, match="bundled:huge: backbone not bundled yet"):
        load("bundled:huge")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Three probes on 60 images, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    asked = claim(
        dict(statistic="difference", of="ep2", against="linear?input=mean", rule={"above": -100.5}),
        dict(statistic="complementarity", of="ep2", against=["mhca2", OWN], rule={"above": 1}),
        dict(statistic="shortcut", of="ep2", against="mhca2"),
        dict(statistic="entropy", of="ep2", rule={"below": 1}),
        backbone=["bundled:mae-tiny"],
    )
    few = Settings(replicates=2, epochs=1, learning_rates=[1e-2], limit=60)
    return look(asked).model_copy(update={"settings": few, "reason": "so it is", "caveat": "twins"})


@pytest.mark.slow
def test_a_claim_from_images_to_the_page(tiny, tmp_path, monkeypatch):
    entry = run.judge(tiny, Runs(tmp_path / "runs", [tiny]))
    assert entry["verdict"] == "fails"  # 1 − cos of two maps is never above 1
    first, *others = entry["findings"]
    assert first["what"] == "ep2 − linear?input=mean"
    assert first["verdict"] == "holds"
    loss = next(f for f in others if f["what"] == "loss of ep2 − loss of mhca2")
    each = {f["what"]: f["value"] for f in others if f["what"].endswith("another background")}
    ours, theirs = each.values()
    assert loss["value"] == pytest.approx(ours - theirs)
    entry = json.loads(json.dumps(entry))
    text = page.refreshed(
        "a\n<!-- claims -->\nyesterday\n<!-- end -->\nb", [entry], [tiny, CLAIMS[6]]
    )
    assert "| [1](#claim-1) | c *twins* | **fails** |" in text
    assert "yesterday" not in text
    assert "Why: so it is" in text
    assert "## Claim 7\n\nLoRA and EP are" in text
    assert text.count("**Not run yet.**") == 1
    assert page.in_words(entry).startswith("  fails, ")

    monkeypatch.setattr(iceprobe, "fit", None)  # nothing is fitted a second time
    again = run.judge(tiny, Runs(tmp_path / "runs", [tiny]))
    assert [f["value"] for f in again["findings"]] == [f["value"] for f in entry["findings"]]


def test_the_page_shows_what_was_found():
    """Where it doesn't, `python -m benchmarks.claims.page` mends it."""
    text = page.PAGE.read_text()
    entries = json.loads(run.RESULTS.read_text()) if run.RESULTS.exists() else []
    assert page.refreshed(text, entries, CLAIMS) == text
    assert not re.search(r"/home|/work|/tmp", json.dumps(entries))
    by_number = {claim.number: claim for claim in CLAIMS}
    for entry in entries:
        assert entry["claim"] == by_number[entry["number"]].claim
        findings = [Finding(**f) for f in entry["findings"]]
        assert together(Verdict(f.verdict) for f in findings) == entry["verdict"]


def test_the_page_says_where_each_claim_was_run():
    def entry(number, processor, commit="abc"):
        environment = {"processor": processor, "platform": "Linux", "torch": "2.15"}
        return {"number": number, "commit": commit, "environment": environment}

    one, two = entry(1, "Xeon"), entry(2, "EPYC")
    assert page.where([one]) == ["Xeon, Linux, torch 2.15, iceprobe at abc"]
    found = page.where([one, two, entry(3, "Xeon"), entry(4, "Xeon", "def")])
    assert [shown.split(", Linux")[0] for shown in found] == ["1, 3: Xeon", "2: EPYC", "4: Xeon"]


def test_numbers_that_there_are_not_are_refused():
    assert [c.number for c in run.chosen(CLAIMS, [3, 1], [])] == [1, 3]
    assert 7 not in [c.number for c in run.chosen(CLAIMS, [], [7])]
    with pytest.raises(SystemExit, match="claim 99: there are 1, 2"):
        run.chosen(CLAIMS, [99], [])
