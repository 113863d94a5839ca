"""Linear probes under `heldout`: at their optimum, as an ordinary module, for all seeds at once."""

import logging
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting import logistic, penalties
from iceprobe.fitting.fitted import load_fitted
from iceprobe.probes import build
from iceprobe.protocols.heldout import cross_validation
from iceprobe.results import read_curves, read_results
from iceprobe.results.predictions import StoredLogits
from iceprobe.store import live
from iceprobe.tokens import Tokens
from tests.fitting.test_api import content, planted_dataset
from tests.store.conftest import make_backbone

LABELS = ["linear?input=mean", "linear?batch_norm=false&input=mean", "linear"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return iceprobe.extract(make_backbone(), planted_dataset(), root, batch_size=16)


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return iceprobe.fit(store, LABELS, output=folder, seeds=2), folder


def means(store, split: str) -> np.ndarray:
    return store[split].mean.double().numpy()


def test_it_predicts_as_scikit_learn_at_the_same_decay(store, fitted):
    labels = store["train"].labels
    for result in fitted[0][:2]:
        scaler = StandardScaler().fit(means(store, "train"))
        C = 1 / (result.selected["weight_decay"] * len(labels))
        reference = LogisticRegression(C=C, tol=1e-8, max_iter=100_000)
        reference.fit(scaler.transform(means(store, "train")), labels)
        test = scaler.transform(means(store, "test"))
        expected = reference.decision_function(test)
        tokens = Tokens(
            store["test"].mean[:, None], store["test"].prefix.float(), (1, 1), store.has_class
        )
        found = result.probes[0](tokens).detach().numpy()
        found, expected = (x - x.mean(1, keepdims=True) for x in (found, expected))
        np.testing.assert_allclose(found, expected, atol=2e-3)
        predicted = result.predictions().predicted[0]
        assert (predicted == reference.predict(test)).mean() > 0.98


def test_the_decay_is_the_best_over_the_folds(store, fitted):
    result = fitted[0][0]
    labels, x = store["train"].labels, means(store, "train")
    folds = cross_validation(labels, 0, 5)
    right = dict.fromkeys(result.training["weight_decays"], 0)
    for decay in right:
        for fold in folds:
            scaler = StandardScaler().fit(x[fold.train])
            C = 1 / (decay * len(fold.train))
            model = LogisticRegression(C=C, tol=1e-6, max_iter=100_000)
            model.fit(scaler.transform(x[fold.train]), labels[fold.train])
            held = model.predict(scaler.transform(x[fold.held_out]))
            right[decay] += int((held == labels[fold.held_out]).sum())
    best = max(right.values())
    assert right[result.selected["weight_decay"]] >= best - 1  # an image at the border may tip
    rows = [row for row in read_curves(fitted[1]) if row.probe == result.probe]
    assert {row.fold for row in rows if row.phase == "select"} == {0, 1, 2, 3, 4}
    by_decay = {
        decay: sum(
            round(row.eval_accuracy * len(folds[row.fold].held_out))
            for row in rows
            if row.phase == "select" and row.weight_decay == decay
        )
        for decay in right
    }
    for decay, count in by_decay.items():
        assert abs(count - right[decay]) <= 2


def test_what_a_result_says_of_it(store, fitted):
    results, folder = fitted
    assert content(read_results(folder)) == content(results)
    for result in results:
        assert set(result.selected) == {"weight_decay", "iterations"}
        assert (result.seeds, result.variance, result.top1.sd) == ([0], "none", None)
        assert result.training["optimizer"] == "lbfgs"
        assert result.training["converged"]
        assert result.selected_on == "5-fold cross-validation of train"
        assert result.settings_tried == len(result.training["weight_decays"]) >= 7
        (file,) = result.files.probes
        module = build(result.probe, store.dim, 3, store.grid, store.has_class)
        module.load_state_dict(load_file(folder / file))  # an ordinary probe


def test_without_batch_norm_it_is_the_same_function(fitted):
    normed, plain = fitted[0][:2]
    assert plain.probes[0].norm is None or not isinstance(
        plain.probes[0].norm, torch.nn.BatchNorm1d
    )
    np.testing.assert_array_equal(normed.predictions().predicted, plain.predictions().predicted)


def test_it_runs_beside_the_others_and_is_the_same_alone(store, fitted, tmp_path):
    linear_alone = fitted[0][0]
    ep, beside = iceprobe.fit(
        store, ["ep4", "linear?input=mean"], output=tmp_path / "run", seeds=2, epochs=2
    )
    assert beside.selected == linear_alone.selected
    for name, tensor in beside.probes[0].state_dict().items():
        assert torch.equal(tensor, linear_alone.probes[0].state_dict()[name])
    assert ep.training["optimizer"] == "adamw"
    assert ep.seeds == [0, 1]


def test_tokens_that_change_and_paper_are_trained(store, tmp_path):
    (paper,) = iceprobe.fit(
        store, ["linear"], protocol="paper", output=tmp_path / "paper", epochs=2, seeds=2
    )
    assert (paper.training["optimizer"], paper.seeds) == ("lars", [0, 1])
    (made,) = iceprobe.fit(
        live(make_backbone(), planted_dataset()),
        ["linear"],
        output=tmp_path / "live",
        epochs=2,
        seeds=1,
    )
    assert made.training["optimizer"] == "adamw"
    assert "learning_rate" in made.selected


def test_a_users_decays_hold_and_do_not_grow(store, tmp_path):
    (result,) = iceprobe.fit(
        store, ["linear"], output=tmp_path / "run", weight_decays=[1e-3, 1.0], seeds=1
    )
    assert result.training["weight_decays"] == [1e-3, 1.0]


def test_decays_grow_while_the_best_lies_at_the_edge(store, tmp_path, monkeypatch):
    monkeypatch.setattr(penalties, "DECAYS", (30.0, 100.0))  # far too strong
    (result,) = iceprobe.fit(store, ["linear?input=mean"], output=tmp_path / "run", seeds=1)
    tried = result.training["weight_decays"]
    assert tried[-2:] == [30.0, 100.0]
    assert len(tried) > 2
    assert result.selected["weight_decay"] < 30


def test_replicates_draw_folds_anew(store, tmp_path):
    (result,) = iceprobe.fit(store, ["linear"], output=tmp_path / "run", replicates=2)
    assert (result.seeds, result.variance) == ([0, 1], "replicates")
    assert len(result.top1.values) == 2
    predictions = result.predictions()
    assert (predictions.logits().values.argmax(-1) == predictions.predicted).all()
    assert [path.name for path in result.run.glob("predictions*")] == ["predictions.safetensors"]
    stored = StoredLogits(result.run / "predictions.safetensors", "linear")
    assert predictions.outputs == [stored]  # in the file, not in memory


def test_a_folder_that_is_removed_between_replicates_is_not_made_again(store, tmp_path):
    def removed(stage, done, total):
        if stage == "knn 2/2":
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    fit = partial(iceprobe.fit, store, ["knn"], output=tmp_path / "run", replicates=2)
    with pytest.raises(IceprobeError, match="was removed while the fit was at work: run the same"):
        fit(progress=removed)
    assert not (tmp_path / "run").exists()
    assert len(fit()) == 1


def test_an_optimum_that_isn_t_reached_is_reported(store, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logistic, "MOST_ITERATIONS", 1)
    with caplog.at_level(logging.WARNING, "iceprobe"):
        (result,) = iceprobe.fit(store, ["linear"], output=tmp_path / "run", seeds=1)
    assert not result.training["converged"]
    assert "linear: L-BFGS stopped after 1 iterations before its optimum" in caplog.text


def test_every_seed_has_the_one_there_is(store, fitted):
    (result, *_) = read_results(fitted[1])
    one, other = (load_fitted(result, store.shape, seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
