"""Examples of several lengths: a batch in padded pieces trains as its examples alone would."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.engine import JointTrainer, group_losses, predict
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import make_groups
from iceprobe.fitting.memory import cutting_of, step_memory
from iceprobe.fitting.pieces import OVERHEAD, Cutting
from iceprobe.fitting.shuffling import Shuffle
from iceprobe.fitting.stacked import Member
from iceprobe.probes.probe import build_for
from iceprobe.protocols.protocol import get_protocol
from iceprobe.store import Store
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.classification import Classification
from tests.fitting.conftest import CLASSES, DIM
from tests.fitting.test_engine import float64  # noqa: F401

CPU = torch.device("cpu")
PROBES = ["ep4", "ep2?out_dim=12", "aim4", "mhca4", "abmilp", "block4", "slot2", "mean_value",
          "siglip4", "cae4", "cait4", "coca2", "simpool", "vjepa4", "linear?input=mean",
          "ep4?complementarity=0.3&entropy=0.2"]  # fmt: skip


def bags(n: int, seed: int, longest: int = 60) -> tuple[list[np.ndarray], np.ndarray]:
    """Bags of 2 to ``longest`` tokens, in one of which the class is written."""
    rng, targets = np.random.default_rng(seed), np.arange(n) % CLASSES
    lengths = np.exp(rng.uniform(np.log(2), np.log(longest), n)).astype(int)
    found = []
    for target, length in zip(targets, lengths, strict=True):
        bag = rng.normal(size=(length, DIM)).astype(np.float32)
        place = rng.integers(length)
        bag[place, 0] += 6
        bag[place, 1 + target] += 4
        found.append(bag)
    return found, targets


@pytest.fixture(scope="module")
def store() -> Store:
    return iceprobe.from_tokens({"train": bags(90, 0), "test": bags(60, 1)})


@pytest.fixture(scope="module")
def few() -> StoredSplit:
    return iceprobe.from_tokens({"train": bags(30, 0), "test": bags(9, 1)})["train"]


@pytest.fixture
def split(store) -> StoredSplit:
    return store["train"]


def feed_of(split: StoredSplit, cutting: Cutting, drawn: int | None = None, **more) -> Feed:
    inputs, dtype = {"patches", "mean"}, torch.get_default_dtype()
    feed = Feed(split, np.arange(len(split)), inputs, CPU, dtype, **more)
    return feed.in_pieces(cutting, drawn)


ALL, STREAMED, ONE = Cutting(10**6, 10**9), Cutting(100, 0), Cutting(1, 10**9)


@pytest.mark.parametrize("cutting", [ALL, STREAMED, ONE, Cutting(300, 300)])
@pytest.mark.parametrize("lengths", ["spread", "alike", "one long"])
def test_a_batch_is_cut_into_pieces_that_are_full(cutting, lengths):
    rng = np.random.default_rng(0)
    sizes = {
        "spread": np.exp(rng.uniform(np.log(50), np.log(5000), 64)).astype(int),
        "alike": np.full(64, 196),
        "one long": np.array([100_000, *rng.integers(5, 9, 63)]),
    }[lengths]
    cuts, streamed = cutting.pieces(sizes)
    assert np.sort(np.concatenate(cuts)).tolist() == list(range(64))
    rows = [sizes[cut].max() * len(cut) for cut in cuts]
    for cut, padded in zip(cuts, rows, strict=True):
        assert padded <= cutting.at_once or len(cut) == 1
    assert streamed == (sum(rows) > cutting.held)
    if cutting is ALL and lengths == "spread":
        assert sum(rows) < 1.1 * sizes.sum()
        assert len(cuts) < 20  # not each alone


@pytest.mark.parametrize("at_once", [700, 10**6])
def test_no_other_pieces_would_take_less(at_once):
    """Against every way of cutting nine examples in their order."""
    for seed in range(5):
        sizes = np.random.default_rng(seed).integers(1, 900, 9)
        ordered, costs = np.sort(sizes)[::-1], []
        for ends in product([False, True], repeat=8):
            parts = np.split(ordered, np.flatnonzero(ends) + 1)
            if all(part[0] * len(part) <= at_once or len(part) == 1 for part in parts):
                costs.append(sum(part[0] * len(part) + OVERHEAD for part in parts))
        cuts, _ = Cutting(at_once, 0).pieces(sizes)
        assert sum(sizes[cut].max() * len(cut) + OVERHEAD for cut in cuts) == min(costs)


def test_drawn_tokens_of_large_bags_stay_in_memory():
    """A bag is read whole and alone, and what is drawn of it is held: nothing is read twice."""
    cuts, streamed = Cutting(1000, 1000).pieces(np.full(8, 1000), drawn=100)
    assert len(cuts) == 8
    assert not streamed
    assert Cutting(1000, 1000).pieces(np.full(8, 1000))[1]


def test_a_feed_never_hands_out_padding_without_a_mask(split):
    """Whoever makes it, and on a GPU as well, whose memory isn't counted."""
    feed = Feed(split, np.arange(len(split)), {"patches"}, CPU, torch.float32)
    handed = 0
    for batch in feed.in_order(32):
        assert "patches" not in batch.inputs
        handed += sum(int(mask.sum()) for _, mask in batch.pieces("patches"))
    assert handed == split.lengths.sum()
    context = SimpleNamespace(
        build=lambda label: build_for(split.shape, label, CLASSES), protocol=get_protocol("heldout"),
        device=torch.device("cuda"), shape=split.shape, max_tokens=None,
    )  # fmt: skip
    step = step_memory({"ep4": 1}, context, len(split), 1000)
    assert cutting_of(step, context, None) is not None


