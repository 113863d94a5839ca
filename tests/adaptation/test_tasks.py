"""Tags and numbers: the loss by a plain formula, what is selected by, and what is kept."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import iceprobe
from iceprobe import IceprobeError
from iceprobe.adaptation import api, protocol, training
from iceprobe.adaptation.steps import MicroBatch, backward
from iceprobe.datasets.base import ArraySplit, Column, Dataset
from iceprobe.protocols.choosing import best_at_last_epoch
from iceprobe.results import read_curves, read_results
from iceprobe.results.curves import CurveRow
from iceprobe.store.layout import chosen_rows
from iceprobe.tasks.registry import get_task
from tests.fitting.test_api import planted_dataset

from .models import CLASSES, DIM, adapted, backbone, images, vit

QUICK = dict(seeds=2, epochs=2, batch_size=48, learning_rates=[3e-3])
NUMBERS = ["light", "corner"]


def dataset(task: str, **more) -> Dataset:
    """The planted images with their mean and a corner's as numbers, or thresholds of these as tags."""
    planted = planted_dataset()

    def split(name: str) -> ArraySplit:
        whole = planted.splits[name]
        found = np.stack([whole.images.mean((1, 2)), whole.images[:, :4, :4].mean((1, 2))], 1)
        targets = found * [1, 1e-3] + [500, 0]
        if task == "multilabel":
            targets = (found > np.median(found, 0)).astype(float)
        targets[::7, 1] = np.nan
        n = len(targets)
        columns = {
            "patient": Column(np.arange(n) // 4, [f"p{i}" for i in range(100)]),
            "site": Column(np.arange(n) % 2, ["here", "there"]),
        }
        return ArraySplit(name, whole.images, targets, whole.names, task=task, columns=columns)

    splits = {name: split(name) for name in ("train", "test")}
    return Dataset(f"test:{task}", task, NUMBERS, splits, **more)


def targets(task: str, count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    if task == "regression":
        found = 100 + 3 * torch.randn(count, CLASSES, generator=generator, dtype=torch.float64)
        found[2, 1] = torch.nan
        return found
    found = torch.randint(0, 2, (count, CLASSES), generator=generator).to(torch.uint8)
    found[0], found[1] = 1, 0  # each tag is there, and isn't
    found[2, 1] = 255
    return found


def plain_loss(task: str, outputs: torch.Tensor, given: torch.Tensor, balanced: bool):
    """Σ over known cells / their number, cell by cell."""
    terms = []
    for i in range(len(given)):
        for k in range(CLASSES):
            column = given[:, k]
            if task == "regression":
                if not given[i, k].isnan():
                    known = column[~column.isnan()]
                    mean, sd = known.mean(), known.std(correction=0)
                    terms.append((outputs[i, k] - (given[i, k] - mean) / sd) ** 2)
            elif given[i, k] != 255:
                having = (column == 1).sum()
                weight = (column == 0).sum() / having if balanced else 1.0
                p = outputs[i, k].sigmoid()
                terms.append(-weight * p.log() if given[i, k] == 1 else -(1 - p).log())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("size", [7, 3])
@pytest.mark.parametrize(
    ("task", "weight"), [("regression", "none"), ("multilabel", "none"), ("multilabel", "balanced")]
)
def test_a_step_has_the_gradient_of_the_tasks_loss(task, weight, size):
    of, given = backbone(), targets(task)
    of.reader.double()
    model = adapted("lora?rank=2", of, "ep4").train()
    outputs = model(images(7))
    if (task, weight) == ("multilabel", "none"):  # a probe begins at the odds of each tag
        having, lacking = ((given == value).sum(0) for value in (1, 0))
        outputs = outputs + ((having + 0.5) / (lacking + 0.5)).log().float()
    expected = plain_loss(task, outputs, given, weight == "balanced")
    expected.backward()
    wanted = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    again = adapted("lora?rank=2", of, "ep4").train()
    learning = get_task(task).learning(given.numpy(), weight)
    found = backward(again, images(7), given, MicroBatch(size), task=learning)
    assert found == pytest.approx(float(expected.detach()), rel=1e-6)  # weights of tags are float32
    for name, parameter in again.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-8, rtol=1e-5, msg=name)


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_predictions_are_those_of_the_saved_weights_in_the_targets_unit(task, tmp_path):
    data = dataset(task, group="patient", slices=["site"])
    frozen, full = iceprobe.adapt(
        backbone(), data, ["none", "full"], ["linear?input=mean"], output=tmp_path / "run", **QUICK
    )
    model, test = vit(), data.splits["test"]
    model.load_state_dict(
        load_file(tmp_path / "run" / full.files.adapters[1] / "backbone.safetensors"), strict=False
    )
    probe = iceprobe.probes.build("linear?input=mean", DIM, 2, has_class=True).eval()
    probe.load_state_dict(load_file(tmp_path / "run" / full.files.probes[1]))
    pixels = torch.stack([vit().preprocessing.transform(test.image(i)) for i in range(len(test))])
    with torch.no_grad():
        outputs = probe(model.forward_features(pixels)[:, 1:]).numpy()
    again = {one.label: one for one in read_results(tmp_path / "run")}
    for one in (frozen, full):
        kept = again[one.label].predictions()
        assert (one.task, one.primary) == (task, {"regression": "r2", "multilabel": "map"}[task])
        np.testing.assert_array_equal(kept.labels, test.labels)
        assert list(kept.names) == test.names
        assert kept.groups.tolist() == test.columns["patient"].codes.tolist()
        codes, values = kept.slices["site"]
        assert (codes.tolist(), list(values)) == ([i % 2 for i in range(90)], ["here", "there"])
    kept = again[full.label].predictions().record
    found = kept.predicted if task == "regression" else kept.logits
    spread = np.std(outputs, 0)
    np.testing.assert_allclose(found[1] / spread, outputs / spread, atol=2e-3)
    if task == "regression":
        assert abs(found[1][:, 0].mean() - 500 - 60) < 40  # near the mean light of the images
        known = ~np.isnan(test.labels[:, 1])
        mae = [np.abs(found[1][:, 0] - test.labels[:, 0]).mean()]
        mae.append(np.abs(found[1][:, 1] - test.labels[:, 1])[known].mean())
        assert full.metrics["mae"].values[1] == pytest.approx(np.mean(mae), rel=1e-5)


def test_a_metric_that_is_better_low_selects_and_groups_are_held_out_whole(tmp_path, monkeypatch):
    data = dataset("regression", group="patient")
    parts = []

    def train(model, task, setting, learn, held, *rest):
        parts.append((learn.index, None if held is None else held.index))
        return training.train(model, task, setting, learn, held, *rest)

    monkeypatch.setattr(protocol, "train", train)
    (result,) = iceprobe.adapt(
        backbone(), data, ["bitfit"], ["linear"], output=tmp_path / "run", seeds=1, epochs=2,
        batch_size=48, learning_rates=[1e-5, 1e-1], metric="mae",
    )  # fmt: skip
    last = {
        row.learning_rate: row.eval_accuracy
        for row in read_curves(tmp_path / "run")
        if row.phase == "select" and row.epoch == 2
    }
    assert result.primary == "mae"
    assert result.selected["learning_rate"] == min(last, key=last.get)
    assert last[1e-1] != last[1e-5]
    median = np.median(list(last.values()))
    assert result.best_minus_median == pytest.approx(median - min(last.values()), rel=1e-3)
    assert result.selected_on == protocol.SELECTED_ON_GROUPS
    (learn, held), _, (everything, _) = parts
    assert (len(learn) + len(held), len(everything), len(held)) == (240, 240, 24)
    assert not set(learn // 4) & set(held // 4)  # patients of four images


def test_the_loss_and_the_metrics_of_classes_are_as_they_were(tmp_path, monkeypatch):
    """Its folders and the files of its trainings have the keys of earlier versions."""
    assert api._later(planted_dataset(), iceprobe.Adaptation()) == {}
    seen = []
    monkeypatch.setattr(
        protocol,
        "kept_of",
        lambda setting, on: seen.append(setting.metric.name) or kept(setting, on),
    )
    from iceprobe.adaptation.training import kept_of as kept

    options = dict(QUICK, seeds=1, learning_rates=[1e-3, 3e-3])
    (result,) = iceprobe.adapt(
        backbone(), planted_dataset(), ["bitfit"], output=tmp_path / "run", metric="auroc",
        class_weight="balanced", **options,
    )  # fmt: skip
    assert seen[0] == result.primary == "auroc"  # which needs the logits of held-out images
    assert result.training["class_weight"] == "balanced"


def row(rate: float, score: float | None, loss: float = 1.0, seed: int = 0) -> CurveRow:
    return CurveRow(
        probe="p", seed=seed, learning_rate=rate, weight_decay=0.0, phase="select", epoch=1,
        train_loss=loss, eval_accuracy=score,
    )  # fmt: skip


def test_the_last_epochs_are_compared_with_the_sign_of_the_metric():
    rows = [row(1e-3, 3.0), row(1e-2, 1.5), row(1e-1, 2.5)]
    assert best_at_last_epoch(rows).learning_rate == 1e-3
    choice = best_at_last_epoch(rows, -1, None)
    assert (choice.learning_rate, choice.best_minus_median) == (1e-2, 1.0)
    lost = [row(1e-3, 3.0), row(1e-2, None, float("nan"))]
    assert best_at_last_epoch(lost, -1, None).learning_rate == 1e-3  # no score isn't the best


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("regression", dict(metric="top1"), "metric of regression"),
        ("regression", dict(class_weight="balanced"), "regression has no classes to weigh"),
        ("multilabel", dict(class_weight="some"), "class_weight"),
        ("multilabel", dict(metric="f1_macro_best"), "best thresholds can't be computed"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(task, options, said, tmp_path):
    with pytest.raises(IceprobeError, match=said):
        iceprobe.adapt(
            backbone(), dataset(task), ["bitfit"], output=tmp_path / "run", seeds=1, epochs=1,
            learning_rates=[1e-3, 1e-2], **options,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_limit_that_leaves_numbers_all_the_same_is_to_be_raised(tmp_path):
    data = dataset("regression")
    train = data.splits["train"]
    labels = train.labels.copy()
    labels[chosen_rows(len(labels), 12), 0] = 1e6 + np.arange(12) / 1e3
    rows = ArraySplit("train", train.images, labels, train.names, task="regression")
    data = dataclasses.replace(data, splits={"train": rows, "test": data.splits["test"]})
    said = (
        r"the training values of 'light' differ in their last digits only \(subtract their mean\): the limit took "
        rf"12 of {len(labels)} training images: raise it"
    )
    with pytest.raises(IceprobeError, match=said):
        iceprobe.adapt(
            backbone(), data, ["bitfit"], output=tmp_path / "run", limit=12, **QUICK
        )  # fmt: skip


def test_numbers_that_are_all_the_same_can_not_be_learnt(tmp_path):
    data = dataset("regression")
    train = data.splits["train"]
    train.labels[:30, 0] = 7.0
    rows = ArraySplit(
        "train", train.images[:30], train.labels[:30], train.names[:30], task="regression"
    )
    with pytest.raises(IceprobeError, match="the training values of 'light' are all the same"):
        iceprobe.adapt(
            backbone(), dataclasses.replace(data, splits={"train": rows, "test": data.splits["test"]}),
            ["bitfit"], output=tmp_path / "run", **QUICK,
        )  # fmt: skip


def test_tags_are_learnt(tmp_path):
    """The mean of an image is plain to see: after some epochs its tag is ranked nearly without error."""
    (result,) = iceprobe.adapt(
        backbone(), dataset("multilabel"), ["bitfit"], ["ep4"], output=tmp_path / "run", seeds=1,
        epochs=8, batch_size=24, learning_rates=[1e-2],
    )  # fmt: skip
    logits, labels = result.predictions().record.logits[0][:, 0], result.predictions().labels[:, 0]
    pairs = logits[labels == 1][:, None] > logits[labels == 0]
    assert pairs.mean() > 0.9
    loss = F.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(labels).float())
    assert float(loss) < 0.6
