"""Probes learn from augmented views in turn; everything is evaluated on the evaluation view."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage

import iceprobe
from iceprobe.fitting import phases
from iceprobe.fitting.context import vectors
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.shuffling import ROWS, Shuffle
from iceprobe.fitting.whitening import ledoit_wolf, whitening
from iceprobe.results import read_results
from iceprobe.store import extract_in_memory
from iceprobe.store.reader import Store
from iceprobe.store.split import StoredSplit
from tests.fitting.test_api import QUICK, Killed, content, kill_after, planted_dataset
from tests.store.conftest import make_backbone

K, CPU = 3, torch.device("cpu")
PROBES = ["knn", "linear?input=mean", "ep2"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    root = tmp_path_factory.mktemp("features")
    return iceprobe.extract(make_backbone(), planted_dataset(), root, batch_size=16, views=K)


@pytest.fixture(scope="module")
def plain() -> Store:
    return extract_in_memory(make_backbone(), planted_dataset(), batch_size=16)


def feed_of(split: StoredSplit, rows: np.ndarray, *inputs: str, shuffle: Shuffle = ROWS) -> Feed:
    return Feed(split, rows, set(inputs), CPU, torch.float32, shuffle, split.views)


@pytest.mark.parametrize("shuffle", [ROWS, Shuffle("blocks", held=300, buffer=12, block=3)])
def test_an_image_shows_each_view_once_in_as_many_epochs(store, shuffle):
    split = store["train"]
    rows = np.arange(5, 240, 7)
    feed = feed_of(split, rows, "patches", "class", "mean", "class+patches", shuffle=shuffle)
    by_view = {}
    for view in range(K):
        for row in rows:
            at = view * 240 + row
            by_view[split.views.mean[at].numpy().tobytes()] = (view, row, at)
    assert len(by_view) == K * len(rows)  # no two views are alike
    shown = []
    for epoch in range(2 * K):
        seen = {}
        for batch in feed.shuffled(8, seed=4, epoch=epoch):
            for i, mean in enumerate(batch.inputs["mean"]):
                view, row, at = by_view[mean.numpy().tobytes()]
                seen[row] = view
                assert batch.labels[i] == split.labels[row]
                patches, prefix = split.views.patches([at])[0].float(), split.views.prefix[at]
                assert torch.equal(batch.inputs["patches"][i], patches)
                assert torch.equal(batch.inputs["class"][i], prefix[0].float())
                both = torch.cat([prefix[:1].float(), patches])
                assert torch.equal(batch.inputs["class+patches"][i], both)
        assert set(seen) == set(rows)
        shown.append([seen[row] for row in rows])
        assert len(set(shown[-1])) == K  # images don't turn together
    for start in range(K + 1):
        cycle = np.sort(np.array(shown[start : start + K]), axis=0)
        assert (cycle == np.arange(K)[:, None]).all()
    again = [batch.labels for batch in feed.shuffled(8, seed=4, epoch=1)]
    other = [batch.labels for batch in feed.shuffled(8, seed=5, epoch=1)]
    assert not torch.equal(torch.cat(again), torch.cat(other))


def test_one_epochs_draw_depends_on_seed_and_epoch_alone(store):
    first, second = (feed_of(store["train"], np.arange(240), "mean") for _ in range(2))
    list(first.shuffled(32, seed=0, epoch=0))  # a resume begins later
    for one, other in zip(first.shuffled(32, 0, 5), second.shuffled(32, 0, 5), strict=True):
        assert torch.equal(one.inputs["mean"], other.inputs["mean"])


def test_whitening_is_of_the_views_that_are_trained_on(store):
    split, rows = store["train"], np.arange(0, 240, 2)
    feed = feed_of(split, rows, "mean", "patches")
    measured = whitening(lambda: vectors(feed, "mean", 50), 0.5, feed.copies)
    trained_on = np.concatenate([split.views.mean.numpy()[v * 240 + rows] for v in range(K)])
    np.testing.assert_allclose(measured.mean, trained_on.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(measured.std, trained_on.std(0), rtol=1e-5)
    evaluation = split.mean.numpy()[rows]
    assert np.abs(evaluation.std(0) / trained_on.std(0) - 1).max() > 0.01


def test_copies_of_a_vector_are_no_draws_of_their_own():
    """Views that are all alike tell no more than one: scikit-learn's shrinkage of one each."""
    vectors = torch.randn(30, 12, generator=torch.Generator().manual_seed(0)).double()
    vectors = (vectors - vectors.mean(0)) / vectors.std(0, correction=0)
    expected = ledoit_wolf_shrinkage(vectors.numpy(), assume_centered=True)
    copied = vectors.repeat(4, 1)
    covariance = copied.mT @ copied / 120
    fourth = float(copied.square().sum(1).square().sum())
    assert ledoit_wolf(covariance, fourth, 120, copies=4) == pytest.approx(expected, rel=1e-6)
    assert ledoit_wolf(covariance, fourth, 120) < 0.5 * expected