def test_a_sample_of_tokens_is_the_same_in_pieces():
    """Where all examples have as many: what is measured on it, coordinates, doesn't depend on --max-tokens."""
    x, y = np.random.default_rng(0).normal(size=(60, 12, DIM)).astype(np.float32), np.arange(60) % 3
    even = iceprobe.from_tokens({"train": (x, y), "test": (x[::2], y[::2])})["train"]
    whole = Feed(even, np.arange(60), {"patches"}, CPU, torch.float32)
    assert torch.equal(whole.sample("patches", 0), whole.in_pieces(ONE).sample("patches", 0))


@pytest.mark.parametrize("cutting", [ALL, STREAMED, ONE])
@pytest.mark.parametrize("probe", PROBES)
def test_losses_and_gradients_are_those_of_the_examples_alone(few, cutting, probe, float64):  # noqa: F811
    """Descriptors of each example without padding, torch's batch norm over them, cross-entropy."""
    split = few
    members = [Member(probe, 1e-3, 0.0, seed) for seed in (0, 1)]
    (group,) = make_groups(members, split.shape, CLASSES, CPU)
    (batch,) = feed_of(split, cutting).in_order(len(split))
    losses = group_losses([group], batch, Classification())[0]
    losses.sum().backward()
    for g, member in enumerate(members):
        module = build_for(split.shape, probe, CLASSES, member.seed).train()
        examples = [split.patches([row])[0].double() for row in range(len(split))]
        if module.input == "mean":  # kept in float32
            examples = list(split.mean[:, None].double())
        if probe.startswith("aim"):  # normalised over the tokens of the batch
            every = torch.cat(examples)
            norm = (every - every.mean(0)) * (every.var(0, correction=0) + 1e-6).rsqrt()
            keys = module.pooling.normalised_queries()
            parts = norm.split([len(one) for one in examples])
            pooled = torch.stack([torch.softmax(keys @ x.T, -1) @ x for x in parts])
            descriptors = torch.cat(
                [pooled[:, j] @ w.T for j, w in enumerate(module.pooling.value.weight.chunk(4))],
                1,
            )
        else:
            descriptors = torch.cat([module.pooling(one[None]) for one in examples])
        norm = module.norm
        if isinstance(norm, torch.nn.BatchNorm1d):
            descriptors = F.batch_norm(descriptors, None, None, training=True, eps=norm.eps)
        expected = F.cross_entropy(module.classifier(descriptors), batch.labels)
        if module.regularisation:
            expected = expected + torch.stack([module.penalty(x[None]) for x in examples]).mean()
        torch.testing.assert_close(losses[g], expected, rtol=1e-9, atol=1e-9)
        expected.backward()
        for name, parameter in module.named_parameters():
            wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found = group.parameters[name].grad[g]
            scale = max(1e-6, float(wanted.abs().max()))
            torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8 * scale + 1e-11)


def test_pieces_change_no_weight(few, float64):  # noqa: F811
    """Held in a few pieces, one example a piece, and read again for the backward pass."""
    split = few
    ends = []
    for cutting in (ALL, STREAMED, ONE):
        members = [Member(probe, 3e-3, 0.01, seed) for probe in PROBES for seed in (0, 1)]
        groups = make_groups(members, split.shape, CLASSES, CPU)
        trainer = JointTrainer(groups, "lars", steps=6, warmup=2)
        for epoch in range(2):
            for batch in feed_of(split, cutting).shuffled(10, seed=0, epoch=epoch):
                trainer.train_step(batch)
        records = predict(groups, feed_of(split, cutting).in_order(13), Classification())
        ends.append([[p.state_dict() for g in groups for p in g.probes()], records])
    for states, records in ends[1:]:
        for mine, first in zip(states, ends[0][0], strict=True):
            for name, tensor in mine.items():
                torch.testing.assert_close(tensor, first[name], rtol=1e-7, atol=1e-9)
        for mine, first in zip(records, ends[0][1], strict=True):
            torch.testing.assert_close(mine["logits"].float(), first["logits"].float(), rtol=1e-2, atol=1e-3)  # fmt: skip


