"""What the protocols promise of splits, steps and choices."""

import numpy as np
import pytest

from iceprobe import IceprobeError
from iceprobe.core.options import settle
from iceprobe.fitting.selection import peak_rate
from iceprobe.protocols.choosing import best_at_last_epoch
from iceprobe.protocols.protocol import (
    PROTOCOLS,
    check_splits,
    for_images,
    get_protocol,
    images_per_step,
    protocol_of,
    reported,
)
from iceprobe.results.curves import CurveRow
from iceprobe.settings import Fitting
from iceprobe.tasks.stratified import heldout_split


def test_heldout_split_is_stratified_seeded_and_whole():
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    fit, held = heldout_split(labels, seed=0)
    assert np.array_equal(np.sort(np.concatenate([fit, held])), np.arange(150))
    assert np.bincount(labels[held]).tolist() == [10, 4, 1]
    assert np.array_equal(held, heldout_split(labels, seed=0)[1])
    assert not np.array_equal(held, heldout_split(labels, seed=1)[1])


def test_heldout_split_never_takes_a_class_whole():
    fit, held = heldout_split(np.array([0, 1, 1, 2, 2, 2]), seed=0)
    labels = np.array([0, 1, 1, 2, 2, 2])
    assert set(labels[fit]) == {0, 1, 2}
    assert np.bincount(labels[held], minlength=3).tolist() == [0, 1, 1]


def test_paper_takes_4096_images_a_step_and_a_rate_of_1_6():
    paper = PROTOCOLS["paper"]
    assert images_per_step(paper, 1_281_167) == 4096
    assert peak_rate(paper, 0.1, 1_281_167) == pytest.approx(1.6)


def test_paper_lowers_images_per_step_until_an_epoch_has_sixteen():
    paper = PROTOCOLS["paper"]
    assert images_per_step(paper, 6000) == 375
    assert peak_rate(paper, 0.1, 6000) == pytest.approx(0.1 * 375 / 256)
    assert 6000 // images_per_step(paper, 6000) == 16


def test_heldout_rates_are_not_scaled():
    assert peak_rate(PROTOCOLS["heldout"], 0.01, 6000) == 0.01


def test_a_protocol_takes_the_callers_values():
    mine = get_protocol("heldout", epochs=3, learning_rates=(0.5,))
    assert (mine.epochs, mine.learning_rates) == (3, (0.5,))
    assert mine.batch_size == PROTOCOLS["heldout"].batch_size


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"protocol": "heldot"}, "heldout"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"min_steps": -1}, "min_steps=-1"),
        ({"learning_rates": [-1.0]}, "learning_rates"),
        ({"learning_rates": [0.1, 0.1]}, "learning_rates=.*each value once"),
        ({"protocol": "paper", "weight_decays": [-1.0]}, "weight_decays"),
        ({"protocol": "paper", "halving": True}, "halving with protocol 'paper'"),
        ({"coordinates": "whitened"}, "unknown coordinates 'whitened'"),
    ],
)
def test_wrong_values_are_named(values, says):
    with pytest.raises(IceprobeError, match=says):
        protocol_of(settle(Fitting, None, values, "fit"))


def row(rate: float, seed: int, epoch: int, accuracy: float | None, loss: float = 1.0) -> CurveRow:
    return CurveRow(
        probe="ep4",
        seed=seed,
        learning_rate=rate,
        weight_decay=0.0,
        phase="select",
        epoch=epoch,
        train_loss=loss,
        eval_accuracy=accuracy,
    )


def test_choice_is_by_the_mean_over_seeds():
    """Rate 1 has the best single seed and rate 3 the best epoch, rate 2 the best mean at the end."""
    table = {
        (1, 0): [0.2, 0.9],
        (1, 1): [0.2, 0.3],
        (2, 0): [0.5, 0.7],
        (2, 1): [0.5, 0.7],
        (3, 0): [0.9, 0.1],
        (3, 1): [0.9, 0.1],
    }
    rows = [row(r, s, e, a) for (r, s), values in table.items() for e, a in enumerate(values, 1)]
    choice = best_at_last_epoch(rows)
    assert (choice.learning_rate, choice.epoch, choice.tried) == (2, 2, 3)
    assert choice.best_minus_median == pytest.approx(0.7 - 0.6)


def test_of_equals_the_smallest_rate():
    rows = [row(r, 0, e, 0.5) for r in (3, 1, 2) for e in (1, 2)]
    assert (best_at_last_epoch(rows).learning_rate, best_at_last_epoch(rows).epoch) == (1, 2)


def test_few_images_are_seen_often_enough():
    """A step an epoch on 50 images: 400 steps are 400 epochs; a large set needs no more."""
    heldout = get_protocol("heldout")
    assert for_images(heldout, 50).epochs == 400
    assert for_images(heldout, 6000).epochs == 20  # 24 steps an epoch
    assert for_images(heldout, 1_281_167).epochs == 20
    assert for_images(PROTOCOLS["paper"], 5400).epochs == 90
    assert for_images(get_protocol("heldout", epochs=3), 50).epochs == 3
    assert for_images(get_protocol("heldout", epochs=3, min_steps=44), 5400).epochs == 3
    assert for_images(get_protocol("heldout", epochs=3, min_steps=220), 5400).epochs == 10


@pytest.mark.parametrize(
    ("splits", "split", "says"),
    [
        (["test"], "test", r"d has no split 'train' \(it has test\).* iceprobe test RUN --data d$"),
        (["train", "a", "b"], "train", "what they memorised; give split='a' or 'b'$"),
        (["train"], "train", "give the data set a split of other images, such as test$"),
        (["train", "test"], "tset", r"unknown split of d 'tset'. Did you mean test\? There are: test, train"),
        (["train"], "test", r"d has no split 'test', all is in train: .* draws one\)$"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_reported_are_refused(splits, split, says):
    with pytest.raises(IceprobeError, match=says):
        check_splits(splits, split, "d")


def test_folds_are_a_remedy_for_who_has_them():
    with pytest.raises(IceprobeError, match=r"or test each example by folds, --protocol folds$"):
        check_splits(["train"], "test", "d", folds=True)
    check_splits(["train"], reported(Fitting(protocol="folds")), "d", folds=True)
    check_splits(["train", "test"], reported(Fitting()), "d")
    assert (reported(Fitting(folds=3)), reported(Fitting(split="val"))) == (None, "val")
