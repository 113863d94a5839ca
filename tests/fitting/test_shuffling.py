"""Orders of an epoch: every image once, the same again, mixed whatever lies beside what."""

import logging
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting import feed as feeds
from iceprobe.fitting import phases, selection
from iceprobe.fitting.feed import Feed, split_batches
from iceprobe.fitting.memory import StepMemory
from iceprobe.fitting.shuffling import ROWS, Shuffle, block_order, choose_shuffle
from iceprobe.store import Store, reader
from tests.fitting.test_api import QUICK, Killed, content, kill_after, planted_dataset
from tests.store.conftest import make_backbone

CPU = torch.device("cpu")
BLOCKS = Shuffle("blocks", held=60, buffer=80, block=7)


def steps(n=1000, held=0, buffer=200, block=3, batch=25, seed=(0, 0)):
    sizes = [len(b) for b in split_batches(np.arange(n), batch)]
    shuffle = Shuffle("blocks", held, buffer, block)
    return list(block_order(np.arange(n) < held, shuffle, sizes, np.random.default_rng(seed)))


@pytest.mark.parametrize(
    ("n", "held", "buffer", "block", "batch"),
    [
        (1000, 0, 200, 3, 25),
        (1000, 300, 200, 3, 25),
        (997, 100, 210, 13, 52),
        (101, 0, 101, 10, 25),  # all of it in the buffer; a last batch of 26
        (101, 101, 101, 10, 25),
    ],
)
def test_every_image_once_and_a_buffer_that_never_overflows(n, held, buffer, block, batch):
    loaded, taken, inside = [], [], set()
    for load, positions in steps(n, held, buffer, block, batch):
        inside |= set(load)
        assert len(inside) <= buffer
        streamed = positions[positions >= held]
        assert set(streamed) <= inside
        inside -= set(streamed)
        loaded += [*load]
        taken += [*positions]
    assert sorted(loaded) == list(range(held, n))
    assert sorted(taken) == list(range(n))


def test_blocks_are_neighbours_and_come_from_all_over():
    load, _ = steps(block=5, buffer=200)[0]
    jumps = np.flatnonzero(np.diff(load) != 1)
    assert 190 < len(load) <= 200
    assert len(jumps) <= 41
    assert np.ptp(load[jumps]) > 800


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed):
        return np.concatenate([batch for _, batch in steps(seed=seed)])

    assert (order((0, 1)) == order((0, 1))).all()
    for other in ((0, 2), (1, 1)):
        assert (order((0, 1)) == order(other)).mean() < 0.02


