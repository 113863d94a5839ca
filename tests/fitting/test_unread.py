"""The test split is unreadable until every probe is selected and refitted, and nobody notices."""

import shutil

import pytest

import iceprobe
from iceprobe.fitting import selection
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit
from tests.fitting.test_api import content, planted_dataset
from tests.store.conftest import make_backbone

PROBES = ["linear", "linear?input=mean", "ep4", "aim2", "abmilp", "mean_value"]
FIT = dict(seeds=2, epochs=2, batch_size=32)
TEST_IMAGES = 90


@pytest.fixture
def path(tmp_path):
    store = iceprobe.extract(make_backbone(), planted_dataset(), tmp_path / "features")
    return store.path


class Locked(Exception):
    pass


@pytest.fixture
def lock(monkeypatch, path):
    """Readers of the test split raise, and its shards lie elsewhere, until predictions are made.

    (A shard that is open stays readable wherever its file goes; nobody can open it anew.)
    """
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    shards = sorted(path.glob("test-*.safetensors"))
    assert shards
    state = {"locked": False, "opened": 0}

    def close() -> None:
        state["locked"] = True
        for shard in shards:
            shutil.move(shard, elsewhere / shard.name)

    def open_() -> None:
        state["locked"] = False
        state["opened"] += 1
        for shard in shards:
            shutil.move(elsewhere / shard.name, shard)

    for name in ("rows", "patches", "vector", "hold"):
        method = getattr(StoredSplit, name)

        def guarded(self, *rest, method=method, name=name, **named):
            if state["locked"] and len(self) == TEST_IMAGES:
                raise Locked(f"{name} of the test split is read early")
            return method(self, *rest, **named)

        monkeypatch.setattr(StoredSplit, name, guarded)
    predict = selection.predict_all

    def last(groups, feed, *rest):
        assert feed.split.shape is not None
        if len(feed) == TEST_IMAGES and state["locked"]:
            open_()
        return predict(groups, feed, *rest)

    monkeypatch.setattr(selection, "predict_all", last)
    return close, state


def test_a_fit_reads_the_test_split_when_all_is_selected_and_refitted(path, tmp_path, lock):
    close, state = lock
    whole = iceprobe.fit(path, PROBES, output=tmp_path / "whole", **FIT)
    store = Store.open(path)
    assert len(store["test"].labels) == TEST_IMAGES  # classes alone are known before
    close()
    results = iceprobe.fit(store, PROBES, output=tmp_path / "run", **FIT)
    assert state == {"locked": False, "opened": 1}
    assert content(results) == content(whole)


@pytest.mark.parametrize("early", ["tune", "fit_linear"])
def test_whoever_reads_it_early_is_caught(path, tmp_path, lock, monkeypatch, early):
    """The check can fail: a selection that looks at one test image ends in `Locked`."""
    close, _ = lock
    store = Store.open(path)
    assert len(store["test"].labels) == TEST_IMAGES
    close()
    real = getattr(selection, early)

    def peeks(*rest, **named):
        store["test"].rows("mean", [0])
        return real(*rest, **named)

    monkeypatch.setattr(selection, early, peeks)
    with pytest.raises(Locked, match="read early"):
        iceprobe.fit(store, PROBES, output=tmp_path / "run", **FIT)
