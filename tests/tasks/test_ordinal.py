"""A task from outside: ordered classes, by cumulative links. This file alone knows of it."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.core.registry import Entry
from iceprobe.exporting.table import Table
from iceprobe.fitting.checks import check_device
from iceprobe.fitting.repetition import Request, check, repetition
from iceprobe.protocols.protocol import get_protocol
from iceprobe.results.curves import seed_means
from iceprobe.tasks import TASKS, Metric, Task, get_task
from tests.fitting.test_api import planted_dataset
from tests.store.conftest import make_backbone


class Ordinal(Task):
    """P(y > k) = σ(z_k), K = C − 1; better is a smaller distance between classes."""

    name: ClassVar[str] = "ordinal"
    summary: ClassVar[str] = "one of ordered classes an example"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "distance": Metric(
            "distance",
            "mean distance",
            lambda record, targets: np.abs(record.predicted - targets).astype(np.float64),
            higher_is_better=False,
            range=(0.0, None),
            percent=False,
        ),
        "exact": Metric(
            "exact", "exactly right", lambda record, targets: record.predicted == targets
        ),
    }
    primary: ClassVar[str] = "distance"

    def num_outputs(self, names):
        return len(names) - 1

    def loss(self, logits, targets):
        above = (targets[:, None] > torch.arange(logits.shape[-1])).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(
            logits, above.expand_as(logits), reduction="none"
        )
        return losses.sum(-1).mean(-1)

    def record(self, logits, targets, keep="everything"):
        return {"predicted": (logits > 0).sum(-1).to("cpu", torch.int32)}

    def strata(self, targets):
        return targets

    def readings(self, logits, names, most):
        return [[(names[int((row > 0).sum())], 1.0)] for row in logits]


@pytest.fixture
def ordinal():
    TASKS.register("ordinal", Entry(Ordinal, Ordinal.summary))
    yield get_task("ordinal")
    del TASKS._entries["ordinal"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return iceprobe.extract(make_backbone(), planted_dataset(), root, batch_size=16)


def request(protocol: str, learning_rates: tuple[float, ...] = (1e-5, 3e-2)) -> Request:
    return Request(
        ["ep4", "linear"],
        replace(
            get_protocol(protocol, epochs=4, batch_size=32, learning_rates=learning_rates),
            folds_below=0,
            optimizer="adamw",
        ),
        split="test",
        memory=None,
        shuffle="auto",
        device=check_device("cpu"),
        fit_dtype="float32",
        low_shot=False,
        resume=True,
        command="",
        task="ordinal",
    )


@pytest.mark.parametrize("protocol", ["heldout", "paper"])
def test_a_task_from_outside_is_fitted_by_its_own_loss_and_selected_by_its_metric(
    ordinal, store, tmp_path, protocol
):
    asked = request(protocol)
    check(store, asked, [0, 1], 0)
    results, rows, lost = repetition(store, asked, [0, 1], 0, tmp_path / "state", lambda *_: None)
    assert [result.probe for result in results] == ["ep4", "linear"]
    assert not any(lost.values())
    for result in results:
        assert all(
            probe.classifier.out_features == len(store.classes) - 1 for probe in result.probes
        )
        found = result.predictions()
        assert found.predicted.shape == (2, len(store["test"]))
        distance = np.abs(found.predicted - found.labels).mean()
        assert result.metrics["distance"].mean == pytest.approx(distance)
        assert result.primary == "distance"
        chance = np.abs(np.arange(len(store.classes))[:, None] - found.labels).mean(1).min()
        assert distance < chance
        stage = "paper" if protocol == "paper" else "select"
        of_probe = [r for r in rows if r.probe == result.probe and r.phase == stage]
        ends = {point: means[max(means)] for point, means in seed_means(of_probe).items()}
        best = min(ends, key=ends.__getitem__)  # less is better
        assert result.selected["learning_rate"] == best[0] == max(ends)[0]


def test_its_predictions_have_a_table(ordinal):
    of_images = SimpleNamespace(kind="image")
    model = SimpleNamespace(
        task=ordinal, classes=["low", "middle", "high"], units=[], preprocessing=of_images
    )
    table = Table(model, top=1)
    table.add(["a.png", "b.png"], torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    assert table.heading == ["file", "output", "probability"]
    assert table.rows == [["a.png", "middle", "1"], ["b.png", "high", "1"]]


def test_what_diverged_is_no_best_where_less_is_better(ordinal, store, tmp_path):
    """A distance that nobody measured isn't 0."""
    asked = request("paper", learning_rates=(1e-5, 1e30))
    (result, *_), _, lost = repetition(store, asked, [0, 1], 0, tmp_path / "s", lambda *_: None)
    assert {one.learning_rate for one in lost["ep4"]} == {1e30}
    assert result.selected["learning_rate"] == 1e-5
    assert result.score.mean > 0
    assert result.best_minus_median == 0


@pytest.mark.parametrize(
    ("task", "said"),
    [("clasification", "classification"), ("segmentation", "segment"), ("ordinal", "knn doesn't")],
)
def test_a_task_that_cannot_be_fitted_is_refused_before_anything_is_written(
    ordinal, store, tmp_path, task, said
):
    with pytest.raises(IceprobeError, match=said):
        iceprobe.fit(store, ["knn", "ep4"], task=task, output=tmp_path / "run")
    assert not (tmp_path / "run" / "request.json").exists()
