"""results.json, curves.csv, predictions.safetensors: what is written comes back; damage is an error."""

import json
import math
import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.results import (
    CurveRow,
    Files,
    FittedResult,
    Flops,
    Parameters,
    Predictions,
    Score,
    StoreReference,
    compare,
    compare_pair,
    environment,
    read_curves,
    read_predictions,
    read_results,
    to_csv,
    to_markdown,
    to_rich,
    write_curves,
    write_predictions,
    write_results,
)
from iceprobe.results.building import scores_of
from iceprobe.results.comparison import best_baseline, reference_ep
from iceprobe.results.tables import leaderboard

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def scored(top1: Score, mean_per_class: float = 0.5, **more: Score) -> dict[str, Score]:
    return {"top1": top1, **more, "mean_per_class": Score.of([mean_per_class] * len(top1.values))}


def result(probe: str = "ep12", accuracy: float = 0.75, **changes) -> FittedResult:
    fields = {
        "probe": probe,
        "method": "knn" if probe == "knn" else "trained",
        "backbone": "bundled:mae-tiny",
        "dataset": "folder:/data/a|b",
        "protocol": "heldout",
        "classes": 3,
        "dim": 8,
        "num_tokens": 4,
        "grid": (2, 2),
        "primary": "top1",
        "metrics": scored(
            Score.of([accuracy, accuracy - 0.02], (accuracy - 0.1, accuracy + 0.1)), accuracy
        ),
        "selected": {"learning_rate": 0.003, "epoch": 7},
        "selected_on": "10% of train",
        "parameters": Parameters(pooling=100, classifier=20, total=120),
        "flops": Flops(per_image=1_383_400),
        "seconds": 61.0,
        "seeds": [0, 1],
        "store": StoreReference(path="features/x", identity="abc"),
        "environment": environment(),
        "files": Files(probes=["probes/a.safetensors"], predictions="predictions.safetensors"),
    }
    return FittedResult(**(fields | changes))


def predictions(shift: int = 0) -> Predictions:
    predicted = np.stack([LABELS, LABELS]).astype(np.int32)
    predicted[:, :shift] = (predicted[:, :shift] + 1) % 3
    return Predictions(LABELS, predicted)


def test_results_come_back_as_they_were(tmp_path: Path):
    written = [
        result(),
        result("knn", 0.5, seeds=[], metrics=scored(Score.of([0.5]), top5=Score.of([0.9]))),
    ]
    path = write_results(tmp_path / "run", written)
    read = read_results(tmp_path / "run")
    assert [one.model_dump() for one in read] == [one.model_dump() for one in written]
    assert read[0].run == tmp_path / "run"
    assert read_results(path)[0].grid == (2, 2)
    assert "run" not in json.loads(path.read_text())["results"][0]


