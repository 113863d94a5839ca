"""Few labels and complete repetitions."""

import numpy as np
import pytest

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import settle
from iceprobe.fitting import phases
from iceprobe.protocols.lowshot import draw
from iceprobe.protocols.protocol import repeated
from iceprobe.results import read_results
from iceprobe.settings import Fitting
from iceprobe.store import extract_in_memory
from tests.fitting.test_api import QUICK, Killed, content, kill_after, planted_dataset
from tests.store.conftest import make_backbone

LABELS = np.array([0] * 10 + [1] * 20 + [2] * 5)


@pytest.fixture(scope="module")
def store():
    return extract_in_memory(make_backbone(), planted_dataset())


def test_a_draw_takes_as_many_of_each_class_and_larger_ones_hold_smaller_ones():
    draws = {k: draw(LABELS, list("abc"), shots=k, seed=3) for k in (1, 3, 5)}
    for k, rows in draws.items():
        assert np.bincount(LABELS[rows]).tolist() == [k, k, k]
        assert len(set(rows.tolist())) == 3 * k
    assert set(draws[1]) < set(draws[3]) < set(draws[5])
    assert set(draws[5]) != set(draw(LABELS, list("abc"), shots=5, seed=4))


def test_a_fraction_is_of_each_class():
    rows = draw(LABELS, list("abc"), fraction=0.3)
    assert np.bincount(LABELS[rows]).tolist() == [3, 6, 2]
    assert np.bincount(LABELS[draw(LABELS, list("abc"), fraction=0.01)]).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"shots": 6}, "class 'c' has only 5 training images, take --shots 5"),
        ({"shots": 0}, "shots=0"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"shots": 1, "fraction": 0.1}, "one of the two"),
    ],
)
def test_wrong_draws_are_named(asked, says):
    def checked():
        settings = settle(Fitting, None, asked, "fit")
        draw(LABELS, list("abc"), shots=settings.shots, fraction=settings.fraction)

    with pytest.raises(IceprobeError, match=says):
        checked()


def test_low_shot_results_are_of_the_images_drawn(store, tmp_path):
    few = dict(shots=4, replicates=3, epochs=6, learning_rates=[1e-2])
    results = iceprobe.fit(store, ["knn", "linear", "ep4"], output=tmp_path / "run", **few)
    for result in results:
        assert (result.train_images, result.shots, result.variance) == (12, 4, "replicates")
        assert len(result.top1.values) == len(result.seeds) == 3
        assert result.predictions().predicted.shape == (3, len(store["test"]))
    again = read_results(tmp_path / "run")
    assert content(again) == content(results)
    assert [len(r.files.probes) for r in again] == [0, 3, 3]


def test_a_replicate_is_the_fit_of_its_own_draw(store, tmp_path):
    """Replicate 1 against a fit of the images it drew, with its seeds, by itself."""
    few = dict(epochs=6, learning_rates=[1e-3, 1e-2])
    (both,) = iceprobe.fit(store, ["ep4"], output=tmp_path / "both", shots=4, replicates=2, **few)
    drawn = store.take("train", draw(store["train"].labels, store.classes, shots=4, seed=1))
    assert len(drawn["train"]) == 12
    (alone,) = iceprobe.fit(drawn, ["ep4"], output=tmp_path / "alone", run_seed=1, seeds=2, **few)
    # `alone` chooses by the mean of two seeds; the second of them is the replicate's.
    if alone.selected == {k: str(v).split(", ")[-1] for k, v in both.selected.items()}:
        assert alone.top1.values[1] == both.top1.values[1]
    patches = store["train"].patches(np.arange(240))
    rows = draw(store["train"].labels, store.classes, shots=4, seed=1)
    assert (drawn["train"].patches([3, 0]) == patches[rows[[3, 0]]]).all()
    assert (drawn["train"].mean == store["train"].mean[rows]).all()


def test_one_shot_selects_nothing_and_says_so(store, tmp_path):
    one = dict(shots=1, replicates=2, epochs=3, learning_rates=[1e-3, 1e-2, 1e-1])
    knn, ep = iceprobe.fit(store, ["knn", "ep4"], output=tmp_path / "run", **one)
    assert ep.selected == {"learning_rate": 1e-2, "weight_decay": 0.0, "epoch": 3}
    for result in (knn, ep):
        assert result.selected_on.startswith("nothing")
        assert result.settings_tried == 1


@pytest.mark.parametrize(
    "calls", [pytest.param(5, marks=pytest.mark.slow), 40, pytest.param(70, marks=pytest.mark.slow)]
)
def test_killed_replicates_end_as_ones_that_were_not(store, tmp_path, monkeypatch, calls):
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    ask = dict(probes=["linear", "ep4"], replicates=3, **{**QUICK, "learning_rates": [1e-2]})
    ask.pop("seeds")
    whole = iceprobe.fit(store, output=tmp_path / "whole", **ask)
    with pytest.raises(Killed):
        iceprobe.fit(store, output=tmp_path / "killed", progress=kill_after(calls), **ask)
    resumed = iceprobe.fit(store, output=tmp_path / "killed", **ask)
    assert content(resumed) == content(whole)
    assert not list((tmp_path / "killed").glob("state*"))


@pytest.mark.parametrize(
    ("asked", "trained", "held_out", "low_shot", "expected"),
    [
        ((None, None), 2, 0.1, False, (3, 5)),  # compared: replicates
        ((None, None), 1, 0.1, False, (3, None)),  # alone
        ((None, None), 2, 0, False, (3, None)),  # paper
        ((1, None), 4, 0.1, False, (1, None)),  # who names seeds gets seeds
        ((None, 2), 1, 0.1, False, (3, 2)),
        ((4, 2), 3, 0.1, False, (4, 2)),
        ((None, None), 1, 0, True, (3, 5)),  # other images in each
        ((1, None), 1, 0.1, True, (1, 5)),
        ((None, 2), 2, 0.1, True, (3, 2)),
    ],
)
def test_what_is_compared_is_repeated_whole(asked, trained, held_out, low_shot, expected):
    found = repeated(*asked, trained=trained, held_out=held_out, low_shot=low_shot)
    assert found == expected


@pytest.mark.slow
def test_fit_and_plan_repeat_what_is_compared(store, tmp_path):
    quick = {name: value for name, value in QUICK.items() if name != "seeds"}
    results = iceprobe.fit(store, ["knn", "linear", "ep2"], output=tmp_path / "two", **quick)
    assert [(len(one.seeds), one.variance) for one in results] == [(5, "replicates")] * 3
    (alone,) = iceprobe.fit(store, ["ep2"], output=tmp_path / "one", **quick)
    assert (alone.seeds, alone.variance) == ([0, 1, 2], "initialisation")
    (quickly, _) = iceprobe.probe(make_backbone(), planted_dataset(), ["linear", "ep2"], **quick)
    assert quickly.seeds == [0]  # during pre-training: once
