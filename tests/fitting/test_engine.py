"""Many members in one pass end as each would alone."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from iceprobe.fitting.engine import JointTrainer, forward, group_losses, predict
from iceprobe.fitting.feed import Batch, Feed, split_batches
from iceprobe.fitting.members import Member, make_groups
from iceprobe.fitting.optimisers import LARS, warmup_cosine
from iceprobe.probes.probe import build_for
from iceprobe.tasks.classification import Classification
from iceprobe.tokens import TokenShape
from tests.fitting.conftest import CLASSES, DIM, GRID, PlantedSplit
from tests.reference.regularisation import penalty

CPU = torch.device("cpu")
TASK = Classification()
SHAPE = TokenShape(DIM, GRID[0] * GRID[1], 1, GRID, has_class=True)
PROBES = ["ep4", "ep2?out_dim=12", "ep4?value=identity", "ep4?query=sliced", "aim4", "mhca4",
          "abmilp", "block4", "delf", "cbam", "slot2", "mean_value", "linear", "linear?input=mean"]  # fmt: skip
# A bias in front of a batch norm has no gradient but rounding, which AdamW would scale up.
FOLDED = ["simpool?batch_norm=false", "simpool?linear=false", "clip4?batch_norm=false", "coca2",
          *(f"{name}4?batch_norm=false" for name in ("siglip", "vjepa", "cait", "cae", "capi"))]  # fmt: skip
REGULARISED = {  # complementarity, entropy
    "ep4?complementarity=0.5": (0.5, 0.0),
    "ep2?complementarity=0.3&entropy=0.2&out_dim=12": (0.3, 0.2),
    "aim4?complementarity=-0.3&entropy=0.1": (-0.3, 0.1),
    "cae4?batch_norm=false&complementarity=0.3&entropy=0.1": (0.3, 0.1),
}
INPUTS = {"patches", "class", "mean"}


@pytest.fixture
def float64():
    """Rounding apart: what is equal in float64 to 1e-9 is the same computation."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def feed_of(split: PlantedSplit) -> Feed:
    return Feed(split, np.arange(len(split)), INPUTS, CPU, torch.get_default_dtype())


def train_together(members: list[Member], split: PlantedSplit, optimizer: str, epochs: int = 3):
    groups = make_groups(members, SHAPE, CLASSES, CPU)
    trainer = JointTrainer(groups, optimizer, steps=epochs * 5, warmup=2)
    for epoch in range(epochs):
        for batch in feed_of(split).shuffled(32, seed=0, epoch=epoch):
            trainer.train_step(batch)
    return groups


def joint_members(rate: float) -> list[Member]:
    return [
        Member(probe, rate * factor, 0.01 if factor > 1 else 0.0, seed)
        for probe in PROBES
        for factor in (0.3, 1, 3)
        for seed in (0, 1)
    ]


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), ("lars", 1.0)])
def test_a_member_among_others_ends_where_it_ends_alone(train, optimizer, rate, float64):
    members = joint_members(rate)
    assert len(members) > 50
    for group in train_together(members, train, optimizer):
        assert_ends_as_alone(group, (0, len(group) - 1), train, optimizer)


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), ("lars", 1.0)])
def test_folded_probes_trained_together_end_where_they_end_alone(train, optimizer, rate, float64):
    """Raw tokens, tokens through a LayerNorm of either ε, and own attention, side by side."""
    members = [Member(p, rate, 0.01, seed) for p in ("ep4", "aim4", *FOLDED) for seed in (0, 1)]
    for group in train_together(members, train, optimizer, epochs=1):
        assert_ends_as_alone(group, (1,), train, optimizer, epochs=1)


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), ("lars", 1.0)])
def test_regularised_members_and_plain_ones_leave_each_other_alone(train, optimizer, rate, float64):
    plain = [Member(p, rate, 0.01, s) for p in ("ep4", "aim4", "cae4?batch_norm=false") for s in (0, 1)]  # fmt: skip
    members = [Member(p, f * rate, 0.01, s) for p in REGULARISED for f in (1, 3) for s in (0, 1)]
    *groups, first, _, _ = train_together([*members, *plain], train, optimizer)
    for group in groups:
        assert_ends_as_alone(group, (0, len(group) - 1), train, optimizer)
    without, _, _ = train_together(plain, train, optimizer)
    for g in range(2):  # by the very products that they have without them
        expected, found = without.probe(g).state_dict(), first.probe(g).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