def test_images_sorted_by_class_come_mixed():
    """Ten classes of 100, a buffer of a fifth, batches of 25: how far counts lie from 2.5 each.

    Of 25 images drawn from all at random Σ (count − 2.5)² is 22 in expectation, and 562 of images
    of one class. Two blocks in the buffer are what reading whole shards would be.
    """

    def spread(block, held=0):
        batches = [batch for _, batch in steps(block=block, held=held)]
        counts = [np.bincount(np.sort(b) // 100, minlength=10) for b in batches]
        return np.mean([((c - 2.5) ** 2).sum() for c in counts])

    assert spread(3) < 35
    assert spread(100) > 100
    assert spread(3, held=200) < 35


def test_held_images_come_evenly():
    held = [int((batch < 300).sum()) for _, batch in steps(held=300)]
    assert abs(np.mean(held[:20]) - 7.5) < 2
    assert max(held) < 18


@pytest.mark.parametrize(
    ("asked", "memory", "cache", "expected"),
    [
        ("auto", 10_000, 0, Shuffle()),  # all fits
        ("blocks", 10_000, 0, Shuffle()),
        ("rows", 100, 0, Shuffle()),
        ("auto", 100, 10_000, Shuffle()),  # the page cache holds it
        ("auto", 100, None, Shuffle()),
        ("auto", 100, 9_999, Shuffle("blocks", 0, 16, 1)),  # four batches at least
        ("blocks", 100, 10_000, Shuffle("blocks", 0, 16, 1)),
        ("blocks", 5_120, 10_000, Shuffle("blocks", 256, 256, 4)),
    ],
)
def test_what_is_chosen(asked, memory, cache, expected):
    assert choose_shuffle(asked, 1000, 10, memory, cache, batch_size=4) == expected


@pytest.mark.parametrize("tokens", ["float16", "int8"])
@pytest.mark.parametrize("held", [0, 60])
def test_batches_are_the_stored_tokens_each_read_once(tmp_path, monkeypatch, tokens, held):
    path = iceprobe.extract(
        make_backbone(), planted_dataset(), tmp_path, tokens=tokens, shard_images=50
    ).path
    split = Store.open(path)["train"]
    everything = split.patches(np.arange(240), CPU, torch.float32)
    streaming = split.hold(held * split.patch_bytes // 240)
    assert int(streaming.resident.sum()) == held

    rows = np.setdiff1d(np.arange(240), [0, 50, 51, 100, 239])  # as when some are held out
    shuffle = Shuffle("blocks", held, 80, 7)
    feed = Feed(streaming, rows, {"patches", "mean"}, CPU, torch.float32, shuffle)
    reads = []
    read_rows = reader.Shard.read_rows

    def counted(self, name, wanted, out, places, room):
        reads.extend([name] * len(wanted))
        return read_rows(self, name, wanted, out, places, room)

    monkeypatch.setattr(reader.Shard, "read_rows", counted)
    order = {}
    for epoch in (0, 1, 0):
        reads.clear()
        found, labels = [], []
        for batch in feed.shuffled(16, seed=3, epoch=epoch):
            found.append(torch.cat([batch.inputs["patches"].flatten(1), batch.inputs["mean"]], 1))
            labels.append(batch.labels)
        assert reads.count("patches") == int((rows >= held).sum())
        got = torch.cat(found)
        assert epoch not in order or torch.equal(got, order[epoch])
        order[epoch] = got
        wanted = torch.cat([everything[rows].flatten(1), split.mean[torch.from_numpy(rows)]], 1)
        where = torch.cdist(got.double(), wanted.double()).argmin(1)
        assert sorted(where.tolist()) == list(range(len(rows)))
        assert torch.equal(got, wanted[where])
        assert (torch.cat(labels).numpy() == split.labels[rows][where.numpy()]).all()
    assert not torch.equal(order[0], order[1])


def test_rows_are_a_permutation_of_the_seed_and_epoch(train):
    feed = Feed(train, np.arange(150), {"patches"}, CPU, torch.float32)
    order = np.random.default_rng((4, 2)).permutation(150)
    batches = list(feed.shuffled(40, seed=4, epoch=2))
    assert [len(batch.labels) for batch in batches] == [40, 40, 40, 30]
    got = torch.cat([batch.inputs["patches"] for batch in batches])
    assert torch.equal(got, train.tokens[torch.from_numpy(order)])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return iceprobe.extract(make_backbone(), planted_dataset(), root, shard_images=50)


PROBES = ["ep4", "linear?input=mean"]


@pytest.fixture
def free_steps(monkeypatch):
    """Steps and searches that take nothing, so that a few kilobytes of budget hold tokens."""
    monkeypatch.setattr(selection, "solver_bytes", lambda *arguments: 0)
    monkeypatch.setattr(selection, "step_memory", lambda *arguments: StepMemory(0, 0, 16))


def test_a_fit_out_of_blocks_learns_and_says_so(store, tmp_path, caplog, free_steps):
    options = QUICK | dict(batch_size=16)
    memory = 160 * 256 + 240 * 8 * 4  # of 160 images' tokens, beside all means
    with caplog.at_level(logging.INFO, logger="iceprobe"):
        ep, linear = iceprobe.fit(
            store, PROBES, memory=memory, shuffle="blocks", output=tmp_path / "a", **options
        )
    assert "80 of 240 examples in memory, the rest streamed from disk, blocks of 1" in caplog.text
    assert (ep.training["shuffle"], ep.training["buffer_images"]) == ("blocks", 80)
    assert "shuffle" not in linear.training  # learned to its optimum, on all of them at once
    assert ep.top1.mean > 0.6  # of three classes
    by_rows = iceprobe.fit(store, PROBES, output=tmp_path / "b", **options)
    assert by_rows[0].training["shuffle"] == "rows"
    assert "buffer_images" not in by_rows[0].training
    assert abs(ep.top1.mean - by_rows[0].top1.mean) < 0.1


def test_what_is_streamed_at_random_trains_as_what_is_held(store, tmp_path, free_steps):
    """Also where part of a batch is in memory; means beyond the budget are read from disk."""
    held = iceprobe.fit(store, PROBES, output=tmp_path / "held", **QUICK)
    for memory in (1, 1000, 20_000):
        some = iceprobe.fit(
            store, PROBES, memory=memory, shuffle="rows", output=tmp_path / f"{memory}", **QUICK
        )
        assert content(some) == content(held)


def test_an_interrupted_fit_keeps_its_order_whatever_memory_there_is(
    store, tmp_path, monkeypatch, free_steps
):
    options = QUICK | dict(batch_size=16, shuffle="blocks")
    whole = iceprobe.fit(store, PROBES, memory=40_000, output=tmp_path / "whole", **options)
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    for steps_done in (20, 70):  # in select and in refit
        run = tmp_path / f"{steps_done}"
        with pytest.raises(Killed):
            iceprobe.fit(
                store, PROBES, memory=40_000, output=run, progress=kill_after(steps_done), **options
            )
        again = iceprobe.fit(store, PROBES, memory=10**9, output=run, **options)
        assert content(again) == content(whole)


def test_wrong_order(store, tmp_path):
    with pytest.raises(IceprobeError, match=r"unknown shuffle 'block'\. Did you mean blocks"):
        iceprobe.fit(store, PROBES, shuffle="block", output=tmp_path / "r", **QUICK)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("shuffle", [ROWS, BLOCKS], ids=["rows", "blocks"])
def test_the_next_batch_is_read_while_this_one_is_in_use(train, monkeypatch, shuffle):
    monkeypatch.setattr(type(train), "buffer", lambda self, rows: Untouched(self), raising=False)
    feed = Feed(train, np.arange(150), {"patches"}, CPU, torch.float32, shuffle)
    asked: list[Future] = []

    class Watched(ThreadPoolExecutor):
        def submit(self, *arguments):
            asked.append(super().submit(*arguments))
            return asked[-1]

    monkeypatch.setattr(feeds, "ThreadPoolExecutor", Watched)
    batches = feed.shuffled(25, seed=0, epoch=0)
    next(batches)
    assert len(asked) == 2  # and not more: memory holds two batches
    asked[1].result(timeout=60)  # comes without another call
    assert len(list(batches)) == 5


class AtOnce:
    """A reader that has always read before its batch is asked for."""

    def __init__(self, _threads):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        done = Future()
        done.set_result(function(*arguments))
        return done


def test_a_fit_never_has_three_batches_however_fast_they_are_read(store, tmp_path, monkeypatch):
    """The one in use has been let go before the next but one is read."""
    monkeypatch.setattr(feeds, "ThreadPoolExecutor", AtOnce)
    alive, most, gather = weakref.WeakSet(), [], Feed._gather

    def watched(self, *arguments):
        batch = gather(self, *arguments)
        patches = batch.inputs.get("patches")
        if patches is not None:
            alive.add(patches)
            most.append(len(alive))
        return batch

    monkeypatch.setattr(Feed, "_gather", watched)
    iceprobe.fit(store, ["ep2", "abmilp"], output=tmp_path / "r", **QUICK)
    assert len(most) > 2 * 4 * 8
    assert max(most) == 2


class Untouched:
    """A buffer of a split that is in memory."""

    def __init__(self, split):
        self.split = split

    def clear(self):
        pass

    def load(self, rows):
        pass

    forget = load