def test_score_is_mean_and_sample_deviation():
    score = Score.of([0.70, 0.72, 0.80])
    assert score.mean == pytest.approx(0.74)
    assert score.sd == pytest.approx(math.sqrt((0.04**2 + 0.02**2 + 0.06**2) / 2))
    assert Score.of([0.7]).sd is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch):
    path = write_results(tmp_path, [result()])
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(tmp_path, [result(accuracy=0.1)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_written_file_has_the_users_ordinary_mode(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.touch()
    written = write_results(tmp_path, [result()])
    assert written.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no results at"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "not a results file"),
        (b'{"results": 3}', "not a results file"),
        (b'{"format": 99, "results": []}', "format 99"),
        (b'{"format": 1, "results": [{"probe": "ep12"}]}', "don't fit the schema"),
        (b'{"format": 1, "results": [7]}', "don't fit the schema"),
        (b'{"format": 2, "results": [{"probe": "ep12"}]}', "don't fit the schema"),
    ],
)
def test_a_file_that_is_none_of_ours_is_one_line(tmp_path: Path, content, said):
    if content is not None:
        (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(IceprobeError, match=said) as caught:
        read_results(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_what_can_not_be_true_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="2 seeds"):
        result(metrics=scored(Score.of([0.5, 0.5, 0.5])))
    with pytest.raises(ValueError, match="finite"):
        Score(mean=math.nan, sd=None, values=[0.75])
    with pytest.raises(ValueError, match="primary 'map' is none of top1, mean_per_class"):
        result(primary="map")
    assert Score.of([-3.5, 75.0]).mean == 35.75  # not every metric is a share
    with pytest.raises(IceprobeError, match="appears twice"):
        write_results(tmp_path, [result(), result()])


def test_curves_come_back_with_diverged_members(tmp_path: Path):
    common = {"probe": 'ep12?a="b",c', "seed": 0, "weight_decay": 0.0, "phase": "select"}
    rows = [
        CurveRow(**common, learning_rate=0.003, epoch=1, train_loss=1.25, eval_accuracy=0.5),
        CurveRow(**common, learning_rate=30.0, epoch=1, train_loss=math.inf),
    ]
    write_curves(tmp_path, rows)
    assert read_curves(tmp_path) == rows
    assert read_curves(tmp_path / "elsewhere") == []
    (tmp_path / "curves.csv").write_text("probe,seed\nep12,not a number\n")
    with pytest.raises(IceprobeError, match="line 2"):
        read_curves(tmp_path)


def test_predictions_come_back_and_score(tmp_path: Path):
    path = tmp_path / "predictions.safetensors"
    top5 = np.ones((2, 8), bool)
    write_predictions(
        path, {"ep12": predictions(2), "linear?input=mean": Predictions(LABELS, predictions().predicted, top5)}
    )  # fmt: skip
    back = read_predictions(path, "ep12")
    assert back.correct.tolist() == predictions(2).correct.tolist()
    assert back.top5 is None
    assert scores_of(back, "classification")["top1"].mean == 0.75
    linear = read_predictions(path, "linear?input=mean")
    assert scores_of(linear, "classification")["top5"].mean == 1.0
    with pytest.raises(IceprobeError, match="holds no predictions of 'aim12'"):
        read_predictions(path, "aim12")
    with pytest.raises(IceprobeError, match="missing"):
        read_predictions(tmp_path / "none", "ep12")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(IceprobeError, match="can't be read"):
        read_predictions(path, "ep12")
    other = Predictions(LABELS[::-1].copy(), predictions().predicted)
    with pytest.raises(IceprobeError, match="other images"):
        write_predictions(path, {"ep12": predictions(), "knn": other})


def test_what_a_result_scores_is_computed_once(monkeypatch):
    """However many pairs it is in, and with its interval."""
    from iceprobe.results import comparison
    from iceprobe.tasks.metrics import Metric

    every = [result(f"ep{k}").replaced(predictions=predictions(k)) for k in (2, 3, 4, 5)]
    alone = [compare_pair(a, b).difference for a, b in combinations(every, 2)]
    read: list[str] = []
    compute = comparison.unit_scores

    def counted(metric, *given):
        read.append(metric.name)
        return compute(metric, *given)

    monkeypatch.setattr(comparison, "unit_scores", counted)
    together = comparison.compare_pairs(combinations(every, 2))
    assert [one.difference for one in together] == alone
    assert read == ["top1"] * 4
    before = scores_of(predictions(), "classification")
    read.clear()
    compute_scores = Metric.scores

    def counted_scores(metric, *given):
        read.append(metric.name)
        return compute_scores(metric, *given)

    monkeypatch.setattr(Metric, "scores", counted_scores)
    assert scores_of(predictions(), "classification") == before
    assert {read.count(name) for name in before} == {1}


def test_comparisons_pair_the_same_images():
    a = result("ep12").replaced(predictions=predictions())
    b = result("linear").replaced(predictions=predictions(4))
    assert compare_pair(a, b).difference.mean == 0.5
    assert [one.probe.probe for one in compare([a, b], [b])] == ["linear"]
    with pytest.raises(IceprobeError, match="share no probe"):
        compare([a], [b])
    other = Predictions(LABELS[::-1].copy(), predictions().predicted)
    with pytest.raises(IceprobeError, match="different images"):
        compare_pair(a, result("knn").replaced(predictions=other))
    with pytest.raises(IceprobeError, match="no predictions"):
        compare_pair(a, result("knn"))


def test_who_is_compared_with_whom():
    results = [
        result("ep12?value=identity", 0.9), result("ep8", 0.7), result("ep32", 0.8),
        result("linear?input=class", 0.4), result("linear?input=mean", 0.5), result("knn", 0.3),
    ]  # fmt: skip
    assert reference_ep(results).probe == "ep12?value=identity"  # the best, not the first named
    assert reference_ep(results[1:]).probe == "ep32"
    tie = [result("ep8", 0.8), result("ep32", 0.8)]
    assert [reference_ep(tie).probe, reference_ep(tie[::-1]).probe] == ["ep8", "ep32"]
    for number, one in enumerate(tie):  # by the primary metric
        metrics = scored(one.top1, 0.5 + number / 10)
        tie[number] = one.replaced(primary="mean_per_class", metrics=metrics)
    assert reference_ep(tie).probe == "ep32"
    assert best_baseline(results).probe == "linear?input=mean"
    assert best_baseline(results[:2]) is None
    assert reference_ep(results[3:]) is None


def test_tables():
    results = [result("linear", 0.5), result("ep12", 0.75), result("knn", 0.4, protocol="paper")]
    lines = to_csv(results).splitlines()
    assert [line.split(",")[0] for line in lines] == ["probe", "ep12", "linear", "knn"]
    markdown = to_markdown(results).splitlines()
    assert markdown[2].startswith(
        "| ep12 | 74.0 ± 1.4 | 65.0 to 85.0 | 75.0 ± 0.0 | 120 | 1.38 M |"
    )
    assert "selected on the reported split" in markdown[-2]
    assert markdown[-1].startswith("Two seeds, or two or three replicates, say hardly")
    varied = to_markdown([result("ep12"), result("ep8", dataset="folder:/c")])
    assert "folder:/data/a\\|b" in varied
    assert len(to_rich(results).rows) == 3


def test_the_headline_orders_the_table():
    """Pets, Flowers and Aircraft are reported by their mean over classes."""
    by_images = result("linear", metrics=scored(Score.of([0.8, 0.78]), 0.5))
    by_class = result("ep12", metrics=scored(Score.of([0.7, 0.68]), 0.6))
    assert [one.probe for one in leaderboard([by_class, by_images])] == ["linear", "ep12"]
    by_images, by_class = (one.replaced(primary="mean_per_class") for one in (by_images, by_class))
    assert [one.probe for one in leaderboard([by_images, by_class])] == ["ep12", "linear"]
    assert by_class.score.mean == 0.6
    assert "per class %, headline" in to_markdown([by_images, by_class])
