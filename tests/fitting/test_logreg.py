"""`logreg` and `ridge`, from stored tokens to an ordinary module, against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

import iceprobe
from iceprobe.adaptation.registry import pairs
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.linear import fit_linear
from iceprobe.fitting.losses import SoftmaxLoss, solver_loss
from iceprobe.fitting.penalties import (
    CLIP,
    DECAYS,
    DINOV2,
    Penalty,
    check_solved,
    is_solved,
    penalty_of,
)
from iceprobe.probes import parse_probe, probe_label
from iceprobe.protocols.heldout import Fold, Folds
from iceprobe.protocols.protocol import get_protocol
from iceprobe.results import read_curves, read_results
from iceprobe.store import live
from iceprobe.tasks import Task, get_task
from iceprobe.tokens import Tokens, TokenShape
from tests.fitting.conftest import DIM, GRID, planted
from tests.fitting.test_api import content, planted_dataset
from tests.store.conftest import make_backbone

HELDOUT = get_protocol("heldout")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return iceprobe.extract(make_backbone(), planted_dataset(), root, batch_size=16)


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    labels = ["logreg?C=1&input=mean", "logreg?input=mean", "logreg?grid=clip"]
    return iceprobe.fit(store, labels, output=folder, seeds=1), folder


def means(store, split: str) -> np.ndarray:
    return store[split].mean.double().numpy()


def test_at_one_C_it_predicts_as_scikit_learn(store, fitted):
    result, labels = fitted[0][0], store["train"].labels
    scaler = StandardScaler().fit(means(store, "train"))
    reference = LogisticRegression(C=1, tol=1e-10, solver="newton-cholesky")
    reference.fit(scaler.transform(means(store, "train")), labels)
    test = scaler.transform(means(store, "test"))
    tokens = Tokens(
        store["test"].mean[:, None], store["test"].prefix.float(), (1, 1), store.has_class
    )
    found = result.probes[0](tokens).detach().numpy()
    expected = reference.decision_function(test)
    found, expected = (x - x.mean(1, keepdims=True) for x in (found, expected))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (result.predictions().predicted[0] == reference.predict(test)).all()
    assert isinstance(result.probes[0].norm, torch.nn.Identity)


def test_what_a_result_says_of_it(store, fitted):
    results, folder = fitted
    assert content(read_results(folder)) == content(results)
    one, searched, halved = results
    n = len(store["train"])
    assert one.selected["C"] == 1
    assert one.selected_on == "nothing: C=1 is given"
    assert one.selected_score is None
    for result in results:
        assert list(result.selected) == ["C", "weight_decay", "iterations"]
        assert result.selected["weight_decay"] == pytest.approx(1 / (result.selected["C"] * n))
        assert result.training["optimizer"] == "lbfgs"
        assert result.selected["C"] in result.training["C"]
    assert searched.training["C"] == pytest.approx(list(DINOV2))
    assert searched.selected_on == "5-fold cross-validation of train"
    assert searched.settings_tried == 45
    assert 12 <= len(halved.training["C"]) <= 15  # of 97
    rows = [row for row in read_curves(folder) if row.probe == searched.probe]
    assert sum(row.phase == "select" for row in rows) == 5 * 45
    assert len({row.weight_decay for row in rows}) == 45  # a C has one name on all folds


def test_paper_selects_on_the_reported_split_and_says_so(store, tmp_path):
    (result,) = iceprobe.fit(
        store, ["logreg?grid=clip&input=mean"], output=tmp_path / "run", protocol="paper", seeds=2
    )
    assert result.selected_on == "the reported split (best C)"
    assert result.selected_score is None
    assert result.seeds == [0]
    labels, scores = store["train"].labels, {}
    scaler = StandardScaler().fit(means(store, "train"))
    for C in result.training["C"]:
        model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000, solver="newton-cholesky")
        model.fit(scaler.transform(means(store, "train")), labels)
        scores[C] = model.score(scaler.transform(means(store, "test")), store["test"].labels)
    assert scores[result.selected["C"]] >= max(scores.values()) - 0.012  # an image
    assert result.top1.mean == pytest.approx(scores[result.selected["C"]], abs=0.012)


def test_paper_beside_trained_probes_and_raw_coordinates(store, tmp_path):
    both = iceprobe.fit(
        store, ["linear", "logreg?C=1"], output=tmp_path / "a", protocol="paper", epochs=2, seeds=1
    )
    assert [one.training["optimizer"] for one in both] == ["lars", "lbfgs"]
    assert both[1].selected_on == "nothing: C=1 is given"
    (raw,) = iceprobe.fit(store, ["logreg?C=1"], output=tmp_path / "b", coordinates="raw", seeds=1)
    assert raw.top1.mean == both[1].top1.mean


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logreg?C=0", "write a number above 0"),
        ("logreg?C=x", "option C='x'"),
        ("logreg?grid=moco", "write dinov2 or clip"),
        ("logreg?batch_norm=true", "unknown option of 'logreg' 'batch_norm'"),
        ("logreg8", "takes no number"),
        ("ridge?alpha=-1", "write a number above 0"),
        ("ridge?C=1", "unknown option of 'ridge' 'C'"),
    ],
)
def test_wrong_options(text, message):
    with pytest.raises(IceprobeError, match=message) as caught:
        parse_probe(text)
    assert "\n" not in str(caught.value)


def test_labels_are_canonical():
    assert probe_label("logreg?C=1.0&grid=dinov2") == "logreg?C=1"
    assert probe_label("ridge?alpha=1e-1&input=mean") == "ridge?alpha=0.1&input=mean"


def test_where_they_cannot_be_is_told_in_one_line(store, tmp_path):
    refused = [
        (store, "ridge", "is for task=regression and this is task=classification: take logreg or"),
        (store, "logreg?C=1&grid=clip", "has a value of C and a grid"),
        (live(make_backbone(), planted_dataset()), "logreg", "extract them first"),
    ]
    for tokens, label, message in refused:
        with pytest.raises(IceprobeError, match=message) as caught:
            iceprobe.fit(tokens, [label], output=tmp_path / "run", seeds=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(IceprobeError, match="take ridge or linear"):
        check_solved("logreg", "regression", live=False)
    with pytest.raises(IceprobeError, match="adapt trains its probes: take linear"):
        pairs(["lora"], ["logreg"])
    assert not (tmp_path / "run").exists()


def test_when_a_probe_is_solved():
    paper = get_protocol("paper")
    assert is_solved("linear", HELDOUT, "logistic", live=False)
    assert not is_solved("linear", HELDOUT, "logistic", live=True)
    assert not is_solved("linear", HELDOUT, None, live=False)
    assert not is_solved("linear", paper, "softmax", live=False)
    assert is_solved("logreg", paper, "softmax", live=False)
    assert not is_solved("ep4", HELDOUT, "softmax", live=False)


def test_values_that_are_tried():
    assert penalty_of("linear", HELDOUT, 100).values == DECAYS
    assert penalty_of("logreg?C=2", HELDOUT, 100).decay(2) == 1 / 200
    assert penalty_of("ridge?alpha=5", HELDOUT, 100).decay(5) == 5 / 100
    assert penalty_of("logreg", get_protocol("heldout", weight_decays=[1.0]), 9).values == DINOV2
    assert (DINOV2[0], DINOV2[-1], len(DINOV2)) == pytest.approx((1e-6, 1e5, 45))
    penalty = penalty_of("logreg?grid=clip", HELDOUT, 100)
    tried, best = list(CLIP), 1e2
    for target in (1e1, 10**0.5, 10**0.75, 10**0.875):  # the optimum lies near 10^0.87
        tried += (following := penalty.following(tried, best, alone=True))
        best = min(tried, key=lambda C: abs(np.log10(C) - 0.87))
        assert len(following) == 2
        assert best == pytest.approx(min(target, best, key=lambda C: abs(np.log10(C) - 0.87)))
    assert penalty.following(tried, best, alone=True) == []
    assert best == pytest.approx(10**0.875)
    # At the end of the range only one side is left.
    assert penalty.following(CLIP, 1e6, alone=True) == pytest.approx([1e5])


def test_of_two_classes_C_is_scikit_learns():
    labels = np.arange(40) % 2
    stretch = Penalty("C", (1.0,), 80).stretch(SoftmaxLoss(labels, 2), 40)
    assert stretch == 4  # half of the rows, and the penalty of w₁ − w₀
    assert Penalty("C", (1.0,), 40).stretch(SoftmaxLoss(labels, 3), 40) == 1


def solved(label: str, task: Task, targets: np.ndarray, **context):
    """A probe on the planted means; its output and the standardised features, of the training rows."""
    split = planted(150, seed=0)
    split.labels = targets
    rows = np.arange(150)
    held_out = rows % 5 == 0
    feeds = [Feed(split, mine, {"mean"}, torch.device("cpu"), torch.float32)
             for mine in (rows, rows[~held_out], rows[held_out])]  # fmt: skip
    shape = TokenShape(DIM, GRID[0] * GRID[1], 1, GRID, has_class=False)
    cpu, quiet = torch.device("cpu"), lambda *_: None
    made = FitContext(
        HELDOUT, shape, targets.shape[1], 0, cpu, torch.float32, Checkpoint(None, ""), quiet, task,
        **context,
    )  # fmt: skip
    folds = Folds([Fold(rows[~held_out], rows[held_out])], "a fifth")
    found = fit_linear(label, made, 0, feeds[0], folds, [(feeds[1], feeds[2])])
    features = split.mean.double().numpy()
    output = found.group.probe(0)(split.mean).detach().numpy()
    return found, output, StandardScaler().fit_transform(features)


def planted_numbers() -> np.ndarray:
    mean = planted(150, seed=0).mean.double().numpy()
    rng = np.random.default_rng(2)
    targets = 1000 + 40 * (mean @ rng.normal(size=(DIM, 3)) + 0.3 * rng.normal(size=(150, 3)))
    targets[rng.random(150) < 0.3, 2] = np.nan
    return targets


def test_ridge_is_scikit_learns_in_the_targets_unit():
    targets = planted_numbers()
    found, output, scaled = solved("ridge?alpha=3&input=mean", get_task("regression"), targets)
    assert found.choice is None
    for k in range(3):
        known = ~np.isnan(targets[:, k])
        reference = Ridge(alpha=3).fit(scaled[known], targets[known, k])
        np.testing.assert_allclose(output[:, k], reference.predict(scaled), rtol=1e-5)


@pytest.mark.parametrize("label", ["ridge?input=mean", "linear?input=mean"])
def test_its_strength_is_chosen_on_held_out_rows(label):
    targets = planted_numbers()
    found, output, _ = solved(label, get_task("regression"), targets)
    assert found.solution.method == "closed form"
    rows = [row for row in found.rows if row.phase == "select"]
    best = max(rows, key=lambda row: row.eval_accuracy)
    assert found.choice.weight_decay == best.weight_decay
    assert len(rows) == len(found.values)
    key = "weight_decay" if label.startswith("linear") else "alpha"
    assert found.penalty.key == key
    error = np.nanmean((output - targets) ** 2, 0) / np.nanvar(targets, 0)
    assert found.solution.loss < 0.3
    assert error.mean() == pytest.approx(found.solution.loss, rel=0.1)


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_tags_of_logreg_are_scikit_learns(class_weight):
    rng = np.random.default_rng(3)
    mean = planted(150, seed=0).mean.double().numpy()
    scores = StandardScaler().fit_transform(mean) @ rng.normal(size=(DIM, 3))
    targets = (scores + rng.logistic(size=(150, 3)) > [0, 1, 3]).astype(np.uint8)
    targets[rng.random((150, 3)) < 0.2] = 255
    found, output, scaled = solved(
        "logreg?C=0.1&input=mean", get_task("multilabel"), targets, class_weight=class_weight
    )
    assert found.solution.converged
    for k in range(3):
        known = targets[:, k] != 255
        y = targets[known, k]
        weights = (
            {0: 1.0, 1: (y == 0).sum() / (y == 1).sum()} if class_weight == "balanced" else None
        )
        reference = LogisticRegression(C=0.1, class_weight=weights, tol=1e-10)
        reference.fit(scaled[known], y)
        np.testing.assert_allclose(output[:, k], reference.decision_function(scaled), atol=1e-3)


def test_a_loss_is_made_for_each_task_that_is_solved():
    assert solver_loss("squares", np.zeros((4, 2)), 2).outputs == 2
    with pytest.raises(KeyError):
        solver_loss("ordinal", np.zeros(4), 1)
