"""Intervals of an analysis: over groups where there are any, over classes where the metric is a mean of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.analysis.association import correlate, mean_intervals
from iceprobe.analysis.scoring import Scoring
from iceprobe.analysis.summary import shortcut_of
from iceprobe.results.statistics import paired_difference
from iceprobe.tasks import get_task
from tests.reference import analysis as reference

GROUPS = np.array([4, 4, 1, 4, 7, 7, 1, 0, 4, 2, 2, 2])
CLASSES = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 0])


def drawn(seed: int, draws: int) -> list[np.ndarray]:
    """The images of each draw of whole groups."""
    names = np.unique(GROUPS)
    share = [1 / len(names)] * len(names)
    counts = np.random.default_rng(seed).multinomial(len(names), share, size=draws)
    return [
        np.concatenate([np.repeat(np.flatnonzero(g == GROUPS), k) for g, k in zip(names, row, strict=True)])
        for row in counts
    ]  # fmt: skip


def per_class(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    there = np.unique(CLASSES[images])
    return np.mean([values[:, images[CLASSES[images] == c]].mean(1) for c in there], 0)


def test_whole_groups_are_drawn_and_classes_count_alike():
    values = np.random.default_rng(0).normal(size=(5, 12))
    images = drawn(3, 60)
    for strata, mean in (
        (None, lambda i: values[:, i].mean(1)),
        (CLASSES, lambda i: per_class(values, i)),
    ):
        found = mean_intervals(values, groups=GROUPS, strata=strata, draws=60, seed=3)
        expected = np.quantile([mean(one) for one in images], [0.025, 0.975], axis=0).T
        np.testing.assert_allclose(found, expected)
    measure = np.random.default_rng(1).normal(size=(5, 12))
    one = correlate(values, {"m": measure}, groups=GROUPS, strata=CLASSES, draws=60, seed=3)["m"]
    assert one.rho == pytest.approx(
        reference.spearman(per_class(values, np.arange(12)), measure.mean(1))
    )
    rhos = [reference.spearman(per_class(values, i), measure[:, i].mean(1)) for i in images]
    assert one.interval == pytest.approx(tuple(np.quantile(rhos, [0.025, 0.975])))


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("groups", [None, GROUPS])
def test_the_background_drop_is_compared_as_any_two_probes_are(metric, groups):
    task, rng = get_task("classification"), np.random.default_rng(0)
    read = np.where(rng.random((2, 12)) < 0.9, CLASSES, 0)
    after = np.where(rng.random((2, 11)) < 0.4, CLASSES[1:], 0)
    result = SimpleNamespace(task="classification", metric=task.metrics[metric])
    found = SimpleNamespace(
        scoring=Scoring(result, CLASSES), groups=groups,
        records=[[{"predicted": torch.tensor(one[None, :5])}, {"predicted": torch.tensor(one[None, 5:])}] for one in read],
        exchanged=(
            SimpleNamespace(name="mean colour", rows=np.arange(1, 12)),
            [[{"predicted": torch.tensor(one[None])}] for one in after],
        ),
    )  # fmt: skip
    drop = shortcut_of(found, 50)
    expected = paired_difference(
        read[:, 1:] == CLASSES[1:], after == CLASSES[1:],
        CLASSES[1:] if metric == "mean_per_class" else None,
        None if groups is None else groups[1:], replicates=True,
    )  # fmt: skip
    assert drop.drop.mean == pytest.approx(expected.mean)
    assert drop.drop.interval == pytest.approx(expected.interval)
    right = after == CLASSES[1:]
    shares = (
        [right.mean(1)]
        if metric == "top1"
        else [right[:, CLASSES[1:] == c].mean(1) for c in range(3)]
    )
    assert drop.replaced.mean == pytest.approx(np.mean(shares))
    assert 0 <= drop.replaced.interval[0] <= drop.replaced.interval[1] <= 1


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    tokens = rng.normal(size=(60, 6, 8)).astype(np.float32)
    tokens[np.arange(60), rng.integers(0, 6, 60), labels] += 3
    groups = {"train": 100 + np.arange(60), "test": np.arange(60) // 4}
    store = iceprobe.from_tokens(
        {"train": (tokens, labels), "test": (tokens + 0.5, labels)}, grid=(2, 3), groups=groups
    )
    return iceprobe.fit(
        store, ["ep2"], metric="mean_per_class", seeds=1, epochs=2, min_steps=20, learning_rates=[1e-2],
        output=tmp_path_factory.mktemp("grouped") / "run",
    )  # fmt: skip


def test_an_analysis_draws_the_groups_of_its_store(grouped):
    (found,) = iceprobe.analyze(grouped, draws=200)
    (result,) = grouped
    assert found.groups == 15
    assert found.caveat == (
        "intervals of mean per class and importance can't be trusted: 3 groups with the rarest outcome"
    )
    right = result.needed_predictions().correct
    labels, groups = result.needed_predictions().labels, np.arange(60) // 4
    counts = np.random.default_rng(0).multinomial(15, [1 / 15] * 15, size=200)
    tops, shares = [], []
    for row in counts:
        images = np.concatenate(
            [np.repeat(np.flatnonzero(groups == g), k) for g, k in enumerate(row)]
        )
        tops.append(right[0, images].mean())
        there = np.unique(labels[images])
        shares.append(np.mean([right[0, images[labels[images] == c]].mean() for c in there]))
    assert found.accuracy.interval == pytest.approx(tuple(np.quantile(tops, [0.025, 0.975])))
    assert found.score.mean == pytest.approx(result.score.mean)
    assert found.score.interval == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])))


def test_the_interval_of_a_score_stays_in_its_range():
    """mAP, whose linearised values go beyond 1."""
    tags = np.array([[1, 0], [0, 1]] * 8 + [[0, 0]], np.uint8)
    logits = np.where(tags == 1, 2.0, -2.0)
    logits[0, 0] = -1.0
    logits[16, 0] = 0.0
    task = get_task("multilabel")
    result = SimpleNamespace(task="multilabel", metric=task.metrics["map"])
    record = [[{"logits": torch.tensor(logits[None], dtype=torch.float32)}]]
    found = SimpleNamespace(
        scoring=Scoring(result, tags), groups=None, records=record,
        exchanged=(SimpleNamespace(name="mean colour", rows=np.arange(17)), record),
    )  # fmt: skip
    score = shortcut_of(found, 200).score
    assert score.mean == pytest.approx(np.mean([(7 + 8 / 9) / 8, 1]))
    assert score.interval[0] < score.mean < score.interval[1] == 1


def test_few_groups_are_no_reason_for_trust(grouped):
    (result,) = grouped
    store = result.open_store
    few = store.take("test", np.arange(20))
    (found,) = iceprobe.analyze([result.replaced(open_store=few)], draws=20)
    assert found.groups == 5
    assert found.caveat == "no interval can be trusted: it is over 5 groups"
