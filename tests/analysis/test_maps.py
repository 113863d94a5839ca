"""Boxes from maps, parts, other backgrounds, retrieval: by hand, and beside plain loops."""

import numpy as np
import pytest
import torch

from iceprobe.analysis import (
    box_hits,
    max_box_accuracy,
    part_maps,
    part_picture,
    recall_at,
    replace_background,
    shortcut,
)
from iceprobe.analysis.box_accuracy import component_boxes
from iceprobe.core.errors import IceprobeError
from tests.reference import analysis as reference


def test_components_by_hand_and_by_flood_fill():
    inside = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    # A diagonal is connected.
    assert component_boxes(inside).tolist() == [[0, 0, 2, 2], [3, 0, 4, 1], [0, 3, 2, 4]]
    assert component_boxes(np.zeros((4, 4), bool)).shape == (0, 4)
    drawn = np.random.default_rng(0).random((13, 13)) > 0.75
    assert sorted(map(tuple, component_boxes(drawn))) == sorted(reference.component_boxes(drawn))


def test_box_accuracy_by_hand():
    # A map of the image's own size: the box of {≥ 0.5} is 2 × 2, that of {≥ 0} the image.
    map_ = torch.zeros(1, 4, 4)
    map_[0, 0, 0:2] = map_[0, 1, 0:2] = 3
    taus = (0.0, 0.5, 1.0)
    exact = box_hits(map_, torch.tensor([[0.0, 0, 2, 2]]), 4, thresholds=taus)
    assert exact[0].tolist() == [[False] * 3, [True] * 3, [True] * 3]
    half = box_hits(map_, torch.tensor([[0.0, 0, 2, 4]]), 4, thresholds=taus)  # IoU ½ and ½
    assert half[0].tolist() == [[True, True, False]] * 3
    assert max_box_accuracy(np.concatenate([exact, half])).tolist() == [1, 1, 0.5]
    # One threshold serves the whole set: each image right at another one is half of them right.
    one = np.zeros((2, 2, 1), bool)
    one[0, 0], one[1, 1] = True, True
    assert max_box_accuracy(one).tolist() == [0.5]
    # Any component and any true box count; a box without area is none; a constant map is 0.
    map_[0, 3, 3] = 3
    several = torch.tensor([[[0.0, 0, 0, 0], [3, 3, 4, 4]]])
    assert box_hits(map_, several, 4, thresholds=(0.5,)).all()
    assert not box_hits(map_, several[:, :1], 4).any()
    constant = box_hits(torch.ones(1, 4, 4), torch.tensor([[0.0, 0, 4, 4]]), 4, thresholds=taus)
    assert constant[0].tolist() == [[True] * 3, [False] * 3, [False] * 3]


def test_box_accuracy_is_that_of_loops_over_pixels():
    rng = np.random.default_rng(3)
    maps, low = rng.random((8, 3, 4)), rng.uniform(0, 4, (8, 2, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 8, (8, 2, 2))], 2)
    taus, deltas = (0.1, 0.3, 0.5, 0.62, 0.8), (0.2, 0.3, 0.5)
    hits = box_hits(torch.tensor(maps), torch.tensor(boxes), 12, thresholds=taus, deltas=deltas)
    truths = [[tuple(box) for box in image] for image in boxes]
    expected = reference.max_box_accuracy(maps, truths, 12, taus, deltas)
    assert expected[0] > expected[2]
    assert max_box_accuracy(hits).tolist() == pytest.approx(expected)


def test_parts_group_predictors_that_look_alike_in_all_images():
    left, right = torch.eye(4)[0], torch.eye(4)[3]
    maps = torch.stack([torch.stack([left, right, left, right])] * 2)
    maps[1] = maps[1].flip(-1)
    parts, assigned = part_maps(maps, 3)
    assert assigned[0] == assigned[2] != assigned[1] == assigned[3]
    assert parts.shape == (2, 2, 4)
    torch.testing.assert_close(parts[:, assigned[0]], maps[:, 0])
    torch.testing.assert_close(parts[:, assigned[1]], maps[:, 1])
    parts = torch.tensor([[[0.8, 0.2], [0.1, 0.4]], [[0.4, 0.4], [0.1, 0.2]]])
    colours = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    picture = part_picture(parts, colours)
    assert picture[0].tolist() == [[1, 0, 0, 1], [0, 0, 1, 1]]
    torch.testing.assert_close(picture[1], torch.tensor([[1.0, 0, 0, 0.5], [1, 0, 0, 0.5]]))


def test_background_comes_from_elsewhere_and_the_box_stays():
    images = torch.arange(32.0).reshape(1, 2, 4, 4) + 1
    box = torch.tensor([[1.0, 0, 3, 2]])
    found = replace_background(images, box, torch.tensor([-1.0, -2]))
    assert torch.equal(found[..., 0:2, 1:3], images[..., 0:2, 1:3])
    assert (found == -1).sum() == (found == -2).sum() == 12
    other = replace_background(images, box, -images)
    assert torch.equal(other < 0, found < 0)
    assert torch.equal(other.abs(), images)
    drop = shortcut([True] * 30 + [False] * 10, [True] * 20 + [False] * 20)
    assert drop.mean == 0.25
    assert drop.clear


def test_recall_is_that_of_loops():
    rng = np.random.default_rng(0)
    labels, descriptors = rng.integers(0, 4, 30), rng.normal(size=(30, 6))
    found = recall_at(torch.tensor(descriptors), torch.tensor(labels), (1, 3), block=8)
    for k in (1, 3):
        expected = reference.recall_at(descriptors, labels, k)
        assert found[k].double().mean().item() == pytest.approx(expected)
    # Length doesn't count, and a class of one finds nothing.
    few = recall_at(torch.tensor([[1.0, 0], [9, 1], [0, 1]]), torch.tensor([0, 0, 1]), (1, 2))
    assert [few[k].tolist() for k in (1, 2)] == [[True, True, False]] * 2
    with pytest.raises(IceprobeError, match="needs 4 images, there are 3"):
        recall_at(torch.eye(3), torch.arange(3), (3,))