@pytest.mark.parametrize("cutting", [ALL, STREAMED, ONE])
def test_a_step_draws_other_tokens_of_each_example(split, cutting):
    """As many as asked for, each of its own bag and none twice, anew in every epoch; all of short bags."""
    feed, seen = feed_of(split, cutting, drawn=5), {}
    for epoch in range(2):
        for batch in feed.shuffled(32, seed=0, epoch=epoch):
            for tokens, mask in batch.pieces("patches"):
                for bag, real in zip(tokens, mask, strict=True):
                    _note(split, bag[real], epoch, seen)
    assert len(seen) == len(split)
    long = [row for row in seen if split.lengths[row] > 10]
    assert any(seen[row][0] != seen[row][1] for row in long)
    (batch,) = feed.in_order(len(split))  # all of them where nothing is learnt
    counts = batch.pieces("patches").joined([mask.sum(1) for _, mask in batch.pieces("patches")])
    assert counts.tolist() == split.lengths.tolist()


def _note(split: StoredSplit, bag: Tensor, epoch: int, seen: dict) -> None:
    for row, length in enumerate(split.lengths.tolist()):
        own = split.patches([row])[0].to(bag.dtype)
        places = [int(p) for one in bag for p in (own == one).all(1).nonzero()]
        if places:
            assert len(bag) == min(5, length) == len(set(places)) == len(places)
            seen.setdefault(row, {})[epoch] = places
            return
    raise AssertionError("tokens of no bag")


def test_a_buffer_mixes_bags_and_keeps_to_its_size(split, monkeypatch):
    held = []
    monkeypatch.setattr("iceprobe.fitting.feed.Buffer.load", _watched(held))
    feed = feed_of(split, ALL, shuffle=Shuffle("blocks", 10, 30, 3))
    rows = [
        round(float(token), 4)
        for batch in feed.shuffled(8, seed=0, epoch=0)
        for tokens, mask in batch.pieces("patches")
        for token in tokens[:, 0, 0]
    ]
    own = [round(float(split.patches([row])[0, 0, 0]), 4) for row in range(len(split))]
    assert sorted(rows) == sorted(own)
    assert rows != own
    assert max(held) <= 30 * split.lengths.mean() + 3 * 60


def _watched(held: list):
    from iceprobe.fitting.feed import Buffer

    load = Buffer.load

    def watched(self: Buffer, rows: np.ndarray) -> None:
        load(self, rows)
        held.append(sum(len(one) for one in self._room["patches"]))

    return watched


@pytest.mark.parametrize("options", [{}, {"max_tokens": 64}, {"memory": 10**6}])
def test_a_fit_finds_the_token_that_tells(store, options):
    results = iceprobe.fit(
        store, ["linear?input=mean", "ep4"], epochs=20, seeds=1, learning_rates=[0.02], **options
    )
    found = {result.label: result.metrics["top1"].mean for result in results}
    assert found["ep4"] > 0.8
    assert found["ep4"] > found["linear?input=mean"] + 0.1
    (ep,) = (result for result in results if result.label == "ep4")
    assert ep.lengths == store.shape.lengths
    assert ep.num_tokens == store.num_tokens


def test_max_tokens_changes_no_result(store):
    """Also where all examples have as many tokens."""
    x, y = np.random.default_rng(0).normal(size=(60, 12, DIM)).astype(np.float32), np.arange(60) % 3
    even = iceprobe.from_tokens({"train": (x, y), "test": (x[::2], y[::2])})
    for one in (store, even):
        logits = [
            iceprobe.records(
                iceprobe.fit(one, ["ep4"], epochs=3, seeds=1, learning_rates=[0.01], **options)[0]
            )["logits"]
            for options in ({}, {"max_tokens": 24})
        ]
        np.testing.assert_allclose(logits[0], logits[1], rtol=2e-3, atol=2e-3)


def test_drawn_tokens_are_said_and_change_the_weights(store):
    results = [
        iceprobe.fit(store, ["ep4"], epochs=3, seeds=1, learning_rates=[0.01], **options)[0]
        for options in ({}, {"draw_tokens": 4})
    ]
    assert [one.training.get("draw_tokens") for one in results] == [None, 4]
    logits = [iceprobe.records(one)["logits"] for one in results]
    assert not np.allclose(logits[0], logits[1], atol=1e-2)


def test_probes_that_read_a_map_are_refused(store):
    for probe in ("cbam", "clip4"):
        with pytest.raises(IceprobeError, match=probe[:4]):
            iceprobe.fit(store, [probe], epochs=1)
