"""Tags and numbers: losses, joint training, units, folds, groups, end to end, on planted tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, log_loss, r2_score, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import ArraySplit, Column, Dataset
from iceprobe.fitting import phases
from iceprobe.fitting.engine import JointTrainer, predict_all
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import Member, make_groups
from iceprobe.neighbours.voting import Vote, voted
from iceprobe.protocols.protocol import PROTOCOLS
from iceprobe.results import read_results
from iceprobe.results.building import led_by
from iceprobe.store import extract_in_memory
from iceprobe.tasks import get_task
from iceprobe.tokens import Tokens, TokenShape
from tests.fitting.conftest import DIM, GRID, planted
from tests.fitting.test_api import QUICK, Killed, assert_same_run, kill_after, planted_images
from tests.store.conftest import make_backbone

CPU = torch.device("cpu")
SHAPE = TokenShape(DIM, GRID[0] * GRID[1], 1, GRID, has_class=True)
PROBES = ["knn", "linear?input=mean", "mean_value", "ep4", "abmilp", "simpool"]


def tags_of(classes: np.ndarray) -> np.ndarray:
    """Three tags of a class, some cells unknown; the last example has none at all."""
    found = np.stack([classes == 0, classes != 1, classes == 2], 1).astype(float)
    found[::7, 1] = np.nan
    found[-1] = 0
    return found


def numbers_of(classes: np.ndarray) -> np.ndarray:
    found = np.stack([1000.0 + 50 * classes, -0.01 * classes], 1)
    found[::5, 1] = np.nan
    return found


TARGETS = {"multilabel": tags_of, "regression": numbers_of}
NAMES = {"multilabel": ["a", "b", "c"], "regression": ["big", "small"]}


def dataset(task: str, group: bool = False, splits=(("train", 240, 0), ("test", 90, 1))) -> Dataset:
    made = {}
    for name, n, seed in splits:
        plain = planted_images(name, n, seed)
        codes = np.arange(n) // 4  # of four images in a row
        columns = {"patient": Column(codes, [f"p{i}" for i in range(60)])} if group else None
        made[name] = ArraySplit(
            name, plain.images, TARGETS[task](plain.labels), plain.names, task=task, columns=columns
        )
    return Dataset(
        f"test:{task}", task, NAMES[task], made, group="patient" if group else None
    )  # fmt: skip


@pytest.fixture(scope="module", params=["multilabel", "regression"])
def store(request):
    return extract_in_memory(make_backbone(), dataset(request.param), tokens="float32")


def test_tags_have_torchs_loss_over_known_cells():
    task = get_task("multilabel")
    targets = task.targets(tags_of(np.arange(20) % 3), "train")
    learning = task.learning(targets, "balanced")
    logits = torch.randn(4, 20, 3, dtype=torch.float64)
    y, known = torch.from_numpy(targets), torch.from_numpy(targets) != 255
    for mine, weights in ((task, None), (learning, learning.weights.double())):
        expected = torch.stack([
            F.binary_cross_entropy_with_logits(
                one[known], y[known].double(),
                pos_weight=None if weights is None else weights.expand(20, 3)[known],
            )
            for one in logits
        ])  # fmt: skip
        torch.testing.assert_close(mine.loss(logits, y), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(mine.loss(logits[0], y), expected[0], rtol=1e-12, atol=0)
        parts = [mine.loss(logits[:, rows], y[rows], y) for rows in (slice(0, 7), slice(7, 20))]
        torch.testing.assert_close(sum(parts), expected, rtol=1e-12, atol=0)
    positives = (targets == 1).sum(0)
    np.testing.assert_allclose(learning.weights, (targets == 0).sum(0) / positives, rtol=1e-6)


def test_classes_are_weighed_as_scikit_learn_balances_them():
    task, labels = get_task("classification"), np.array([0] * 12 + [1] * 6 + [2] * 2)
    learning = task.learning(labels, "balanced")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(learning.weights, expected, rtol=1e-6)
    logits, y = torch.randn(2, 20, 3, dtype=torch.float64), torch.from_numpy(labels)
    weights = learning.weights.double()
    for one, loss in zip(logits, learning.loss(logits, y), strict=True):
        # Over all training examples the weights have the mean 1: torch's mean is the same.
        torch.testing.assert_close(loss, F.cross_entropy(one, y, weight=weights))
    torch.testing.assert_close(task.loss(logits, y)[0], F.cross_entropy(logits[0], y))


def test_numbers_have_the_mean_squared_error_of_standardised_targets():
    task = get_task("regression")
    targets = task.targets(numbers_of(np.arange(20) % 3), "train")
    learning = task.learning(targets)
    shift, scale = learning.scaling
    np.testing.assert_allclose(shift, np.nanmean(targets, 0))
    np.testing.assert_allclose(scale, np.nanstd(targets, 0))
    z, y = torch.randn(3, 20, 2, dtype=torch.float64), torch.from_numpy(targets)
    standardised = (y - shift) / scale
    known = ~y.isnan()
    expected = torch.stack([F.mse_loss(one[known], standardised[known]) for one in z])
    torch.testing.assert_close(learning.loss(z * scale + shift, y), expected)
    parts = [learning.loss((z * scale + shift)[:, r], y[r], y) for r in (slice(9), slice(9, 20))]
    torch.testing.assert_close(sum(parts), expected)


@pytest.mark.parametrize("name", ["multilabel", "regression"])
@pytest.mark.parametrize("weight", ["none", "balanced"])
def test_a_member_trained_among_others_ends_as_one_alone(name, weight):
    task, split = get_task(name), planted(150, seed=0)
    split.labels = task.targets(TARGETS[name](split.labels), "train")
    feed = Feed(split, np.arange(150), {"patches", "class", "mean"}, CPU, torch.float64)
    learning = task.learning(split.labels, weight if task.weighs_classes else "none")

    def trained(members):
        groups = make_groups(members, SHAPE, len(NAMES[name]), CPU, scaling=learning.scaling)
        trainer = JointTrainer(groups, "adamw", steps=10, warmup=2, task=learning)
        for batch in [*feed.shuffled(32, 0, 0), *feed.shuffled(32, 0, 1)]:
            trainer.train_step(batch)
        records = predict_all(groups, feed, 64, task)
        found = {}
        for group, record in zip(groups, records, strict=True):
            for g, member in enumerate(group.members):
                outputs = {key: tensor[g] for key, tensor in record.items()}
                found[member] = (outputs, group.probe(g))
        return found

    torch.set_default_dtype(torch.float64)
    try:
        members = [
            Member(probe, rate, 0.01, seed)
            for probe in ("ep4", "aim4", "abmilp", "linear", "mean_value")
            for rate in (1e-3, 1e-2)
            for seed in (0, 1)
        ]
        together = trained(members)
        tokens = Tokens(split.tokens.double(), split.prefix.double(), GRID, True)
        for member in members[::3]:
            (outputs, probe), (alone, _) = together[member], trained([member])[member]
            for key, tensor in alone.items():
                torch.testing.assert_close(outputs[key], tensor, rtol=1e-5, atol=1e-5)
            (predicted,) = task.record(probe(tokens)[None], feed.labels).values()
            (kept,) = outputs.values()
            torch.testing.assert_close(predicted[0], kept, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_default_dtype(torch.float32)


def test_every_probe_is_fitted_and_scored_in_the_targets_unit(store, tmp_path):
    results = iceprobe.fit(store, PROBES, output=tmp_path / "run", **QUICK)
    task, truth = get_task(store.task), store["test"].targets
    again = read_results(tmp_path / "run")
    for result, read in zip(results, again, strict=True):
        assert result.metrics == read.metrics
        assert (result.task, result.primary) == (store.task, task.primary)
        predictions = read.predictions()
        np.testing.assert_array_equal(predictions.labels, truth)
        if task.name == "regression":
            found = predictions.predicted
            known = ~np.isnan(truth)
            values = [
                np.mean([
                    r2_score(truth[known[:, k], k], one[known[:, k], k]) for k in range(2)
                ])
                for one in found.astype(np.float64)
            ]  # fmt: skip
        else:
            found = predictions.logits().values
            known = truth != 255
            values = [
                np.mean([
                    average_precision_score(truth[known[:, k], k], one[known[:, k], k])
                    for k in range(3)
                ])
                for one in found
            ]  # fmt: skip
        assert result.score.values == pytest.approx(values, abs=1e-9)
        assert found.shape == (max(1, len(result.seeds)), 90, len(NAMES[store.task]))
    patches = store["test"].patches(np.arange(90)).float()
    tokens = Tokens(patches, store["test"].prefix.float(), store.grid, store.has_class)
    for result in results[1:]:
        outputs = result.probes[0].eval()(tokens).detach().numpy()
        kept = result.predictions()
        kept = kept.predicted if kept.predicted is not None else kept.logits().values
        np.testing.assert_allclose(outputs, kept[0], rtol=2e-3, atol=2e-3 * np.abs(kept).max())


def test_thresholds_are_tuned_on_held_out_examples(tmp_path):
    store = extract_in_memory(make_backbone(), dataset("multilabel"), tokens="float32")
    results = iceprobe.fit(store, PROBES, output=tmp_path / "run", **QUICK)
    truth = store["test"].targets
    for result in read_results(tmp_path / "run"):
        found = result.predictions()
        thresholds = found.tuned["thresholds"]
        assert thresholds.shape == (len(found.logits().values), 3)
        assert (
            thresholds == thresholds[0]
        ).all()  # one for all seeds, of held-out training examples
        assert ((thresholds > 0) & (thresholds < 1)).all()
        values = []
        for logits, at in zip(found.logits().values.astype(np.float64), thresholds, strict=True):
            called = 1 / (1 + np.exp(-logits)) >= at
            known = truth != 255
            values.append(
                np.mean([f1_score(truth[known[:, k], k], called[known[:, k], k]) for k in range(3)])
            )
        assert result.metrics["f1_macro_best"].values == pytest.approx(values, abs=1e-9)
    assert any((r.predictions().tuned["thresholds"] != 0.5).any() for r in results)


def test_attending_finds_what_averaging_drowns(store, tmp_path):
    settings = dict(seeds=1, epochs=60, batch_size=32, learning_rates=[1e-2, 3e-2])
    mean, ep = iceprobe.fit(store, ["linear?input=mean", "ep4"], output=tmp_path / "r", **settings)
    assert ep.score.mean > 0.85
    assert ep.score.mean > mean.score.mean


def test_neighbours_give_the_weighted_mean_of_what_is_known():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(40, 5)), rng.normal(size=(7, 5))
    similarity = 1 - cdist(queries, bank, "cosine")
    order = np.argsort(-similarity, 1)[:, :6]
    nearest = np.take_along_axis(similarity, order, 1)
    weights = np.exp(nearest / 0.1)
    tags = get_task("multilabel").targets(tags_of(np.arange(40) % 3), "train")
    numbers = get_task("regression").targets(numbers_of(np.arange(40) % 3), "train")
    for name, targets in (("multilabel", tags), ("regression", numbers)):
        of_neighbours = targets[order]
        known = of_neighbours != 255 if name == "multilabel" else ~np.isnan(of_neighbours)
        each = weights[..., None] * known
        mean = np.nansum(each * np.where(known, of_neighbours, 0), 1) / each.sum(1)
        record = voted(
            get_task(name), torch.from_numpy(nearest), torch.from_numpy(of_neighbours),
            targets.shape[1], torch.from_numpy(targets[:7]), Vote(6, 0.1),
        )  # fmt: skip
        (found,) = record.values()
        found = found[0].double().numpy()
        if name == "multilabel":
            found, mean = 1 / (1 + np.exp(-found)), mean.clip(1.2e-7, 1 - 1.2e-7)
        np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_probabilities_of_rare_tags_are_as_frequent_as_the_tags(tmp_path):
    """From even odds a bias doesn't reach those of a rare tag in a few hundred steps of AdamW."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 6, 16)).astype(np.float32)
    y = (x[:, :, :3].max(1) > 2.4).astype(np.float64)
    assert (y.mean(0) < 0.1).all()
    store = iceprobe.from_tokens({"train": (x[:600], y[:600]), "test": (x[600:], y[600:])})
    (result,) = iceprobe.fit(store, ["ep4"], seeds=1, output=tmp_path / "run")
    p = 1 / (1 + np.exp(-result.predictions().logits().values.astype(np.float64)))
    assert p.mean((0, 1)) == pytest.approx(y[600:].mean(0), abs=0.04)


