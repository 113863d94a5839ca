"""Members trained side by side end as each ends alone; the loss is the mean over the pixels that count."""

import numpy as np
import pytest
import torch

from iceprobe.fitting import patch_group
from iceprobe.fitting.engine import JointTrainer
from iceprobe.fitting.feed import Batch
from iceprobe.fitting.patch_group import PatchGroup
from iceprobe.fitting.stacked import Member
from iceprobe.fitting.whitening import whitening
from iceprobe.probes.segmentation import build, upsample
from iceprobe.tasks.depth import Depth
from iceprobe.tasks.miou import IGNORE
from iceprobe.tasks.segmentation import Segmentation, truth_of_masks
from tests.probes.test_segmentation import by_hand
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
    return PatchGroup(asked, 3, measured, GRID, CPU)


def trained(group, tokens, truth, steps=1):
    """The losses of each step, ``(G,)``."""
    trainer = JointTrainer([group], "adamw", steps=4, warmup=0, task=Segmentation())
    return [trainer.train_step(Batch({"patches": tokens}, truth))[0] for _ in range(steps)]


def test_truth_is_the_images_class_on_its_mask(masks):
    truth = truth_of_masks(masks, LABELS)
    assert truth.dtype == torch.uint8
    for i in range(4):
        assert (truth[i][masks[i] > 0] == LABELS[i] + 1).all()
        assert (truth[i][masks[i] == 0] == 0).all()
    assert (truth[4] == IGNORE).all()


def test_first_loss_is_that_of_the_plain_formulas(tokens, masks):
    """Of the probe as its seed initialises it: training in whitened coordinates doesn't change it."""
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
    (losses,) = trained(group, tokens, truth)
    np.testing.assert_allclose(losses, wanted, rtol=2e-5)
    assert len(set(losses.tolist())) == 2  # a seed each, whatever the learning rate


@pytest.mark.parametrize("probe", ["linear", "ep2"])
def test_a_member_among_others_ends_where_it_ends_alone(tokens, masks, probe):
    truth, together = truth_of_masks(masks, LABELS), members(tokens, probe)
    alone = members(tokens, probe, rates=(1e-1,), seeds=(1,))
    start = alone.probe(0).weight.clone()
    theirs, own = (trained(group, tokens, truth, steps=3) for group in (together, alone))
    for found, wanted in zip(theirs, own, strict=True):
        torch.testing.assert_close(found[3], wanted[0], rtol=1e-5, atol=1e-6)
    assert together.members[3] == alone.members[0]
    found, wanted = together.probe(3), alone.probe(0)
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), parameter, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(wanted.weight, start, atol=1e-2)


def numbers(tokens, rates=(1e-2, 1e-1), seeds=(0, 1)):
    """Members for a number a pixel, and the task with its scaling."""
    truth = 5 + 2 * torch.randn(5, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    truth[:, ::3] = torch.nan
    truth[4] = 0.0
    task = Depth().learning_pixels([truth])
    measured = whitening(lambda: iter([tokens.flatten(0, 1)]), 0.01)
    asked = [Member("ep2", rate, 0.0, seed) for rate in rates for seed in seeds]
    return PatchGroup(asked, 1, measured, GRID, CPU, task.scaling), truth, task


def test_first_loss_of_numbers_is_that_of_the_plain_formulas(tokens):
    """Standardised by hand in float64; the fitted modules give the target's unit."""
    group, truth, task = numbers(tokens)
    (mean,), (deviation,) = (one.tolist() for one in task.scaling)
    known = (truth > 0).numpy()
    assert mean == pytest.approx(truth.double().numpy()[known].mean(), rel=1e-12)
    wanted = []
    for member in group.members:
        torch.manual_seed(member.seed)
        probe = build(member.probe, D, 1).double()
        probe.mean, probe.std = (
            tokens.double().mean((0, 1)),
            tokens.double().std((0, 1), correction=0),
        )
        patches = by_hand(probe, tokens.double()).reshape(5, *GRID)
        z = np.array([plain.bilinear(image, SIDE) for image in patches])
        standardised = (truth.double().numpy() - mean) / deviation
        wanted.append(np.square(z - standardised)[known].mean())
    trainer = JointTrainer([group], "adamw", steps=4, warmup=0, task=task)
    for step in range(3):
        (losses,) = trainer.train_step(Batch({"patches": tokens}, truth))
        if not step:
            np.testing.assert_allclose(losses, wanted, rtol=2e-5)
    with torch.no_grad():
        pixels = group.pixels(tokens, SIDE)
        for g in range(len(group)):
            module = upsample(group.probe(g)(tokens), GRID, SIDE)
            torch.testing.assert_close(module, pixels[g], rtol=1e-4, atol=1e-4)


def test_a_member_for_numbers_among_others_ends_where_it_ends_alone(tokens):
    together, alone = numbers(tokens), numbers(tokens, rates=(1e-1,), seeds=(1,))
    for group, truth, task in (together, alone):
        trainer = JointTrainer([group], "adamw", steps=4, warmup=0, task=task)
        for _ in range(3):
            trainer.train_step(Batch({"patches": tokens}, truth))
    found, wanted = together[0].probe(3), alone[0].probe(0)
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), parameter, rtol=1e-4, atol=1e-5)


def test_few_images_at_a_time_are_the_same_step(tokens, masks, monkeypatch):
    truth, whole, parts = truth_of_masks(masks, LABELS), members(tokens), members(tokens)
    (of_whole,) = trained(whole, tokens, truth)
    monkeypatch.setattr(patch_group, "PIXEL_LOGITS", 2 * 4 * 3 * SIDE**2)
    assert [part.stop - part.start for part in parts.few(5, SIDE)] == [2, 2, 2]
    torch.testing.assert_close(trained(parts, tokens, truth)[0], of_whole)
    for name, wanted in whole.probe(2).named_parameters():
        torch.testing.assert_close(parts.probe(2).get_parameter(name), wanted, atol=1e-5, rtol=1e-4)


def test_a_member_that_is_no_longer_finite_says_so_alone(tokens, masks):
    group = members(tokens)
    with torch.no_grad():
        group.parameters["weight"][1, 0, 0] = float("inf")
    assert group.finite().tolist() == [True, False, True, True]
