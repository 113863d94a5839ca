"""Intervals of metrics that are no mean over examples: by loops over repeated rows, and by simulation."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, r2_score, roc_auc_score

from benchmarks.intervals import simulated
from iceprobe.core.errors import IceprobeError
from iceprobe.results import intervals
from iceprobe.results.building import score_of, scores_of
from iceprobe.results.enough import caveat, rarest
from iceprobe.results.intervals import difference_of, interval_of, method_for, unit_scores
from iceprobe.results.links import Link
from iceprobe.results.predictions import Logits, Predictions
from iceprobe.results.resampling import SEED, bootstrap_ends, bootstrapped, draw_counts, left_out
from iceprobe.tasks import get_task

CLASSES, TAGS, NUMBERS = (
    get_task(name).metrics for name in ("classification", "multilabel", "regression")
)


def classified(n: int = 80, seeds: int = 2, classes: int = 3, signal: float = 1.2, seed: int = 0):
    """A record, labels and groups of 4."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    logits = rng.standard_normal((seeds, n, classes))
    logits[:, np.arange(n), labels] += signal
    logits = logits.astype(np.float16)
    record = SimpleNamespace(
        logits=logits, predicted=logits.argmax(-1), logit_classes=None, log_sum_exp=None, top5=None
    )
    return record, labels, np.arange(n) // 4


def rows_of(record, rows):
    return SimpleNamespace(
        logits=record.logits[:, rows], predicted=record.predicted[:, rows], logit_classes=None,
        log_sum_exp=None, top5=None,
    )  # fmt: skip


def test_draws_are_scikit_learns_of_repeated_rows():
    record, labels, groups = classified()
    found = bootstrapped(CLASSES["f1_macro"], record, labels, groups, 5)
    by_auroc = bootstrapped(CLASSES["auroc"], record, labels, groups, 5)
    counts = draw_counts(20, 5, np.random.default_rng(SEED))
    assert counts.sum(1).tolist() == [20] * 5
    for draw, value, area in zip(counts, found, by_auroc, strict=True):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in range(20) for _ in range(draw[g])])  # fmt: skip
        theirs = [f1_score(labels[rows], one[rows], average="macro") for one in record.predicted]
        assert value == pytest.approx(np.mean(theirs), abs=1e-9)
        p = np.exp(record.logits.astype(np.float64))
        p /= p.sum(-1, keepdims=True)
        theirs = [roc_auc_score(labels[rows], one[rows], multi_class="ovr") for one in p]
        assert area == pytest.approx(np.mean(theirs), abs=1e-9)


def test_draws_of_tags_and_numbers_too():
    rng = np.random.default_rng(0)
    having = rng.random((40, 3)) < 0.4
    logits = (rng.standard_normal((1, 40, 3)) + having).astype(np.float32)
    wanted = rng.standard_normal((40, 1))
    predicted = (wanted + rng.standard_normal((1, 40, 1))).astype(np.float32)
    codes = np.arange(40)
    of_tags = bootstrapped(TAGS["map"], SimpleNamespace(logits=logits), having.astype(np.uint8), codes, 4)  # fmt: skip
    of_numbers = bootstrapped(NUMBERS["r2"], SimpleNamespace(predicted=predicted), wanted, codes, 4)
    for draw, tags, number in zip(
        draw_counts(40, 4, np.random.default_rng(SEED)), of_tags, of_numbers, strict=True
    ):
        rows = np.repeat(codes, draw)
        theirs = average_precision_score(having[rows], logits[0, rows], average="macro")
        assert tags == pytest.approx(theirs, abs=1e-9)
        assert number == pytest.approx(r2_score(wanted[rows], predicted[0, rows]), abs=1e-9)


def test_the_jackknife_leaves_out_each_group():
    record, labels, groups = classified()
    found = left_out(CLASSES["kappa"], record, labels, groups)
    for group in range(20):
        rest = groups != group
        theirs = CLASSES["kappa"].value(rows_of(record, rest), labels[rest])
        assert found[:, group] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("name", ["f1_macro", "auroc"])