@pytest.mark.usefixtures("one_part")
@pytest.mark.parametrize("protocol", ["heldout", "paper"])
def test_training_reads_views_and_every_evaluation_the_evaluation_view(
    store, plain, tmp_path, monkeypatch, protocol
):
    read: dict[str, set[int]] = {"train": set(), "views": set(), "test": set()}
    names = {480: "views", 720: "views", 240: "train", 90: "test"}
    gather = StoredSplit.patches

    def spy(self, rows, *where):
        read[names[len(self)]] |= set(np.asarray(rows).tolist())
        return gather(self, rows, *where)

    monkeypatch.setattr(StoredSplit, "patches", spy)
    results = iceprobe.fit(store, PROBES, protocol=protocol, output=tmp_path / "run", **QUICK)
    assert read["views"] == set(range(K * 240))  # four epochs show three views of every image
    assert len(read["train"]) == (24 if protocol == "heldout" else 0)  # held out, a tenth
    assert read["test"] == set(range(90))
    said = {result.probe: result.training_images for result in read_results(tmp_path / "run")}
    assert said["ep2"] == said["linear?input=mean"] == "3 stored views, paper augmentation"
    assert said["knn"] == "evaluation view, without augmentation"
    knn, *trained = iceprobe.fit(plain, PROBES, protocol=protocol, output=tmp_path / "p", **QUICK)
    assert {r.training_images for r in trained} == {"evaluation view, without augmentation"}
    assert knn.top1 == results[0].top1
    for one, other in zip(results[1:], trained, strict=True):  # what was trained on is another
        ours, theirs = (dict(found.probes[0].named_parameters()) for found in (one, other))
        assert all(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_resumed_ends_as_never_stopped(store, tmp_path, monkeypatch):
    whole = iceprobe.fit(store, PROBES, output=tmp_path / "whole", **QUICK)
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    for moment in (17, 12):  # steps: in the third epoch of select, then in refit or before
        said = kill_after(moment)
        with pytest.raises(Killed):
            iceprobe.fit(store, PROBES, output=tmp_path / "killed", progress=said, **QUICK)
    resumed = iceprobe.fit(store, PROBES, output=tmp_path / "killed", **QUICK)
    assert content(resumed) == content(whole)


def test_held_and_streamed_and_in_memory_end_alike(store, tmp_path):
    ends = [
        iceprobe.fit(store, PROBES, output=tmp_path / f"{memory}", memory=memory, **QUICK)
        for memory in (1, 10**9)
    ]
    assert content(ends[0]) == content(ends[1])
    memory = extract_in_memory(make_backbone(), planted_dataset(), batch_size=16, views=K)
    ends.append(iceprobe.fit(memory, PROBES, output=tmp_path / "memory", **QUICK))
    assert [r.top1 for r in ends[2]] == [r.top1 for r in ends[0]]


def test_few_labels_are_drawn_in_all_views(store, tmp_path):
    few = dict(shots=4, replicates=2, epochs=3, learning_rates=[1e-2])
    results = iceprobe.fit(store, ["linear?input=mean", "ep2"], output=tmp_path / "run", **few)
    for result in results:
        assert result.train_images == 12
        assert result.training_images == "3 stored views, paper augmentation"