@pytest.mark.parametrize("probe", REGULARISED)
def test_a_regularised_member_ends_where_the_plain_formula_ends(train, probe, optimizer, float64):
    """An ordinary loop on the same probe without terms, the penalty written out pair by pair."""
    rate = {"adamw": 3e-3, "lars": 1.0}[optimizer]
    (group,) = train_together([Member(probe, rate, 0.0, seed=5)], train, optimizer, epochs=1)
    complementarity, entropy = REGULARISED[probe]
    name, _, options = probe.partition("?")
    kept = [o for o in options.split("&") if not o.startswith(("complementarity", "entropy"))]
    module = build_for(
        SHAPE, "?".join(filter(None, (name, "&".join(kept)))), CLASSES, seed=5
    ).train()
    if optimizer == "adamw":
        plain = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.0)
    else:
        plain = LARS(module.parameters(), lr=rate)
    for step, batch in enumerate(feed_of(train).shuffled(32, seed=0, epoch=0)):
        plain.param_groups[0]["lr"] = rate * warmup_cosine(step, 5, 2)
        plain.zero_grad()
        tokens = batch.inputs["patches"]
        weights = module.pooling.attention(tokens)
        loss = F.cross_entropy(module(tokens), batch.labels)
        (loss + penalty(weights, complementarity, entropy)).backward()
        plain.step()
    found = group.probe(0).state_dict()
    for name, expected in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-9)


def test_the_reported_loss_holds_the_terms(train, float64):
    (plain, regular) = make_groups(
        [Member(p, 0.0, 0.0, 0) for p in ("ep4", "ep4?complementarity=0.5")], SHAPE, CLASSES, CPU
    )
    trainer = JointTrainer([plain, regular], "adamw", steps=5, warmup=1)
    (batch,) = feed_of(train).in_order(len(train))
    weights = plain.template.pooling.attention(batch.inputs["patches"])
    without, with_it = trainer.train_step(batch)
    torch.testing.assert_close(with_it - without, penalty(weights, 0.5).detach()[None])


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_regularised_probes_learn_from_narrow_tokens(train, narrow):
    members = [Member("ep4?complementarity=0.5&entropy=0.5", 1e-2, 0.0, 0)]
    (group,), (same,) = (make_groups(members, SHAPE, CLASSES, CPU) for _ in range(2))
    (batch,) = Feed(train, np.arange(64), {"patches"}, CPU, narrow).in_order(64)
    wide = Batch({"patches": batch.inputs["patches"].float()}, batch.labels)
    (loss,), (expected,) = group_losses([group], batch, TASK), group_losses([same], wide, TASK)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)
    loss.sum().backward()
    expected.sum().backward()
    one, other = (g.parameters["pooling.query"].grad for g in (group, same))
    assert (one - other).abs().max() < 0.05 * other.abs().max()


def test_attention_moves_where_the_terms_push_it(train):
    """And the other way where their weights are negative."""
    probes = ["ep4", "ep4?complementarity=2", "ep4?complementarity=-2", "ep4?entropy=2",
              "ep4?entropy=-2"]  # fmt: skip
    groups = train_together([Member(p, 3e-2, 0.0, 0) for p in probes], train, "adamw", epochs=20)
    (batch,) = feed_of(train).in_order(len(train))
    with torch.no_grad():
        maps = [g.probe(0).pooling.attention(batch.inputs["patches"]) for g in groups]
        alike = [float(penalty(a, complementarity=1)) for a in maps]
        spread = [float(penalty(a.clamp(min=1e-30), entropy=1)) for a in maps]
    assert alike[1] < alike[0] - 0.2
    assert alike[2] > alike[0] + 0.05
    assert spread[3] < spread[0] - 0.05
    assert spread[4] > spread[0] + 0.02


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_folded_probes_read_narrow_tokens(train, narrow):
    members = [Member(p.replace("?batch_norm=false", ""), 1e-2, 0.0, 0) for p in ("ep4", *FOLDED)]
    groups = make_groups(members, SHAPE, CLASSES, CPU)
    (batch,) = Feed(train, np.arange(64), {"patches"}, CPU, narrow).in_order(64)
    wide = Batch({"patches": batch.inputs["patches"].float()}, batch.labels)
    for one, other in zip(forward(groups, batch), forward(groups, wide), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.03 * other.abs().max()


def assert_ends_as_alone(group, indices, train, optimizer, epochs=3):
    for g in indices:
        (alone,) = train_together([group.members[g]], train, optimizer, epochs)
        expected, found = alone.probe(0).state_dict(), group.probe(g).state_dict()
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found[name], tensor, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
@pytest.mark.parametrize("probe", PROBES + FOLDED)
def test_a_member_ends_where_an_ordinary_training_loop_ends(train, probe, optimizer, float64):
    """The independent way: one module, its own forward, torch's modules."""
    rate = {"adamw": 3e-3, "lars": 1.0}[optimizer]
    (group,) = train_together([Member(probe, rate, 0.0, seed=5)], train, optimizer)

    module = build_for(SHAPE, probe, CLASSES, seed=5).train()
    if optimizer == "adamw":
        plain = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.0)
    else:
        plain = LARS(module.parameters(), lr=rate)
    step = 0
    for epoch in range(3):
        for batch in feed_of(train).shuffled(32, seed=0, epoch=epoch):
            plain.param_groups[0]["lr"] = rate * warmup_cosine(step, 15, 2)
            plain.zero_grad()
            F.cross_entropy(module(batch.inputs[module.input]), batch.labels).backward()
            plain.step()
            step += 1
    assert step == 15
    found = group.probe(0).state_dict()
    for name, expected in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-9)


