"""Results of format 1 have the numbers that were written, for an adaptation and a segmentation as well."""

import json
import shutil
from pathlib import Path

import pytest

import iceprobe
from iceprobe.results import compare, read_curves, write_results
from iceprobe.results.building import scores_of
from iceprobe.results.segmentation_files import read_segmentations

FORMAT_1 = Path(__file__).parent / "0.1" / "runs"
METRICS = ("top1", "top5", "mean_per_class")


def entries(run: str) -> list[dict]:
    return json.loads((FORMAT_1 / run / "results.json").read_text())["results"]


@pytest.mark.parametrize(
    "run",
    [
        "paper",
        "adapt",
        "mae-tiny-fashion-heldout-fce225",
        "mae-tiny-fashion-755ddf7e3221-heldout-61cb97",
    ],
)
def test_results_of_format_1_have_the_same_numbers(run: str, tmp_path: Path):
    results = iceprobe.read_results(FORMAT_1 / run)
    for one, before in zip(results, entries(run), strict=True):
        now = one.model_dump(mode="json")
        assert now["metrics"] == {name: before[name] for name in METRICS if before[name]}
        assert list(now["metrics"]) == [name for name in METRICS if before[name]]
        assert (one.primary, one.task) == (before["headline"], "classification")
        kept = {name: value for name, value in before.items() if name not in (*METRICS, "headline")}
        assert {name: now[name] for name in kept} == kept
        assert one.top1.mean == before["top1"]["mean"]
        anew = scores_of(one.predictions(), one.task)
        anew = {name: found.model_copy(update={"caveat": None}) for name, found in anew.items()}
        assert {name: anew[name] for name in one.metrics} == one.metrics  # to the last digit
    assert read_curves(FORMAT_1 / run)
    assert len(compare(results, results)) == len(results)
    assert str(iceprobe.advise(results))
    # Written again they are of the present format, and the same.
    shutil.copytree(FORMAT_1 / run, tmp_path / run)
    write_results(tmp_path / run, results)
    assert json.loads((tmp_path / run / "results.json").read_text())["format"] == 2
    again = iceprobe.read_results(tmp_path / run)
    assert [one.model_dump() for one in again] == [one.model_dump() for one in results]


def test_segmentations_of_that_version_are_read():
    (before, *_) = json.loads((FORMAT_1 / "segment" / "dense.json").read_text())["segmentations"]
    (one, *_) = read_segmentations(FORMAT_1 / "segment")
    assert one.model_dump(mode="json") == before
    assert iceprobe.dense.read_segmentations is read_segmentations
