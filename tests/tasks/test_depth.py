"""A number a pixel: its loss and metrics by hand in float64, and what unknown pixels count: nothing."""

import math

import numpy as np
import pytest
import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.tasks.depth import Depth
from iceprobe.tasks.records import Arrays

S = 4


@pytest.fixture
def pixels():
    """Predictions of 2 members and targets of 3 images; about a third of the targets isn't known."""
    rng = np.random.default_rng(0)
    targets = rng.uniform(0.5, 9, (3, S, S))
    predicted = targets * rng.uniform(0.6, 1.6, (2, 3, S, S))
    predicted[0, 0, 0, 0] = -1.0
    targets[rng.random(targets.shape) < 0.3] = np.nan
    targets[2] = np.nan
    return torch.from_numpy(predicted[:, :, None]), torch.from_numpy(targets)


def learnt(targets):
    return Depth().learning_pixels(targets.split(2))


def test_scaling_is_the_mean_and_deviation_of_known_pixels(pixels):
    _, targets = pixels
    mean, deviation = learnt(targets).scaling
    flat = targets[~targets.isnan()].numpy()
    assert float(mean) == pytest.approx(flat.mean(), rel=1e-14)
    assert float(deviation) == pytest.approx(flat.std(), rel=1e-14)


def test_loss_is_the_squared_error_of_standardised_targets(pixels):
    predicted, targets = pixels
    task = learnt(targets)
    (mean,), (deviation,) = (one.tolist() for one in task.scaling)
    wanted = []
    for member in predicted[:, :, 0].tolist():
        squares, known = 0.0, 0
        for ours, theirs in zip(np.ravel(member), targets.flatten().tolist(), strict=True):
            if not math.isnan(theirs):
                squares += ((ours - mean) / deviation - (theirs - mean) / deviation) ** 2
                known += 1
        wanted.append(squares / known)
    losses = task.loss(predicted, targets)
    assert losses.tolist() == pytest.approx(wanted, rel=1e-13)
    alone = task.loss(predicted[1], targets)
    assert float(alone) == pytest.approx(wanted[1], rel=1e-13)
    parts = [task.loss(predicted[:, one], targets[one], targets) for one in (slice(2), slice(2, 3))]
    torch.testing.assert_close(parts[0] + parts[1], losses)


def test_guessing_the_mean_has_the_loss_1(pixels):
    _, targets = pixels
    task = learnt(targets)
    guess = torch.full((1, 3, 1, S, S), float(task.scaling[0]), dtype=torch.float64)
    assert float(task.loss(guess, targets)) == pytest.approx(1, rel=1e-12)
    assert math.log(task.as_hard_as(1)) == 1


@pytest.mark.parametrize("garbage", [0.0, -7.0, -0.0, float("inf"), float("-inf")])
def test_what_stands_at_unknown_pixels_changes_no_number(pixels, garbage):
    predicted, targets = pixels
    other = torch.where(targets.isnan(), garbage, targets)
    found = []
    for one in (targets, other):
        task, leaf = learnt(one), predicted.clone().requires_grad_()
        losses = task.loss(leaf, one)
        losses.sum().backward()
        found.append(
            [*task.scaling, losses.detach(), leaf.grad, *task.record(predicted, one).values()]
        )
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
    gradient = found[0][3][:, :, 0]
    assert (gradient[:, targets.isnan()] == 0).all()
    assert (gradient[:, ~targets.isnan()] != 0).all()


def test_metrics_are_those_of_all_known_pixels(pixels):
    predicted, targets = pixels
    record, labels = Arrays(Depth().record(predicted, targets)), np.zeros(3)
    known = ~targets.isnan().numpy()
    t = targets.numpy()[known]
    for member in range(2):
        p = predicted[member, :, 0].numpy()[known]
        with np.errstate(divide="ignore"):
            within = (p > 0) & (np.maximum(p / t, t / p) < 1.25)
        wanted = {
            "rmse": np.sqrt(((p - t) ** 2).mean()),
            "delta1": within.mean(),
            "abs_rel": (np.abs(p - t) / t).mean(),
        }
        for name, metric in Depth.metrics.items():
            value = metric.value(record, labels)[member]
            assert value == pytest.approx(wanted[name], rel=1e-12), name
    assert Depth().metric().name == "rmse"
    assert Depth().metric().sign == -1


def test_a_member_that_is_no_longer_finite_does_not_score(pixels):
    predicted, targets = pixels
    broken = predicted.clone()
    broken[1, 0, 0, 1] = float("nan")
    record = Arrays(Depth().record(broken, targets))
    good, bad = Depth().metric().value(record, np.zeros(3))
    assert good < 10
    assert bad > 1e30


def test_what_cannot_be_learnt_is_refused():
    nothing = torch.tensor([[[0.0, -1.0], [float("nan"), float("inf")]]])
    with pytest.raises(IceprobeError, match="no pixel of train has a known number"):
        learnt(nothing)
    with pytest.raises(IceprobeError, match=r"all the same \(3\), or differ in their last digits"):
        learnt(torch.where(nothing.isfinite(), 3.0, nothing))
