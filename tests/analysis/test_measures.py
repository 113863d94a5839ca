"""Entropy, localisation and complementarity: by hand, and beside plain loops."""

import numpy as np
import pytest
import torch

from iceprobe.analysis import (
    box_shares,
    centroid_in_box,
    centroids,
    cosine_complementarity,
    entropy,
    intersection_complementarity,
    mask_shares,
    mass,
)
from tests.reference import analysis as reference

GRID, SIZE = (3, 4), 10  # cells of 3⅓ × 2½ pixels: their edges run through pixels


@pytest.fixture
def boxes():
    generator = torch.Generator().manual_seed(1)
    low = 5 * torch.rand(6, 2, generator=generator, dtype=torch.float64)
    return torch.cat([low, low + 1 + 4 * torch.rand(6, 2, generator=generator)], 1).double()


def test_entropy_is_0_on_one_patch_1_where_uniform_and_as_the_formula_between(maps):
    found = entropy(maps)
    assert (found[:, 0] == 0).all()
    torch.testing.assert_close(found[:, 1], torch.ones(6, dtype=torch.float64))
    expected = [[reference.entropy(a.tolist()) for a in image] for image in maps]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    half = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert entropy(half).item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="one patch"):
        entropy(torch.ones(1, 1))


def test_a_box_by_hand():
    # Cells of 4 pixels on 8; the box covers all of cell 0, half of 1, and of the row below a quarter.
    box = torch.tensor([[0.0, 0.0, 6.0, 5.0]])
    shares = box_shares(box, (2, 2), 8)
    assert shares.tolist() == [[1, 0.5, 0.25, 0.125]]
    assert shares.mean().item() == 6 * 5 / 64  # what uniform attention scores
    maps = torch.tensor([[[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]]])
    assert mass(maps, shares).tolist() == [[0.75, 0.125]]
    assert centroids(maps, (2, 2), 8).tolist() == [[[4, 2], [6, 6]]]
    assert centroid_in_box(maps, box, (2, 2), 8).tolist() == [[True, False]]
    # Upper ends are outside, lower ends inside, and a box without area holds nothing.
    for edges, inside in (([0, 0, 4, 5], False), ([4, 2, 5, 3], True), ([4, 2, 4, 2], False)):
        assert centroid_in_box(maps, torch.tensor([edges]), (2, 2), 8)[0, 0] == inside
    assert box_shares(torch.tensor([[3.0, 3, 3, 3]]), (2, 2), 8).sum() == 0


def test_boxes_and_masks_are_weighed_as_by_loops(maps, boxes):
    in_box, points = mass(maps, box_shares(boxes, GRID, SIZE)), centroids(maps, GRID, SIZE)
    inside = centroid_in_box(maps, boxes, GRID, SIZE)
    masks = torch.rand(6, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) > 0.6
    in_mask = mass(maps, mask_shares(masks.double(), GRID))
    for i, j in np.ndindex(6, 5):
        a, box = maps[i, j].tolist(), boxes[i].tolist()
        assert in_box[i, j].item() == pytest.approx(reference.mass_in_box(a, box, GRID, SIZE))
        found = reference.mass_in_mask(a, masks[i].numpy(), GRID)
        assert in_mask[i, j].item() == pytest.approx(found)
        x, y = reference.centroid(a, GRID, SIZE)
        assert points[i, j].tolist() == pytest.approx([x, y])
        assert inside[i, j] == (box[0] <= x < box[2] and box[1] <= y < box[3])
    assert 0 < inside.float().mean() < 1
    assert torch.equal(mask_shares(masks.to(torch.uint8), GRID), mask_shares(masks.float(), GRID))


def test_complementarity_of_equal_disjoint_and_other_maps(maps):
    for measure in (cosine_complementarity, intersection_complementarity):
        disjoint = torch.eye(3, 12, dtype=torch.float64)[None]
        assert measure(disjoint).tolist() == [1]
        same = maps[:, 2:3].expand(-1, 4, -1)
        torch.testing.assert_close(measure(same), torch.zeros(6, dtype=torch.float64))
        expected = [getattr(reference, measure.__name__)(image) for image in maps.numpy()]
        torch.testing.assert_close(measure(maps), torch.tensor(np.array(expected)))
        with pytest.raises(ValueError, match="one map"):
            measure(maps[:, :1])
    halves = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]])
    assert cosine_complementarity(halves).item() == pytest.approx(0.5)
    assert intersection_complementarity(halves).item() == pytest.approx(0.5)
