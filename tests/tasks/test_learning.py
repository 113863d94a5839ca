"""What a task takes from training targets, and what a record must keep, by hand."""

import numpy as np
import pytest
import torch

from iceprobe.tasks import get_task, selecting
from iceprobe.tasks.selecting import kept_for

NAN = np.nan


def test_numbers_are_standardised_by_their_known_values():
    targets = np.array([[1.0, 5, NAN], [3, NAN, NAN], [8, 5, NAN]])
    mean, deviation = get_task("regression").learning(targets).scaling
    assert mean.tolist() == [4, 5, 0]  # the last is in no example of this part
    np.testing.assert_allclose(deviation, [np.std([1, 3, 8]), 1, 1])


@pytest.mark.parametrize(
    ("task", "metric", "keep"),
    [
        ("classification", "top1", "scores"),
        ("classification", "auroc", "everything"),
        ("multilabel", "map", "scores"),
        ("regression", "r2", "scores"),
    ],
)
def test_a_record_keeps_what_the_metric_that_selects_reads(task, metric, keep, monkeypatch):
    task, rng = get_task(task), np.random.default_rng(0)
    targets = {
        "classification": np.arange(6000) % 4,
        "multilabel": (rng.random((6000, 4)) < 0.2).astype(np.uint8),
        "regression": rng.normal(size=(6000, 4)),
    }[task.name]
    drawn = []
    real = torch.randn
    monkeypatch.setattr(selecting, "CELLS", 8000)
    monkeypatch.setattr(
        torch, "randn", lambda *size, **more: drawn.append(size) or real(*size, **more)
    )
    assert kept_for(task, task.metric(metric), 4, targets) == keep
    assert drawn == [(1, 2000, 4)]
