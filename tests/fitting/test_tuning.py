"""The search for a setting: folds, grids that grow, and a fit that is killed in the middle of it."""

import logging
from dataclasses import replace

import numpy as np
import pytest

import iceprobe
from iceprobe.fitting import phases, selection
from iceprobe.fitting.phase import Dropped, Phase
from iceprobe.fitting.selection import records
from iceprobe.fitting.stacked import Member
from iceprobe.probes.registry import PROBES
from iceprobe.protocols.choosing import choose
from iceprobe.protocols.heldout import Fold, Folds, cross_validation, folds_of
from iceprobe.protocols.protocol import PROTOCOLS, evaluation_epochs, get_protocol
from iceprobe.results import read_curves
from tests.fitting.test_api import Killed, assert_same_run, kill_after, planted_dataset
from tests.store.conftest import make_backbone

FIT = dict(seeds=2, epochs=6, batch_size=32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return iceprobe.extract(make_backbone(), planted_dataset(), root, batch_size=16)


@pytest.fixture
def rates(monkeypatch):
    """``rates(kind, …)``: default learning rates of a kind of probe."""

    def give(name: str, *values: float) -> None:
        monkeypatch.setitem(PROBES._entries, name, replace(PROBES[name], learning_rates=values))

    return give


# ---------------------------------------------------------------- folds


@pytest.mark.parametrize("counts", [[100, 40, 11], [2, 2, 2, 2], [1, 2, 7], [23]])
def test_every_image_is_held_out_once_and_no_class_whole(counts):
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
    folds = cross_validation(labels, seed=0, folds=5)
    held = np.concatenate([fold.held_out for fold in folds])
    single = [label for label, count in enumerate(counts) if count == 1]
    assert sorted(held) == np.flatnonzero(~np.isin(labels, single)).tolist()
    sizes = [len(fold.held_out) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert sorted([*fold.train, *fold.held_out]) == list(range(len(labels)))
        assert set(labels[fold.train]) == set(labels)
        of_class = np.bincount(labels[fold.held_out], minlength=len(counts))
        for count, found in zip(counts, of_class, strict=True):
            assert found in ((0,) if count == 1 else (count // 5, -(-count // 5)))


def test_folds_are_seeded_and_repeats_differ():
    labels = np.arange(60) % 3
    first, same, other, again = (
        [fold.held_out.tolist() for fold in cross_validation(labels, seed, 5, repeat)]
        for seed, repeat in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert first == same
    assert first != other
    assert first != again


def test_what_is_held_out_is_said():
    heldout = get_protocol("heldout")
    few, many = np.arange(1199) % 10, np.arange(1200) % 10
    assert (
        folds_of(few, 0, replace(heldout, repeats=1)).description
        == "5-fold cross-validation of train"
    )
    found = folds_of(few, 0, replace(heldout, repeats=2))
    assert found.description == "5-fold cross-validation of train, 2 times"
    assert len(found.folds) == 10
    assert folds_of(many, 0, heldout).description == "held-out 10% of train"
    halves = folds_of(np.arange(2000) // 2, 0, heldout)  # two images a class
    assert halves.description == "held-out 50% of train"
    four = folds_of(np.arange(4) // 2, 0, heldout)  # fewer images than folds
    assert (len(four.folds), four.description) == (4, "4-fold cross-validation of train")
    nothing = folds_of(np.arange(20), 0, heldout)  # one image a class
    assert list(nothing.folds) == []


def test_evaluations_are_spread_over_a_schedule_and_end_with_it():
    heldout = get_protocol("heldout", min_steps=0)
    assert evaluation_epochs(replace(heldout, epochs=20)) == list(range(1, 21))
    found = evaluation_epochs(replace(heldout, epochs=401))
    assert len(found) <= heldout.evaluations
    assert found[-1] == 401
    assert set(np.diff(found)) == {9}


def test_records_are_means_over_seeds_and_over_the_folds_that_held_an_image_out():
    parts = Folds(
        [Fold(np.array([2, 3]), np.array([0, 1])), Fold(np.arange(2), np.array([1, 4]))], ""
    )
    members = [Member("ep4", 0.1, 0.0, seed) for seed in (0, 1)]
    bits = [
        # evaluations × members × images held out
        [[[1, 0], [0, 0]], [[1, 1], [1, 0]]],
        [[[0, 1], [0, 0]], [[1, 1], [0, 0]]],
    ]
    found = []
    for fold, right in enumerate(bits):
        packed = np.packbits(np.array(right, np.uint8), axis=-1)
        found.append(Phase("select", members, fold=fold, evaluations=[1, 2], scores=packed))
    (one,) = records("ep4", found, parts, np.array([0, 1, 4]))
    assert one.epochs == [1, 2]
    np.testing.assert_allclose(one.scores, [[0.5, 0.0, 0.5 * 1], [1.0, 0.5, 0.5]])
    assert (one.lost, one.ended) == (False, False)
    found[1].dropped = [Dropped(members[1], 1, "diverged")]
    assert records("ep4", found, parts, np.array([0, 1, 4]))[0].lost
    found[1].dropped = [Dropped(member, 1, "beaten") for member in members]
    (one,) = records("ep4", found, parts, np.array([0, 1, 4]))
    assert (one.ended, one.epochs, one.scores.shape) == (True, [1], (1, 3))
    assert records("aim4", found, parts, np.array([0, 1, 4])) == []


def test_few_images_select_on_folds_a_seed_each_in_turn(store, tmp_path):
    (result,) = iceprobe.fit(
        store, ["ep4"], output=tmp_path / "run", learning_rates=[0.01, 0.03], **FIT
    )
    assert result.selected_on == "5-fold cross-validation of train"
    rows = [row for row in read_curves(tmp_path / "run") if row.phase == "select"]
    assert {(row.fold, row.seed) for row in rows} == {(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)}
    assert len(rows) == 5 * 2 * 6
    assert result.seeds == [0, 1]
    assert result.settings_tried == 2


# ---------------------------------------------------------------- grids that grow


def test_a_grid_grows_until_its_best_is_inside_or_the_bound_is_reached(
    store, tmp_path, rates, caplog
):
    rates("ep", 1e-4, 3e-4)  # far too small: the best is the largest, twice more
    rates("aim", 1e-3, 1e-2, 1.0)
    with caplog.at_level(logging.INFO, "iceprobe"):
        ep, aim = iceprobe.fit(store, ["ep4", "aim4"], output=tmp_path / "run", **FIT)
    assert ep.training["learning_rates"] == [1e-4, 3e-4, 1e-3, 3e-3]
    assert (ep.selected["learning_rate"], ep.settings_tried) == (3e-3, 4)
    assert aim.training["learning_rates"] == [1e-3, 1e-2, 1.0]
    assert aim.settings_tried == 3
    said = [r.message for r in caplog.records if "edge" in r.message]
    assert said == [
        "ep4: the best learning rate, 0.0003, lies at the edge of what was tried (0.0001, 0.0003): 0.001 as well",
        "ep4: the best learning rate, 0.001, lies at the edge of what was tried "
        "(0.0001, 0.0003, 0.001): 0.003 as well",
    ]
    rows = [row for row in read_curves(tmp_path / "run") if row.phase == "select"]
    tried = {(row.probe, row.learning_rate) for row in rows}
    assert ("ep4", 3e-3) in tried
    assert ("aim4", 3e-3) not in tried  # for that probe alone


def test_halved_and_grown_settings_are_evaluated_after_the_same_epochs(
    store, tmp_path, rates, monkeypatch
):
    """Of 60 epochs every second is looked at, and 15, a rung: so are those of a rate that came later."""
    monkeypatch.setitem(PROTOCOLS, "heldout", replace(PROTOCOLS["heldout"], folds_below=0))
    rates("ep", 1e-5, 3e-5)
    seen = []

    def said(found, *rest):
        for one in found:
            assert len(one.epochs) == len(one.scores)
        seen.append({tuple(one.epochs) for one in found if not one.ended})
        return choose(found, *rest)

    monkeypatch.setattr(selection, "choose", said)
    (result,) = iceprobe.fit(
        store, ["ep4"], output=tmp_path / "run", halving=True, **FIT | dict(epochs=60, seeds=1)
    )
    assert result.settings_tried > 2
    assert seen[-1] == {tuple(sorted({*range(2, 61, 2), 15}))}
    rows = [row for row in read_curves(tmp_path / "run") if row.phase == "select"]
    grown = max(row.learning_rate for row in rows)
    looked = {row.epoch for row in rows if row.learning_rate == grown and row.eval_accuracy}
    assert looked == {*range(2, 61, 2), 15}


def test_a_users_own_grid_stays(store, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "iceprobe"):
        (result,) = iceprobe.fit(
            store, ["ep4"], output=tmp_path / "run", learning_rates=[1e-5, 3e-5], **FIT
        )
    assert result.settings_tried == 2
    assert "as well" not in caplog.text


def test_a_grown_rate_trains_as_one_that_was_there(store, tmp_path, rates):
    """A member that joins later ends where it ends among the others."""
    rates("ep", 1e-4, 3e-4)
    iceprobe.fit(store, ["ep4"], output=tmp_path / "grown", **FIT)
    rates("ep", 1e-4, 3e-4, 1e-3, 3e-3)
    iceprobe.fit(store, ["ep4"], output=tmp_path / "given", **FIT)
    accuracies = [
        {
            (row.fold, row.seed, row.epoch, row.learning_rate): row.eval_accuracy
            for row in read_curves(tmp_path / name)
            if row.phase == "select" and row.learning_rate <= 3e-3
        }
        for name in ("grown", "given")
    ]
    assert accuracies[0].keys() == accuracies[1].keys()
    for key, accuracy in accuracies[0].items():
        assert accuracies[1][key] == pytest.approx(
            accuracy, abs=0.06
        )  # an image of 30, by rounding


@pytest.mark.parametrize("folds", [True, False])
def test_killed_while_a_grid_grows_ends_as_never_stopped(
    store, tmp_path, monkeypatch, rates, folds
):
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    if not folds:
        monkeypatch.setitem(PROTOCOLS, "heldout", replace(PROTOCOLS["heldout"], folds_below=0))
    rates("ep", 1e-3, 3e-3)
    rates("abmilp", 1e-2)
    fit = FIT | dict(epochs=2)
    whole = iceprobe.fit(store, ["ep4", "abmilp"], output=tmp_path / "whole", **fit)
    stages: list[str] = []
    moments = (31, 17, 44, 9) if folds else (9, 5, 13, 5)
    for moment in moments:  # steps of each session
        kill = kill_after(moment)

        def said(stage: str, done: int, total: int, kill=kill) -> None:
            stages.append(stage)
            kill(stage, done, total)

        with pytest.raises(Killed):
            iceprobe.fit(store, ["ep4", "abmilp"], output=tmp_path / "r", progress=said, **fit)
    resumed = iceprobe.fit(store, ["ep4", "abmilp"], output=tmp_path / "r", **fit)
    assert any("+" in stage for stage in stages)  # it was killed in a growth
    assert_same_run(whole, resumed, tmp_path)
