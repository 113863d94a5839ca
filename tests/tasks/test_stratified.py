"""Examples dealt to parts: shares of classes and tags, groups whole, nothing unseen by training."""

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.protocols.heldout import cross_validation
from iceprobe.protocols.lowshot import draw
from iceprobe.protocols.outer_folds import column_folds, drawn_folds
from iceprobe.tasks import get_task
from iceprobe.tasks.stratified import alone, heldout_split

RATES = np.array([0.5, 0.2, 0.05, 0.02])


def tags(n=400, seed=0):
    return np.random.default_rng(seed).random((n, 4)) < RATES


def groups(n=400, seed=1):
    """Of 1 to 12 examples each, in no order."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.repeat(np.arange(n), rng.integers(1, 13, n))[:n])


def strata_of(kind):
    return tags() if kind == "tags" else (tags() * [1, 2, 4, 8]).sum(1) % 3


@pytest.mark.parametrize("kind", ["classes", "tags"])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_held_out_part_has_its_share_of_everything(kind, grouped):
    strata, of = strata_of(kind), groups() if grouped else None
    train, held = heldout_split(strata, 0, 0.2, of)
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(400))
    columns = strata if strata.ndim == 2 else strata[:, None] == np.arange(3)
    wanted, found = 0.2 * columns.sum(0), columns[held].sum(0)
    # A whole unit is moved: off by half of one, here of 12 examples at most.
    assert (np.abs(found - wanted) <= (6 if grouped else 1)).all()
    if of is not None:
        assert not np.intersect1d(of[train], of[held]).size
    again = heldout_split(strata, 0, 0.2, of)[1]
    assert np.array_equal(held, again)
    assert not np.array_equal(held, heldout_split(strata, 1, 0.2, of)[1])


@pytest.mark.parametrize("kind", ["classes", "tags"])
@pytest.mark.parametrize("grouped", [False, True])
def test_folds_share_everything_and_cut_no_group(kind, grouped):
    strata, of = strata_of(kind), groups() if grouped else None
    columns = strata if strata.ndim == 2 else strata[:, None] == np.arange(3)
    folds = cross_validation(strata, 0, 5, groups=of)
    held = np.concatenate([fold.held_out for fold in folds])
    assert np.array_equal(np.sort(held), np.arange(400))
    for fold in folds:
        assert np.array_equal(np.setdiff1d(np.arange(400), fold.held_out), fold.train)
        found = columns[fold.held_out].sum(0)
        assert (np.abs(found - columns.sum(0) / 5) <= (6 if grouped else 1)).all()
        if of is not None:
            assert not np.intersect1d(of[fold.train], of[fold.held_out]).size


def test_outer_folds_test_every_example_once_and_cut_no_group():
    task, of = get_task("multilabel"), groups()
    for mine in (None, of):
        folds = drawn_folds(task, tags().astype(np.uint8), 4, 0, mine)
        assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(400))
        assert max(map(len, folds)) - min(map(len, folds)) <= (1 if mine is None else 12)
        if mine is not None:
            held = [set(mine[rows].tolist()) for rows in folds]
            assert sum(map(len, held)) == len(set.union(*held))
    with pytest.raises(IceprobeError, match="there are 3 groups, take --folds 3 at most"):
        drawn_folds(task, tags().astype(np.uint8), 4, 0, np.arange(400) % 3)


def test_folds_of_a_column_are_its_values_in_order():
    codes = np.array([2, 0, 0, 3, 2])
    found = column_folds(codes, ["a", "b", "c", "d"], "fold")
    assert [rows.tolist() for rows in found] == [[1, 2], [0, 4], [3]]
    with pytest.raises(IceprobeError, match=r"'fold' has no fold for example 1 .*\(2 without\)"):
        column_folds(np.array([0, -1, 1, -1]), ["a", "b"], "fold")
    with pytest.raises(IceprobeError, match="'fold' has one fold"):
        column_folds(np.zeros(4, np.int64), ["a", "b"], "fold")


def test_a_tag_of_one_example_or_group_stays_in_training():
    found = tags()
    found[:, 3] = False
    found[[3, 40], 3] = True
    of = groups()
    of[40] = of[3]
    for mine in (None, of):
        for seed in range(10):
            train, held = heldout_split(found, seed, 0.2, mine)
            assert found[train, 3].any()
            assert found[held, 3].any() == (mine is None)
            folds = cross_validation(found, seed, 3, groups=mine)
            assert all(found[fold.train, 3].any() for fold in folds)


@pytest.mark.parametrize("sizes", [[300, 300], [20] * 5, [5, 100, 100]])
def test_of_few_large_groups_one_is_held_out(sizes):
    """A tenth of them is none; two have each class, so the smallest is held out."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.arange(len(of)) % 2
    for strata in (labels, labels[:, None] == np.arange(2)):
        for seed in range(5):
            train, held = heldout_split(strata, seed, 0.1, of)
            assert len(held) == min(sizes)
            assert len(np.unique(of[held])) == 1
            assert not np.intersect1d(of[train], of[held]).size


def test_what_no_other_group_has_is_not_held_out():
    labels, of = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 1])
    train, held = heldout_split(labels, 0, 0.5, of)  # class 0 is group 0's alone, 2 group 1's
    assert (len(train), len(held)) == (6, 0)


def test_an_example_without_a_group_is_its_own():
    found = alone(np.array([3, -1, 0, -1, 3]))
    assert found[0] == found[4]
    assert len(np.unique(found)) == 4


def test_draws_of_groups_count_groups_and_larger_ones_hold_smaller_ones():
    labels, of = np.arange(120) % 3, np.arange(120) // 6  # each of 20 groups has 2 of each class
    draws = {k: draw(labels, list("abc"), shots=k, seed=5, groups=of) for k in (1, 3)}
    for k, rows in draws.items():
        for label in range(3):
            mine = rows[labels[rows] == label]
            assert len(np.unique(of[mine])) == k
            assert len(mine) == 2 * k
    assert set(draws[1]) < set(draws[3])
    with pytest.raises(IceprobeError, match=r"only 20 training groups, take --shots 20"):
        draw(labels, list("abc"), shots=21, groups=of)


def test_draws_of_tags_have_each_tag_and_larger_ones_hold_smaller_ones():
    found = tags()
    few = {k: draw(found, list("abcd"), shots=k, seed=2) for k in (1, 4)}
    for k, rows in few.items():
        assert (found[rows].sum(0) >= k).all()
        assert len(rows) <= 4 * k
    assert set(few[1]) < set(few[4])
    parts = {f: draw(found, list("abcd"), fraction=f, seed=2) for f in (0.1, 0.5)}
    for fraction, rows in parts.items():
        assert found[rows].any(0).all()
        assert 400 * fraction <= len(rows) <= 400 * fraction + 4
    assert set(parts[0.1]) < set(parts[0.5])
    of = groups()
    rows = draw(found, list("abcd"), fraction=0.3, seed=2, groups=of)
    taken = np.isin(of, of[rows])
    assert np.array_equal(np.flatnonzero(taken), rows)
    least = round(0.3 * len(np.unique(of)))
    assert least <= len(np.unique(of[rows])) <= least + 4
