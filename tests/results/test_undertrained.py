"""Whether a probe had learned to its end, on curves made by hand."""

import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom

from iceprobe.results import undertrained
from iceprobe.results.curves import CurveRow
from iceprobe.results.replicates import merged
from iceprobe.results.schema import SelectedScore
from iceprobe.results.undertrained import signs_of_undertraining, training_warnings
from iceprobe.results.weighted import selected_score
from iceprobe.tasks import get_task
from tests.results.test_advice import result

CHANCE = math.log(10)

METRICS = get_task("classification").metrics
far_below = partial(undertrained.far_below, METRICS["top1"])


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


def test_seeds_with_epochs_of_their_own_are_read_at_the_end():
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


def test_the_chosen_setting_over_its_whole_schedule_is_read():
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


def score(mean: float, images: int, error: float | None = None) -> SelectedScore:
    """Of so many images of equal weight; the standard error of rights and wrongs unless given."""
    if error is None:
        error = math.sqrt(mean * (1 - mean) / (images - 1))
    return SelectedScore(mean=mean, images=images, error=error, size=images)


def test_a_score_far_below_the_held_out_one_is_reported():
    held = score(0.9, 100, 0.03)
    assert far_below(score(0.9 - 3 * 0.05, 200, 0.04), held) == []  # √(0.03² + 0.04²) = 0.05
    (said,) = far_below(score(0.9 - 3.1 * 0.05, 200, 0.04), held)
    assert said.startswith(
        "it reads 74.5% on test and 90.0% on the 100 images held out of train, 3.1 standard errors"
    )
    assert far_below(score(1.0, 200), held) == []
    assert far_below(score(0.1, 200), None) == []
    assert far_below(None, held) == []  # one image


def test_a_few_images_that_are_all_right_are_no_certainty():
    """p = (2000·0.93 + 20)/2020; of 20 images 0.93²⁰ = 23% are all right."""
    perfect = score(1.0, 20)
    assert far_below(score(0.93, 2000), perfect) == []
    p = 0.5  # all right against all wrong: (50 + 0)/100, 10 standard errors
    (said,) = far_below(score(0.0, 50), score(1.0, 50))
    assert f"{1 / math.sqrt(p * (1 - p) * 2 / 50):.1f} standard errors more" in said


@pytest.mark.parametrize(
    ("n", "p", "m"), [(20, 0.9, 2000), (40, 0.97, 2000), (100, 0.99, 10_000), (200, 0.75, 2000)]
)
def test_the_same_probe_is_found_to_lie_far_below_in_few_draws(n, p, m):
    """Summed over both binomials: three standard errors of a normal are 0.13%."""
    test = np.arange(m + 1)
    likely = test[binom.pmf(test, m, p) > 1e-7]
    alarms = sum(
        binom.pmf(k, n, p) * binom.pmf(j, m, p)
        for k in range(n + 1)
        for j in likely[:: max(1, len(likely) // 60)]
        if far_below(score(j / m, m), score(k / n, n))
    ) * max(1, len(likely) // 60)
    assert alarms < 0.005


def test_a_rare_class_counts_as_few_images():
    """Two images of a class that weighs a half: both right says little."""
    labels = np.repeat([0, 1], [1000, 2])
    held = selected_score(np.ones(1002), METRICS["mean_per_class"].weights(labels))
    assert held.size == pytest.approx(1 / (1 / 4000 + 1 / 8))
    assert far_below(score(0.85, 2000), held) == []
    held = selected_score(np.ones(1002), METRICS["top1"].weights(labels))
    assert far_below(score(0.85, 2000), held) != []


def test_replicates_tell_the_warnings_of_each_and_the_mean_held_out_score():
    parts, scored = [result("ep4", seed) for seed in range(5)], []
    for part, mean in zip(parts, (0.5, 0.6, 0.7, 0.8, 0.9), strict=True):
        held = SelectedScore(mean=mean, images=10, error=0.1)
        scored.append(part.replaced(selected_score=held, warnings=["not at its optimum"]))
    warnings = {
        1: ["not at its optimum", "its rate, 0.1, is the highest tried"],
        3: ["its rate, 3e-05, is the highest tried", "not at its optimum"],
        4: ["not at its optimum", "its rate, 3e-05, is the lowest tried"],
    }
    for place, said in warnings.items():
        scored[place] = scored[place].replaced(warnings=said)
    found = merged(scored)
    assert found.warnings == [
        "not at its optimum",
        "in 2 of 5 replicates, numbers of the first: its rate, 0.1, is the highest tried",
        "in 1 of 5 replicates: its rate, 3e-05, is the lowest tried",
    ]
    assert found.selected_score.mean == pytest.approx(0.7)
    falling = [
        part.replaced(warnings=[f"its loss still falls ({losses})"])
        for part, losses in zip(parts, (0.6, 0.5, 0.4, 0.3, 0.2), strict=True)
    ]
    assert merged(falling).warnings == [
        "in all 5 replicates, numbers of the first: its loss still falls (0.6)"
    ]


def test_undertraining_of_too_few_replicates_is_a_warning():
    parts = [result("ep4", seed) for seed in range(5)]
    for place in (0, 2):
        parts[place] = parts[place].replaced(undertrained=["6 training steps"])
    assert merged(parts).undertrained == []
    assert merged(parts).warnings == ["in 2 of 5 replicates: undertrained: 6 training steps"]
    parts[3] = parts[3].replaced(undertrained=["6 training steps"])
    assert (merged(parts).undertrained, merged(parts).warnings) == (["6 training steps"], [])


def test_a_rounding_is_no_gap():
    """Where nothing is wrong on either side both errors are rounding, and so is what they differ by."""
    assert far_below(score(1 - 1.1e-16, 500, 3e-17), score(1.0, 240, 2e-17)) == []
