"""`iceprobe.probe` on a model that is being trained: every task, in memory, and nothing changes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import iceprobe
from iceprobe.datasets.base import ArraySplit, Column, Dataset

HOW = {"image_size": 16, "mean": (0.5,), "std": (0.25,), "num_prefix": 0}
PROBES = ["knn", "linear?input=mean", "ep2"]
QUICK = dict(epochs=6, batch_size=32, learning_rates=[1e-2])
NAMES = {
    "classification": ["dark", "light"],
    "multilabel": ["light", "left"],
    "regression": ["light", "left"],
}


class Growing(nn.Module):
    """Patches of 4 pixels, with dropout: the state of a model in training."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.drop = nn.Conv2d(1, 12, 4, stride=4), nn.Dropout(0.5)
        nn.init.constant_(self.patch.weight[:1], 1 / 16)
        nn.init.zeros_(self.patch.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.drop(self.patch(images))


def dataset(task: str) -> Dataset:
    """Of each image how light it is, and its left half: as a class, as tags, as numbers."""

    def split(name: str, n: int, seed: int) -> ArraySplit:
        rng = np.random.default_rng(seed)
        light, left = rng.integers(20, 236, n), rng.integers(-20, 20, n)
        images = np.clip(light[:, None, None] + rng.integers(-9, 9, (n, 16, 16)), 0, 255)
        images[:, :, :8] += left[:, None, None]
        numbers = np.stack([images.mean((1, 2)), images[:, :, :8].mean((1, 2))], 1)
        targets = {
            "classification": (light > 128).astype(int),
            "multilabel": np.stack([light > 128, left > 0], 1).astype(float),
            "regression": numbers * [1e-3, 10] + [0, 300],
        }[task]
        if task != "classification":
            targets[::5, 1] = np.nan
        columns = {"patient": Column(np.arange(n) // 3, [str(i) for i in range(100)])}
        names = [f"{name}/{i}" for i in range(n)]
        clipped = np.clip(images, 0, 255).astype(np.uint8)
        return ArraySplit(name, clipped, targets, names, task=task, columns=columns)

    splits = {"train": split("train", 160, 0), "test": split("test", 80, 1)}
    return Dataset(f"test:{task}", task, NAMES[task], splits, group="patient")


def score(task: str, predictions, labels) -> float:
    """The primary metric of the only seed, by its plain formula."""
    if task == "classification":
        return float((predictions.predicted[0] == labels).mean())
    found = []
    for k in range(labels.shape[1]):
        if task == "regression":
            known = ~np.isnan(labels[:, k])
            y, guess = labels[known, k], predictions.predicted[0][known, k]
            found.append(1 - ((y - guess) ** 2).sum() / ((y - y.mean()) ** 2).sum())
        else:
            known = labels[:, k] != 255
            y, z = labels[known, k], predictions.record.logits[0][known, k]
            precision = [(y[z >= at] == 1).mean() for at in z[y == 1]]
            found.append(np.mean(precision))
    return float(np.mean(found))


@pytest.mark.parametrize("task", NAMES)
def test_every_task_is_probed_in_memory_and_the_model_goes_on_as_before(
    task, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Growing().train()
    before, drawn = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    data = dataset(task)
    results = iceprobe.probe(model, data, PROBES, **QUICK, **HOW)
    assert model.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not list(tmp_path.iterdir())
    assert [one.probe for one in results] == PROBES
    labels = data.splits["test"].labels
    for one in results:
        predictions = one.predictions()
        assert one.task == task
        assert one.score.mean == pytest.approx(score(task, predictions, labels), abs=1e-6)
        assert predictions.groups.tolist() == [i // 3 for i in range(80)]
        assert list(predictions.names) == data.splits["test"].names
        assert one.score.mean > (0.6 if one.method == "trained" else 0.4)
    again = iceprobe.probe(model, data, PROBES, **QUICK, **HOW)
    assert [one.metrics for one in again] == [one.metrics for one in results]


def test_metric_and_class_weight_are_those_of_a_fit():
    torch.manual_seed(0)
    (one,) = iceprobe.probe(Growing(), dataset("regression"), ["ep2"], metric="mae", **QUICK, **HOW)
    assert one.primary == "mae"
    (one,) = iceprobe.probe(
        Growing(), dataset("multilabel"), ["ep2"], class_weight="balanced", **QUICK, **HOW
    )
    assert one.training["class_weight"] == "balanced"
