"""Predictions carry their images' names, whatever these are; older files open without."""

import dataclasses

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.results.disagreement import misread_by_name
from iceprobe.results.predictions import Predictions, read_predictions, write_predictions

LABELS = np.array([0, 1, 2, 0])
NAMES = ["a/é.png", "b/\udcff.png", "c, d\n.png", "a/2.png"]
RIGHT = Predictions(LABELS, np.array([[0, 1, 2, 1]], np.int32), names=NAMES)
WRONG = Predictions(LABELS, np.array([[0, 0, 1, 1]], np.int32), names=NAMES)


def test_names_are_written_and_read(tmp_path):
    write_predictions(tmp_path / "p", {"ep2": RIGHT, "knn": WRONG})
    found = read_predictions(tmp_path / "p", "knn")
    assert found.names == NAMES
    assert np.array_equal(found.predicted, WRONG.predicted)
    write_predictions(tmp_path / "old", {"ep2": dataclasses.replace(RIGHT, names=None)})
    assert read_predictions(tmp_path / "old", "ep2").names is None
    with pytest.raises(ValueError, match="3 names don't fit 4 labels"):
        dataclasses.replace(RIGHT, names=NAMES[:3])


def test_damaged_names_are_one_line(tmp_path):
    from safetensors.numpy import save_file

    tensors = {"labels": LABELS, "ep2/predicted": RIGHT.predicted}
    save_file({**tensors, "names": np.frombuffer(b"[", np.uint8)}, tmp_path / "p")
    with pytest.raises(IceprobeError, match="can't be read"):
        read_predictions(tmp_path / "p", "ep2")


def test_mistakes_have_the_names_of_their_images():
    seen = misread_by_name(RIGHT, WRONG, ["ant", "bee", "cat"], 5)
    assert seen == ["b/\udcff.png (bee read as ant)", "c, d\n.png (cat read as bee)"]
    assert misread_by_name(RIGHT, WRONG, [], 1) == ["b/\udcff.png (class 1 read as class 0)"]
    assert misread_by_name(WRONG, RIGHT, ["ant", "bee", "cat"], 5) == []
    without = [dataclasses.replace(one, names=None) for one in (RIGHT, WRONG)]
    assert misread_by_name(*without, ["ant", "bee", "cat"], 5) == []
    none = dataclasses.replace(WRONG, predicted=np.full_like(WRONG.predicted, -1))
    first = misread_by_name(RIGHT, none, ["ant", "bee", "cat"], 1)
    assert first == ["a/é.png (ant read as nothing)"]