@pytest.mark.parametrize("n", [30, 80])
def test_copies_of_an_example_change_no_interval(name, n):
    """By jackknife and by bootstrap; groups of one are no groups, to the bit."""
    record, labels, _ = classified(n)
    one = interval_of(CLASSES[name], record, labels)
    assert one.method == ("jackknife" if n < 50 else "bootstrap")
    assert interval_of(CLASSES[name], record, labels, np.arange(n)[::-1] + 7) == one
    rows = np.repeat(np.arange(n), 3)
    copied = interval_of(CLASSES[name], rows_of(record, rows), labels[rows], rows)
    assert copied.method == one.method
    assert copied.ends == pytest.approx(one.ends, abs=1e-9)
    linear = [interval_of(CLASSES[name], *what, method="linearised") for what in ((record, labels), (rows_of(record, rows), labels[rows], rows))]  # fmt: skip
    assert linear[0].ends == pytest.approx(linear[1].ends, abs=1e-9)


def test_levels_are_the_expanded_ones_where_draws_have_no_bias_and_no_skew():
    """Hesterberg's: Φ(−√(n/(n − 1)) t)."""
    draws, influences = np.arange(-500, 501) / 500, np.r_[-np.ones(5), np.ones(5)]
    level = stats.norm.cdf(-math.sqrt(10 / 9) * stats.t(9).ppf(0.975))
    low, high = bootstrap_ends(0.0, draws, influences, 0.95)
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [level, 1 - level])))
    # Efron's by scipy, up to what the expansion adds: of a skewed statistic of many values.
    values = np.random.default_rng(0).exponential(size=400)
    counts = draw_counts(400, 9_999, np.random.default_rng(1))
    sums = (values**2).mean()
    ours = bootstrap_ends(sums, (counts @ values**2) / 400, (values**2 - sums) / 400, 0.95)
    theirs = stats.bootstrap((values**2,), np.mean, method="BCa", rng=0).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.03)


def test_replicates_add_to_the_square_of_each_arm():
    record, labels, _ = classified(120, seeds=4)
    shift = np.array([0.2, 2.5, 1.0, 3.0])  # members of very different quality
    logits = np.random.default_rng(3).standard_normal((4, 120, 3))
    logits[:, np.arange(120), labels] += shift[:, None]
    record = SimpleNamespace(logits=logits, predicted=logits.argmax(-1), logit_classes=None)
    metric = CLASSES["f1_macro"]
    values = metric.value(record, labels)
    found = interval_of(metric, record, labels)
    t = stats.t(3).ppf(0.975)
    assert values.mean() - found.low > 0.9 * t * values.std(ddof=1) / 2
    one = SimpleNamespace(logits=logits[:1], predicted=record.predicted[:1], logit_classes=None)
    alone = interval_of(metric, one, labels)
    assert alone.high - alone.low < 0.5 * (found.high - found.low)
    assert 0 <= found.low < found.high <= 1


@pytest.mark.parametrize("method", ["bootstrap", "jackknife", "linearised"])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_three_ways_agree_with_many_units(method, grouped):
    record, labels, groups = classified(800, seeds=1)
    groups = groups if grouped else None
    for name in ("f1_macro", "auroc", "kappa"):
        value = float(CLASSES[name].value(record, labels)[0])
        found = interval_of(CLASSES[name], record, labels, groups, method=method)
        error = math.sqrt(CLASSES[name].scores(record, labels).var() / 800)
        assert found.method == method
        assert found.low < value < found.high
        if not grouped:
            assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_what_costs_too_much_is_linearised(monkeypatch):
    assert method_for(49, 10**12) == "jackknife"
    assert method_for(500, 10**6) == "bootstrap"
    assert method_for(500, 3 * 10**6) == method_for(5_000, 3 * 10**5) == "linearised"
    record, labels, _ = classified(80)
    assert interval_of(CLASSES["auroc"], record, labels).method == "bootstrap"
    monkeypatch.setattr(intervals, "MOST_CELLS", 80 * 2 * 3 * 1_000 - 1)  # n S K W
    assert interval_of(CLASSES["auroc"], record, labels).method == "linearised"
    assert interval_of(CLASSES["f1_macro"], record, labels).method == "bootstrap"  # of no logits


