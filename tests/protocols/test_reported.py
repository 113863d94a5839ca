"""What is reported holds nothing that was trained on, or says so."""

import logging

import numpy as np
import pytest

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.neighbours import knn
from iceprobe.results import read_results
from iceprobe.store import extract_in_memory
from tests.fitting.test_api import QUICK, planted_dataset
from tests.store.conftest import make_backbone


def with_copies(rows: list[int], shown: list[int], name: str = "test") -> Dataset:
    """The planted images, those of ``rows`` of the reported split being training images ``shown``."""
    data = planted_dataset()
    train, test = data.splits["train"], data.splits["test"]
    images, labels = np.array(test.images), np.array(test.labels)
    images[rows], labels[rows] = train.images[shown], train.labels[shown]
    other = ArraySplit(name, images, labels, [f"{name}-{i}" for i in range(len(labels))])
    plain = ArraySplit("train", train.images, train.labels, train.names)
    return Dataset(data.spec, data.name, data.classes, {"train": plain, name: other})


def test_the_training_split_is_not_reported(tmp_path):
    store = extract_in_memory(make_backbone(), planted_dataset(), batch_size=16)
    for asked in (
        lambda: iceprobe.fit(store, ["knn"], split="train", output=tmp_path / "r", **QUICK),
        lambda: iceprobe.fit(
            store, ["knn"], split="train", shots=5, output=tmp_path / "r", **QUICK
        ),
        lambda: iceprobe.probe(make_backbone(), planted_dataset(), ["linear"], split="train"),
        lambda: knn(store, split="train"),
    ):
        with pytest.raises(
            IceprobeError, match=r"split='train': probes are trained.*give split='test'$"
        ):
            asked()
    assert not (tmp_path / "r").exists()


def test_under_another_name_it_is_reported(tmp_path, caplog):
    rows = list(range(90))
    store = extract_in_memory(make_backbone(), with_copies(rows, rows[::-1], "val"), batch_size=7)
    with caplog.at_level(logging.WARNING, "iceprobe"):
        (result,) = iceprobe.fit(store, ["knn"], split="val", output=tmp_path / "r", **QUICK)
    assert result.identical_images == 90
    (line,) = [r.getMessage() for r in caplog.records if "identical" in r.getMessage()]
    assert line.startswith(
        "assumed: 90 of 90 val images are identical to training images (by their"
    )


def test_single_images_are_reported_in_log_result_and_report(tmp_path, caplog):
    """Found although they went through the backbone in other batches."""
    data = with_copies([3, 50, 89], [200, 0, 17])
    store = iceprobe.extract(make_backbone(), data, tmp_path / "features", batch_size=7)
    assert store.identical("test").tolist() == [3, 50, 89]
    with caplog.at_level(logging.WARNING, "iceprobe"):
        iceprobe.fit(store, ["knn", "linear"], output=tmp_path / "run", **QUICK)
    line = (
        "3 of 90 test images are identical to training images (by their pooled tokens, such as "
        "'test-3'): what was memorised counts as read"
    )
    assert [record.getMessage() for record in caplog.records].count(f"assumed: {line}") == 1
    for result in read_results(tmp_path / "run"):
        assert result.identical_images == 3
        assert line in result.assumed
    page = iceprobe.report(
        read_results(tmp_path / "run"), tmp_path / "r.html", images=0
    ).read_text()
    assert "3 of 90 test images are identical to training images" in page


def test_other_images_are_not_taken_for_the_same():
    store = extract_in_memory(make_backbone(), planted_dataset(), batch_size=16)
    assert store.identical("test").tolist() == []
    (result,) = iceprobe.probe(make_backbone(), planted_dataset(), ["knn"], **QUICK)
    assert (result.identical_images, result.assumed) == (0, [])
