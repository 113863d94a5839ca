"""Members side by side learn what each learns alone; the loss is the mean over the pixels that count."""

import numpy as np
import pytest
import torch

from iceprobe.dense import IGNORE, build
from iceprobe.dense import training as engine
from iceprobe.dense.training import Members, truth_of_masks
from iceprobe.fitting.members import Member
from iceprobe.fitting.whitening import whitening
from tests.dense.test_probes import by_hand
from tests.reference import segmentation as plain

GRID, D, SIDE, LABELS = (3, 3), 6, 12, torch.tensor([0, 1, 1, 0, 1])
CPU = torch.device("cpu")


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    skewed = torch.randn(5, 9, D, generator=generator) @ torch.randn(D, D, generator=generator)
    return 3 * skewed + 2


@pytest.fixture
def masks():
    masks = torch.zeros(5, SIDE, SIDE, dtype=torch.uint8)
    for i in range(4):  # the last image has none
        masks[i, i : i + 6, 2 : 7 + i] = 1
    return masks


def members(tokens, probe="ep2", rates=(1e-2, 1e-1), seeds=(0, 1)):
    measured = whitening(lambda: iter([tokens.flatten(0, 1)]), 0.01)
    asked = [Member(probe, rate, 0.0, seed) for rate in rates for seed in seeds]
    return Members(asked, 3, measured, GRID, CPU)


def test_truth_is_the_images_class_on_its_mask(masks):
    truth = truth_of_masks(masks, LABELS)
    assert truth.dtype == torch.uint8
    for i in range(4):
        assert (truth[i][masks[i] > 0] == LABELS[i] + 1).all()
        assert (truth[i][masks[i] == 0] == 0).all()
    assert (truth[4] == IGNORE).all()


def test_first_loss_is_that_of_the_plain_formulas(tokens, masks):
    """Of the probe as its seed initialises it: learning in whitened coordinates doesn't change it."""
    group, truth = members(tokens), truth_of_masks(masks, LABELS)
    wanted = []
    for member in group.members:
        torch.manual_seed(member.seed)
        probe = build(member.probe, D, 3).double()
        probe.mean, probe.std = (
            tokens.double().mean((0, 1)),
            tokens.double().std((0, 1), correction=0),
        )
        patches = by_hand(probe, tokens.double()).transpose(0, 2, 1).reshape(5, 3, *GRID)
        pixels = np.array([[plain.bilinear(c, SIDE) for c in image] for image in patches])
        wanted.append(plain.cross_entropy(pixels, truth.numpy(), IGNORE))
    losses = group.step(tokens, truth, 1.0)
    np.testing.assert_allclose(losses, wanted, rtol=2e-5)
    assert len(set(losses.tolist())) == 2  # a seed each, whatever the learning rate


@pytest.mark.parametrize("probe", ["linear", "ep2"])
def test_a_member_in_a_crowd_ends_where_it_ends_alone(tokens, masks, probe):
    truth, crowd = truth_of_masks(masks, LABELS), members(tokens, probe)
    alone = members(tokens, probe, rates=(1e-1,), seeds=(1,))
    start = alone.member(0).weight.clone()
    for factor in (0.5, 1.0, 0.3):
        before = crowd.step(tokens, truth, factor)[3], alone.step(tokens, truth, factor)[0]
        torch.testing.assert_close(*before, rtol=1e-5, atol=1e-6)
    assert crowd.members[3] == alone.members[0]
    theirs, own = crowd.member(3), alone.member(0)
    for name, wanted in own.named_parameters():
        torch.testing.assert_close(theirs.get_parameter(name), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(own.weight, start, atol=1e-2)


def test_few_images_at_a_time_are_the_same_step(tokens, masks, monkeypatch):
    truth, whole, parts = truth_of_masks(masks, LABELS), members(tokens), members(tokens)
    of_whole = whole.step(tokens, truth, 1.0)
    monkeypatch.setattr(engine, "PIXEL_LOGITS", 2 * 4 * 3 * SIDE**2)
    assert [part.stop - part.start for part in parts.few(5, SIDE)] == [2, 2, 2]
    torch.testing.assert_close(parts.step(tokens, truth, 1.0), of_whole)
    for name, wanted in whole.member(2).named_parameters():
        torch.testing.assert_close(
            parts.member(2).get_parameter(name), wanted, atol=1e-5, rtol=1e-4
        )


def test_a_member_that_is_no_longer_finite_says_so_alone(tokens, masks):
    group = members(tokens)
    with torch.no_grad():
        group.parameters["weight"][1, 0, 0] = float("inf")
    assert group.finite() == [True, False, True, True]