def test_evaluation_uses_running_statistics(train, test):
    members = [Member(p, 3e-3, 0.0, 0) for p in [*PROBES, *FOLDED, "vjepa4", "cait4", "clip4"]]
    groups = train_together(members, train, "adamw")
    (batch,) = feed_of(test).in_order(len(test))
    before = [group.state()["running_mean"].clone() for group in groups]
    logits = forward(groups, batch, training=False)
    for group, found, mean in zip(groups, logits, before, strict=True):
        probe = group.probe(0)
        expected = probe(batch.inputs[probe.input])
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(group.state()["running_mean"], mean, rtol=0, atol=0)


def test_a_diverged_member_leaves_the_others_alone_and_predicts_no_class(train, test):
    sane = Member("ep4", 3e-3, 0.0, 0)
    mad = Member("ep4", 1e38, 0.0, 1)
    alone = train_together([sane], train, "adamw")[0].probe(0).state_dict()
    (group,) = train_together([sane, mad], train, "adamw")
    for name, tensor in alone.items():
        torch.testing.assert_close(group.probe(0).state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    (record,) = predict([group], feed_of(test).in_order(32), TASK)
    assert (record["predicted"][1] == -1).all()
    assert (record["predicted"][0] >= 0).all()


def test_a_group_past_its_stop_no_longer_learns(train):
    groups = make_groups(
        [Member("ep4", 1e-2, 0, 0), Member("mhca4", 1e-2, 0, 0)], SHAPE, CLASSES, CPU
    )
    trainer = JointTrainer(groups, "adamw", steps=10, warmup=1, stops=[2, 10])
    snapshots = []
    for batch in feed_of(train).shuffled(32, seed=0, epoch=0):
        trainer.train_step(batch)
        snapshots.append([g.parameters["classifier.weight"].detach().clone() for g in groups])
    stopped, going = zip(*snapshots, strict=True)
    assert torch.equal(stopped[1], stopped[4])
    assert not torch.equal(stopped[0], stopped[1])
    assert not torch.equal(going[3], going[4])
    assert trainer.active == [groups[1]]


def test_state_restores_exactly(train):
    members = [Member(p, 3e-3, 0.0, s) for p in ("ep4", "aim4", "abmilp", "delf") for s in (0, 1)]
    batches = list(feed_of(train).shuffled(32, seed=0, epoch=0))
    for optimizer in ("adamw", "lars"):
        straight = JointTrainer(make_groups(members, SHAPE, CLASSES, CPU), optimizer, 10, 1)
        broken = JointTrainer(make_groups(members, SHAPE, CLASSES, CPU), optimizer, 10, 1)
        for batch in batches[:2]:
            straight.train_step(batch)
            broken.train_step(batch)
        kept = {name: tensor.clone() for name, tensor in broken.state().items()}
        resumed = JointTrainer(make_groups(members, SHAPE, CLASSES, CPU), optimizer, 10, 1)
        resumed.load_state(kept)
        for batch in batches[2:]:
            straight.train_step(batch)
            resumed.train_step(batch)
        for name, tensor in straight.state().items():
            assert torch.equal(tensor, resumed.state()[name]), name


def test_members_learn_what_is_planted(train, test):
    """Averaging drowns the planted patch; attending to it doesn't."""
    members = [Member(p, 1e-2, 0.0, 0) for p in ("linear?input=mean", "ep4")]
    groups = train_together(members, train, "adamw", epochs=20)
    records = predict(groups, feed_of(test).in_order(32), TASK, "scores")
    mean, ep = ((one["predicted"][0].numpy() == test.labels).mean() for one in records)
    assert ep > 0.75
    assert ep > mean + 0.1


def test_losses_are_per_member_means():
    logits, labels = torch.randn(2, 5, 3), torch.tensor([0, 1, 2, 0, 1])
    expected = torch.stack([F.cross_entropy(z, labels) for z in logits])
    torch.testing.assert_close(TASK.loss(logits, labels), expected)


def test_a_last_batch_of_one_joins_the_one_before():
    assert [len(b) for b in split_batches(np.arange(65), 32)] == [32, 33]
    assert [len(b) for b in split_batches(np.arange(66), 32)] == [32, 32, 2]
    assert [len(b) for b in split_batches(np.arange(1), 32)] == [1]
    assert np.array_equal(np.concatenate(split_batches(np.arange(65), 32)), np.arange(65))


def test_an_epoch_covers_every_image_once(train):
    feed = feed_of(train)
    seen = torch.cat([batch.inputs["mean"] for batch in feed.shuffled(32, seed=3, epoch=1)])
    assert torch.equal(seen.sort(0).values, train.mean.sort(0).values)
    again = torch.cat([batch.inputs["mean"] for batch in feed.shuffled(32, seed=3, epoch=1)])
    other = torch.cat([batch.inputs["mean"] for batch in feed.shuffled(32, seed=3, epoch=2)])
    assert torch.equal(seen, again)
    assert not torch.equal(seen, other)
