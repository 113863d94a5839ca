"""Rankings and curves across results, on hand-made predictions."""

import numpy as np
import pytest

from iceprobe.results.predictions import Predictions
from iceprobe.results.sweeps import (
    by_layer,
    by_training_images,
    rankings,
    without_layer,
)
from iceprobe.results.varying import draw_of, told, varying
from tests.results.test_files import result as made

LABELS = np.zeros(400, np.int64)


def result(backbone: str, probe: str, right: int, **fields):
    """A result with ``right`` of 400 test images correct, the first ones."""
    predicted = np.where(np.arange(400) < right, 0, 1).astype(np.int32)[None]
    predictions = Predictions(LABELS, predicted)
    scores = {
        "top1": predictions.top1_score(),
        "mean_per_class": predictions.mean_per_class_score(),
    }
    one = made(probe, backbone=backbone, seeds=[0], images="same", **scores, **fields)
    return one.attach(predictions=predictions)


def test_ranks_and_what_is_not_clear():
    (ranking,) = rankings(
        [
            result("timm:a", "linear", 300),
            result("timm:a", "ep4", 310),
            result("timm:b", "linear", 200),
            result("timm:b", "ep4", 311),
            result("timm:c", "linear", 100),
            result("timm:c", "ep4", 50),
            result("timm:c", "aim4", 60),
        ]
    )
    assert ranking.backbones == ["timm:a", "timm:b", "timm:c"]
    assert ranking.paradigms == {"unknown": ["timm:a", "timm:b", "timm:c"]}
    assert ranking.probes == ["linear", "ep4"]  # aim4 was not run on all
    ranks = {key: (cell.rank, cell.tied) for key, cell in ranking.cells.items()}
    assert ranks["timm:a", "linear"] == (1, False)
    assert ranks["timm:b", "linear"] == (2, False)
    assert ranks["timm:b", "ep4"] == (1, False)
    assert ranks["timm:a", "ep4"] == (2, True)  # one image of 400
    assert ranks["timm:c", "ep4"] == (3, False)
    assert ranking.moved()


def test_backbones_are_grouped_by_how_they_were_trained():
    (ranking,) = rankings(
        [
            result("timm:a", "ep4", 300, paradigm="masked image modelling"),
            result("timm:b", "ep4", 200, paradigm="supervised"),
            result("timm:c", "ep4", 100, paradigm="masked image modelling"),
        ]
    )
    assert ranking.paradigms == {
        "masked image modelling": ["timm:a", "timm:c"],
        "supervised": ["timm:b"],
    }
    assert ranking.cells["timm:b", "ep4"].rank == 2


def test_layers_are_a_curve_and_no_ranking():
    results = [
        result(f"timm:a?layer={layer}&norm=false", "ep4", 100 + 50 * layer, layer=layer)
        for layer in (2, 0, 1)
    ]
    assert rankings(results) == []
    (sweep,) = by_layer(results)
    assert sweep.title.startswith("timm:a?norm=false · ")
    assert [(x, one.top1.mean) for x, one in sweep.lines["ep4"]] == [
        (0.0, 0.25),
        (1.0, 0.375),
        (2.0, 0.5),
    ]
    assert by_layer(results[:1]) == []


def test_draws_are_a_curve_over_training_images():
    results = [
        result("timm:a", "ep4", 200, shots=5, train_images=50),
        result("timm:a", "ep4", 100, shots=1, train_images=10),
        result("timm:a", "ep4", 300, train_images=5000),
    ]
    (sweep,) = by_training_images(results)
    assert [x for x, _ in sweep.lines["ep4"]] == [10.0, 50.0, 5000.0]
    assert varying(results) == ["draw"]
    assert [told(one, "draw") for one in results] == ["5 shots", "1 shot", "all of train"]
    assert draw_of(result("timm:a", "ep4", 1, fraction=0.015)) == "1.5% of train"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("timm:a?layer=-2", "timm:a"), ("timm:a?layer=1&norm=false", "timm:a?norm=false")],
)
def test_a_backbone_without_its_layer(spec, expected):
    assert without_layer(spec) == expected
