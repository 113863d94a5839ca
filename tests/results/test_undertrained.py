"""Whether a probe had learned to its end, on curves made by hand."""

import math

import pytest

from iceprobe.results.curves import CurveRow
from iceprobe.results.replicates import merged
from iceprobe.results.schema import SelectedScore
from iceprobe.results.undertrained import far_below, signs_of_undertraining, training_warnings
from tests.results.test_advice import result

CHANCE = math.log(10)


def rows(losses, *, phase="select", rate=0.01, seeds=(0, 1)):
    return [
        CurveRow(
            probe="ep4", seed=seed, learning_rate=rate, weight_decay=0.0, phase=phase, epoch=epoch,
            train_loss=CHANCE * loss,
        )
        for seed in seeds
        for epoch, loss in enumerate(losses, 1)
    ]  # fmt: skip


def signs(curves, *, epoch, epochs, steps, rates=(0.001, 0.01, 0.1), rate=0.01):
    selected = {"learning_rate": rate, "weight_decay": 0.0, "epoch": epoch}
    return signs_of_undertraining(
        curves, selected, classes=10, epochs=epochs, steps=steps, learning_rates=rates
    )


def test_few_steps_and_a_loss_that_falls():
    falling = rows([1.0, 0.9, 0.7])
    assert signs(falling, epoch=3, epochs=3, steps=3) == [
        "3 training steps",
        "its loss still falls (2.07 to 1.61 over the last half)",
        "its best epoch is the last",
    ]
    assert signs(falling, epoch=3, epochs=3, steps=3, rates=(0.001, 0.01))[-1] == (
        "its learning rate is the highest tried"
    )
    assert signs([], epoch=1, epochs=1, steps=1)[0] == "1 training step"


def test_of_very_few_steps_the_curve_shows_nothing():
    # Two steps, the first of them at a warm-up's rate of 0: EP4 read 26.9%, and 43.2% after eight.
    assert signs(rows([1.064, 1.064]), epoch=2, epochs=2, steps=2, rates=(0.01,)) == [
        "2 training steps",
        "its best epoch is the last",
    ]
    # An early epoch chosen by chance: EP4 on 500 images read 18.5%, and 25.6% after eight epochs.
    assert signs(rows([1.068, 0.783]), epoch=1, epochs=2, steps=4)[0] == "4 training steps"
    assert signs(rows([1.064, 1.064]), epoch=2, epochs=2, steps=8) == []


def test_seeds_with_epochs_of_their_own_are_looked_at_at_the_end():
    found = signs(rows([1.0, 0.9, 0.7]), epoch="1, 3", epochs=3, steps=9)
    assert found[1] == "its loss still falls (2.07 to 1.61 over the last half)"


def test_a_loss_near_0_that_falls():
    # EP4 on 200 images, 32 epochs of a step: 60.6%, and 70.0% after twice as many.
    losses = [1.0] * 15 + [0.209] * 16 + [0.049]
    assert signs(rows(losses), epoch=24, epochs=32, steps=32) == [
        "32 training steps",
        "its loss still falls (0.48 to 0.11 over the last half)",
    ]


@pytest.mark.parametrize(
    ("losses", "epoch", "steps"),
    [
        ([1.0, 0.9, 0.7], 3, 100),  # many steps
        ([1.0, 0.30, 0.27], 3, 99),  # it hardly falls any more
        ([1.0, 0.8, 0.6, 0.4], 2, 20),  # its best epoch lies in the first half
    ],
)
def test_what_is_trained(losses, epoch, steps):
    assert signs(rows(losses), epoch=epoch, epochs=len(losses), steps=steps) == []


def test_the_chosen_setting_over_its_whole_schedule_is_looked_at():
    # Another setting falls; and the refit stopped at the epoch chosen.
    other = rows([1.0, 0.9, 0.2], rate=0.1)
    refit = rows([1.0, 0.5], phase="refit")
    flat = rows([1.0, 0.30, 0.29])
    assert signs(refit + other + flat, epoch=2, epochs=3, steps=9) == []
    assert signs(refit + other + flat, epoch=3, epochs=3, steps=9, rate=0.1)


def test_replicates_are_undertrained_where_most_of_them_are():
    one, other = (
        result("ep4", 300, variance="none", undertrained=said) for said in (["3 steps"], [])
    )
    assert merged([one, one, other]).undertrained == ["3 steps"]
    assert merged([one, other]).undertrained == []


def warnings(curves, *, epochs, steps=400, edge=None):
    selected = {"learning_rate": 0.01, "weight_decay": 0.0, "epoch": epochs}
    return training_warnings(curves, selected, classes=10, epochs=epochs, steps=steps, edge=edge)


def test_warnings_are_an_edge_few_steps_and_a_loss_that_falls_at_the_end():
    flat = rows([1.0, 0.5, 0.2, 0.2])
    assert warnings(flat, epochs=4) == []
    assert warnings(flat, epochs=4, steps=199) == ["199 training steps, fewer than 200"]
    assert warnings(flat, epochs=4, edge="lowest") == [
        "its learning rate, 0.01, is the lowest tried"
    ]
    falling = rows([1.0, 0.5, 0.3, 0.24])
    assert warnings(falling, epochs=4) == [
        "its loss still falls (0.69 to 0.55 over the last quarter)"
    ]
    assert warnings(rows([1.0, 0.5, 0.3, 0.251]), epochs=4) == []  # 0.049 log C
    assert warnings(rows([1.0, 0.2]), epochs=2) == []  # no quarter to see it in


def test_a_score_far_below_the_held_out_one_is_told():
    held = SelectedScore(mean=0.9, images=100, error=0.03)
    assert far_below(0.9 - 3 * 0.05, 0.04, held) == []  # √(0.03² + 0.04²) = 0.05
    (said,) = far_below(0.9 - 3.1 * 0.05, 0.04, held)
    assert said.startswith(
        "it reads 74.5% on test and 90.0% on the 100 images held out of train, 3.1 standard errors"
    )
    assert far_below(1.0, 0.04, held) == []
    assert far_below(0.1, 0.04, None) == []
    assert far_below(0.1, math.inf, held) == []  # one image


def test_replicates_have_the_warnings_of_most_and_the_mean_held_out_score():
    parts = [result("ep4", seed) for seed in (0, 1, 2)]
    for part, mean in zip(parts, (0.5, 0.6, 0.7), strict=True):
        part.selected_score = SelectedScore(mean=mean, images=10, error=0.1)
    parts[0].warnings = ["an edge"]
    assert merged(parts).warnings == []
    parts[2].warnings = ["another"]
    found = merged(parts)
    assert found.warnings == ["an edge"]
    assert found.selected_score.mean == pytest.approx(0.6)


def test_a_rounding_is_no_gap():
    """Where nothing is wrong on either side both errors are rounding, and so is what they differ by."""
    held = SelectedScore(mean=1.0, images=240, error=2e-17)
    assert far_below(1 - 1.1e-16, 3e-17, held) == []
    assert far_below(0.99, 3e-17, held) != []