def test_no_error_seen_has_a_width():
    record, labels, groups = classified(60, seeds=2, signal=50)
    z = stats.norm.ppf(0.975)
    auroc = interval_of(CLASSES["auroc"], record, labels)
    assert auroc.ends == (pytest.approx(20 / (20 + z**2)), 1.0)  # 20 examples of a class
    kappa = interval_of(CLASSES["kappa"], record, labels, groups)
    having = min(len(set(groups[labels == c])) for c in range(3))
    assert kappa.ends == (pytest.approx(2 * having / (having + z**2) - 1), 1.0)  # of 15 groups
    mean = interval_of(CLASSES["mean_per_class"], record, labels, groups)
    assert mean.low < 0.85
    assert mean.high == 1
    same = difference_of(CLASSES["auroc"], record, record, labels)
    assert same.mean == 0
    assert same.p == 1
    assert same.interval[1] == pytest.approx(z**2 / (20 + z**2), rel=0.03)
    perfect = SimpleNamespace(predicted=np.zeros((1, 9, 1), np.float32) + np.arange(9.0)[:, None])
    assert interval_of(NUMBERS["r2"], perfect, np.arange(9.0)[:, None]).ends == (1, 1)


def test_unit_scores_have_the_jackknifes_variance():
    record, labels, groups = classified(80, seeds=2)
    metric = CLASSES["f1_macro"]
    scores = unit_scores(metric, record, labels, groups)
    assert scores.mean(1) == pytest.approx(metric.value(record, labels))
    without = left_out(metric, record, labels, groups)
    rows = scores - scores.mean(1, keepdims=True)
    sums = np.array([[row[groups == g].sum() / 80 for g in range(20)] for row in rows])
    assert 20 / 19 * (sums**2).sum(1) == pytest.approx(19 * without.var(1))
    many = np.arange(80)
    assert (unit_scores(metric, record, labels, many) == metric.scores(record, labels)).all()
    right = unit_scores(CLASSES["top1"], record, labels, groups)
    assert right.dtype == bool


def test_differences_are_antisymmetric_and_p_agrees_with_the_interval():
    a, labels, groups = classified(80, signal=1.5)
    b = SimpleNamespace(
        **vars(a) | {"logits": a.logits + np.random.default_rng(1).normal(0, 0.5, a.logits.shape)}
    )
    for mine in (None, groups):
        one, other = (difference_of(CLASSES["auroc"], *pair, labels, mine) for pair in ((a, b), (b, a)))  # fmt: skip
        assert other.mean == -one.mean
        assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))
        assert one.p == other.p
        low, high = one.within(1 - one.p)
        assert min(abs(low), abs(high)) < 1e-6