def test_a_killed_fit_goes_on_to_the_same_numbers(store, tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    settings = dict(QUICK, class_weight="balanced" if store.task == "multilabel" else "none")
    whole = iceprobe.fit(store, ["ep4", "mean_value"], output=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        iceprobe.fit(
            store, ["ep4", "mean_value"], output=tmp_path / "r", progress=kill_after(25), **settings
        )
    resumed = iceprobe.fit(store, ["ep4", "mean_value"], output=tmp_path / "r", **settings)
    assert_same_run(whole, resumed, tmp_path)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_folds_test_every_example_once_and_cut_no_group(task, tmp_path):
    made = dataset(task, group=True, splits=[("train", 240, 0)])
    store = extract_in_memory(make_backbone(), made, tokens="float32")
    results = iceprobe.fit(
        store, ["knn", "linear?input=mean", "ep2"], folds=3, replicates=2, epochs=2,
        batch_size=32, learning_rates=[3e-2], output=tmp_path / "run",
    )  # fmt: skip
    targets = get_task(task).targets(TARGETS[task](np.arange(240) % 3), "train")
    for result in results:
        predictions = result.predictions()
        np.testing.assert_array_equal(predictions.labels, targets)
        assert (result.protocol, result.split, len(result.folds.values)) == ("folds", "folds", 3)
        assert result.test_images == result.train_images == 240
        np.testing.assert_array_equal(predictions.groups, np.arange(240) // 4)
        # A fold's thresholds have seen the examples of the others.
        assert predictions.tuned == {}
        assert not [name for name in result.metrics if name.endswith("_best")]
        if task == "multilabel":
            p = expit(predictions.logits().values.astype(np.float64))
            known = targets != 255
            each = [
                np.mean(
                    [f1_score(targets[on, k], one[on, k] >= 0.5) for k, on in enumerate(known.T)]
                )
                for one in p
            ]
            assert result.metrics["f1_macro"].values == pytest.approx(each, abs=1e-9)
            with pytest.raises(
                IceprobeError, match="out-of-fold predictions: fit with --protocol held"
            ):
                led_by(result, "f1_macro_best")
    assert content_of(read_results(tmp_path / "run")) == content_of(results)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_a_live_fit_without_augmentation_equals_a_cached_one(task, tmp_path, monkeypatch):
    trained = replace(PROTOCOLS["heldout"], solves_linear=False)
    monkeypatch.setitem(PROTOCOLS, "heldout", trained)
    stores = (
        extract_in_memory(make_backbone(), dataset(task), batch_size=16, tokens="float32"),
        iceprobe.live(make_backbone(), dataset(task), augmentation=None, batch_size=7),
    )
    probes = ["knn", "linear?input=mean", "ep2"]
    cached, live = (
        iceprobe.fit(store, probes, output=tmp_path / str(number), **QUICK)
        for number, store in enumerate(stores)
    )
    for one, other in zip(cached, live, strict=True):
        assert one.selected == other.selected
        assert other.score.values == pytest.approx(one.score.values, abs=2e-3)
        for ours, theirs in zip(one.probes or [], other.probes or [], strict=True):
            for name, tensor in ours.state_dict().items():
                found = theirs.state_dict()[name]
                torch.testing.assert_close(found, tensor, rtol=1e-3, atol=1e-3 * tensor.abs().max())
    assert {one.training_images for one in live[1:]} == {
        "live, evaluation view, without augmentation"
    }


def test_beaten_settings_stop_and_the_rest_is_as_without(store, tmp_path):
    slow = dict(seeds=2, epochs=8, batch_size=32, learning_rates=[1e-6, 3e-6, 1e-2, 3e-2])
    probes = ["mean_value", "ep4"]
    whole = iceprobe.fit(store, probes, output=tmp_path / "whole", **slow)
    halved = iceprobe.fit(store, probes, output=tmp_path / "run", halving=True, **slow)
    for one, other in zip(whole, halved, strict=True):
        assert max(other.score.values) == pytest.approx(max(one.score.values), abs=0.05)
        stopped = {early.learning_rate for early in other.early_stopping.stopped}
        assert {1e-6, 3e-6} <= stopped
        assert other.selected["learning_rate"] in {1e-2, 3e-2}


def test_few_examples_are_a_fraction_of_every_stratum_or_so_many_with_each_tag(store, tmp_path):
    probes, settings = ["knn", "linear?input=mean", "ep2"], dict(QUICK, replicates=2)
    for result in iceprobe.fit(store, probes, fraction=0.2, output=tmp_path / "a", **settings):
        assert (result.fraction, result.shots, result.variance) == (0.2, None, "replicates")
        assert len(result.score.values) == 2
        if store.task == "regression":
            assert result.train_images == 48
        else:  # and an example of each tag, if none was among them
            assert 48 <= result.train_images <= 51
    if store.task == "multilabel":  # whoever has tag a has b as well
        with pytest.raises(
            IceprobeError, match=r"without tag 'b': that was drawn: draw more, by --shots"
        ):
            iceprobe.fit(store, probes, shots=3, output=tmp_path / "b", **settings)
        x = np.random.default_rng(0).normal(size=(300, 8))
        pairs = {"train": (x[:200], x[:200, :3] > 0.5), "test": (x[200:], x[200:, :3] > 0.5)}
        of = iceprobe.from_tokens(pairs)
        (few, more) = (
            iceprobe.fit(of, ["linear"], shots=shots, output=tmp_path / f"{shots}", **settings)[0]
            for shots in (4, 40)
        )
        assert 4 <= few.train_images <= 12
        assert 40 <= more.train_images <= 120
        assert more.score.mean > few.score.mean


@pytest.mark.parametrize("metric", ["auroc", "log_loss", "f1_macro"])
def test_any_metric_selects_and_leads(metric, tmp_path):
    images = {"train": planted_images("train", 240, 0), "test": planted_images("test", 90, 1)}
    made = Dataset("test:planted", "planted", ["a", "b", "c"], images)
    store = extract_in_memory(make_backbone(), made, tokens="float32")
    results = iceprobe.fit(
        store, ["knn", "linear?input=mean", "ep4"], metric=metric, output=tmp_path / "run", **QUICK
    )
    truth = store["test"].labels
    expected = {
        "auroc": lambda p, _: roc_auc_score(truth, p, multi_class="ovr"),
        "log_loss": lambda p, _: log_loss(truth, p),
        "f1_macro": lambda _, called: f1_score(truth, called, average="macro"),
    }[metric]
    for result in results:
        assert result.primary == metric
        assert result.selected_score is not None
        found = result.predictions()
        logits = found.logits().values.astype(np.float64)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        values = [expected(one, called) for one, called in zip(p, found.predicted, strict=True)]
        assert result.score.values == pytest.approx(values, abs=1e-9)


def content_of(results):
    return [one.model_dump(exclude={"files"}) for one in results]


def test_what_cannot_be_fitted_is_one_line(store, tmp_path):
    other = {"multilabel": "regression", "regression": "multilabel"}[store.task]
    wrong = [
        (dict(task=other), f"task='{other}': the targets of"),
        (dict(metric="top1"), "metric"),
        (dict(metric="mapp" if store.task == "multilabel" else "r"), "map|r2"),
        (dict(groups="patient"), "groups='patient'"),
        (
            dict(metric="f1_macro_best") if store.task == "multilabel" else dict(metric="top1"),
            "can't select a setting|unknown metric",
        ),
        (dict(folds=500), "folds=500: there are 240 examples, take --folds 240"),
        (dict(folds=3, protocol="paper"), "folds=3 with protocol 'paper'"),
    ]
    if store.task == "regression":
        wrong += [
            (dict(class_weight="balanced"), "no classes to weigh"),
            (dict(shots=2), "no classes to draw of each, take --fraction"),
        ]
    else:
        wrong += [(dict(shots=1000), "tag '.' has only .* training images")]
    for settings, said in wrong:
        with pytest.raises(IceprobeError, match=said) as error:
            iceprobe.fit(store, ["ep4"], output=tmp_path / "run", **settings)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "request.json").exists()
