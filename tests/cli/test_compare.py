"""``iceprobe compare`` of tags and of numbers: the difference that is printed, by hand."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, r2_score

from iceprobe.results import read_results
from tests.cli.conftest import BACKBONE


def write_table(folder: Path) -> Path:
    """Forty images for train and twenty for test, with tags and two numbers."""
    rng, path = np.random.default_rng(0), folder / "labels.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", "tags", "kg", "cm"])
        for i in range(60):
            level = rng.uniform(0, 200)
            pixels = rng.normal(level, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            bright, large, weight = level + rng.normal(0, 60, 3)
            tags = [*(["bright"] if bright > 100 else []), *(["large"] if large > 140 else [])]
            split = "train" if i < 40 else "test"
            rows.writerow([f"{i}.png", split, ";".join(tags), weight, level**2 / 100])
    return path


def map_of(result) -> float:
    predictions = result.predictions()
    logits, tags = predictions.logits().values, predictions.labels
    each = [average_precision_score(tags[:, k], one[:, k]) for one in logits for k in range(2)]
    return 100 * np.mean(each)


def r2_of(result) -> float:
    predictions = result.predictions()
    return np.mean([r2_score(predictions.labels, one) for one in predictions.predicted])


@pytest.mark.parametrize(
    ("target", "metric", "digits"),
    [("tags&separator=;", map_of, 1), ("kg,cm", r2_of, 3)],
    ids=["tags", "numbers"],
)
def test_tags_and_numbers_are_compared(iceprobe, tmp_path, target, metric, digits):
    data = f"table:{write_table(tmp_path)}?image=image&split=split&target={target}"
    run = ["run", "--backbone", BACKBONE, "--data", data, "--probe", "knn", "--probe", "ep2"]
    ended = iceprobe(*run, "--replicates", 2, "--epochs", 2, "--output", "r")
    assert (ended.code, ended.err) == (0, "")
    knn, ep = read_results(tmp_path / "r")
    ended = iceprobe("compare", "r")
    assert (ended.code, ended.err) == (0, "")
    (row,) = re.findall(r"^ep2\* .*", ended.out, re.MULTILINE)
    expected = f"{metric(ep) - metric(knn):+.{digits}f}".replace("-", "−")
    assert row.split()[3] == expected
    assert f"{metric(ep):.{digits}f}" == row.split()[1]
    # No example is right or wrong, so none is named as misread.
    assert "reads and" not in ended.out