def test_caveats_count_groups_and_the_rarest_outcome():
    labels = np.repeat([0, 1], [60, 12])
    f1, top1 = CLASSES["f1_macro"], CLASSES["top1"]
    assert caveat(f1, labels) is None
    assert rarest(f1, labels) == (12, 12)
    assert rarest(top1, labels) is None
    assert "9 examples" in caveat(top1, labels[:9])
    assert "7 examples of the rarest" in caveat(f1, labels[:67])
    assert caveat(top1, labels[:67]) is None
    groups = np.arange(72) // 4
    assert "3 groups with the rarest" in caveat(f1, labels, groups)
    assert "8 groups" in caveat(top1, labels, np.arange(72) // 9)
    assert caveat(CLASSES["ece"], labels[:67]) is None
    tags = np.zeros((50, 2), np.uint8)
    tags[:20, 0], tags[:3, 1], tags[20:, 1] = 1, 1, 255
    assert rarest(TAGS["map"], tags) == (3, 3)
    assert rarest(TAGS["f1_micro"], tags)[0] == 23
    assert rarest(TAGS["f1_micro_best"], tags) == rarest(TAGS["f1_micro"], tags)
    assert rarest(TAGS["exact_match"], tags) is None
    assert caveat(NUMBERS["r2"], np.zeros((10, 1))) is None


def test_draws_without_a_positive_are_left_out_and_told():
    labels = np.zeros(60, int)
    labels[:2] = 1
    logits = np.random.default_rng(0).standard_normal((1, 60, 2))
    record = SimpleNamespace(logits=logits, predicted=logits.argmax(-1), logit_classes=None)
    found = interval_of(CLASSES["auroc"], record, labels)
    assert found.undefined == pytest.approx((58 / 60) ** 60, abs=0.05)  # no positive drawn
    assert "2 examples of the rarest" in found.caveat
    with pytest.raises(IceprobeError, match="examples of two classes"):
        interval_of(CLASSES["auroc"], record, np.zeros(60, int))
    assert interval_of(CLASSES["f1_macro"], record, labels, np.zeros(60)) is None


def predictions_of(n: int, classes: int) -> Predictions:
    record, labels, groups = classified(n, classes=classes)
    return Predictions(
        labels, record.predicted.astype(np.int32), outputs=[Logits(record.logits)], groups=groups
    )


def test_scores_are_those_that_come_by_themselves_and_those_that_were_asked_for():
    found = scores_of(predictions_of(84, 3), "classification")
    assert {"top1", "mean_per_class", "f1_macro", "auroc", "ap", "kappa"} <= set(found)
    assert found["auroc"].method == "jackknife"  # 21 groups
    assert found["top1"].method == "score"
    many = predictions_of(84, 21)
    assert "auroc" not in scores_of(many, "classification")
    asked = scores_of(many, "classification", ["auroc"])
    assert asked["auroc"] == score_of(many, "classification", "auroc")
    assert "rarest outcome" in asked["auroc"].caveat
    with pytest.raises(IceprobeError, match="auroc"):
        score_of(many, "classification", "aurok")
    without = Predictions(many.labels, many.predicted)
    assert "auroc" not in scores_of(without, "classification", ["auroc"])
    with pytest.raises(IceprobeError, match="fit it again"):
        score_of(without, "classification", "auroc")


@pytest.mark.parametrize(
    ("name", "images", "size"), [("R²", 20, 1), ("AUROC", 100, 10), ("accuracy", 100, 10)]
)
def test_intervals_hold_the_truth(name, images, size, monkeypatch):
    """Of 200 trials a true 95% holds between 92 and 98, 19 times in 20."""
    monkeypatch.setattr("benchmarks.intervals.truth", lambda name, size: TRUTH[name])
    cell = simulated(name, images, size, 120 if name == "AUROC" else 200)
    assert 0.91 <= cell.held <= 0.99
    assert 0.91 <= cell.paired <= 1


TRUTH = {"R²": (0.75, 0.64), "AUROC": (0.9332, 0.9030), "accuracy": (0.8015, 0.7560)}


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (None, 1.0), (0.0, None), (None, None)])
def test_ends_stay_in_the_range(ends):
    link = Link.of(ends)
    for value in (0.2, 0.9):
        assert link.back(float(link.forward(value))) == pytest.approx(value)
        slope = float(link.forward(value + 1e-6) - link.forward(value - 1e-6)) / 2e-6
        assert link.slope(value) == pytest.approx(slope, rel=1e-4)
        low, high = link.around(value, 3.0)
        assert low < value < high
        assert ends[0] is None or low > ends[0]
        assert ends[1] is None or high < ends[1]
    low, high = Link.of((0.0, 1.0)).around(0.5, 1e6)
    assert 0 <= low < 1e-9
    assert Link.of((None, 1.0)).around(1.0, 1.0) == (1.0, 1.0)


def test_an_interval_holds_its_value_where_all_draws_lie_on_one_side():
    """As of the mAP of many rare tags: positives that are drawn twice are found more easily."""
    draws, influences = np.linspace(0.4, 0.5, 1000), np.linspace(-1, 1, 100)
    for value, side in ((0.3, 0), (0.6, 1)):
        ends = bootstrap_ends(value, draws, influences, 0.95)
        assert ends[side] == value
        assert 0.4 <= ends[1 - side] <= 0.5
