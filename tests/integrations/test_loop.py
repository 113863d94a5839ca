"""Looks in a loop of one's own: training with them is training without them."""

import logging

import pytest
import torch
from torch import nn

import iceprobe
from iceprobe.integrations.loop import Probe
from tests.integrations.training import (
    PROBES,
    QUICK,
    Encoder,
    Model,
    assert_same,
    drawn,
    labelled,
    loader,
    loss_of,
    seed,
)


def trained(every: str | None, **options):
    """All that 3 epochs of 6 steps end with, and the looks."""
    seed()
    model = Model().train()
    model.backbone.norm.eval()  # frozen statistics: a mode of its own
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    look = scores = None
    seen, done = [], 0
    if every:
        look = Probe(model.backbone, labelled(), PROBES, every=every, **QUICK, **options)
    for epoch in range(1, 4):
        for batch in loader():
            loss_of(model, batch).backward()
            optimizer.step()
            if look and look(done := done + 1, epoch=epoch if done % 6 == 0 else epoch - 1):
                assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
            optimizer.zero_grad()
            seen.append(batch)
    state = [model.state_dict(), optimizer.state_dict(), seen, drawn(), scores]
    modes = [one.training for one in model.modules()]
    return [*state, modes, [p.requires_grad for p in model.parameters()]], look and look.history


@pytest.mark.parametrize(
    ("every", "steps"), [("4 steps", [4, 8, 12, 16]), ("1 epoch", [6, 12, 18])]
)
def test_training_with_looks_is_training_without_bit_by_bit(every, steps):
    without, _ = trained(None)
    found, history = trained(every)
    assert_same(found, without)
    assert [one.step for one in history] == steps
    assert without[0]["backbone.passes"] == 18


def test_a_look_says_what_a_probe_of_the_model_says():
    seed()
    model, data = Encoder(), labelled()
    look = Probe(model, data, PROBES, every="10 steps", **QUICK)
    assert look(9) is None
    scores = look(10)
    expected = iceprobe.probe(model, data, PROBES, **QUICK, device="cpu", progress=False)
    names = ["knn", "linear-input-mean", "ep2"]
    for name, one in zip(names, expected, strict=True):
        assert scores[f"iceprobe/{name}/top1"] == one.top1.mean
        low, high = one.top1.interval
        assert scores[f"iceprobe/{name}/top1_low"] == low <= one.top1.mean
        assert scores[f"iceprobe/{name}/top1_high"] == high
    kinds = [f"iceprobe/{name}/top1{end}" for name in names for end in ("", "_low", "_high")]
    assert list(scores) == [*kinds, "iceprobe/seconds"]
    (one,) = look.history
    assert (one.step, one.epoch, one.scores, one.error) == (10, None, scores, None)
    assert [found.metrics for found in one.results] == [found.metrics for found in expected]


def test_all_metrics_are_logged_if_asked_for_the_leading_one_first():
    seed()
    look = Probe(
        Encoder(), labelled(), ["knn"], every="1 step", metrics="all", metric="auroc", **QUICK
    )
    scores = look(1)
    assert next(iter(scores)) == "iceprobe/knn/auroc"
    assert scores["iceprobe/knn/top1"] == look.history[0].results[0].metrics["top1"].mean


def test_images_are_read_once():
    seed()
    data, anew = labelled(), labelled()
    look = Probe(Encoder(), data, ["knn"], every="1 step", keep="1 MB", **QUICK)
    none = Probe(Encoder(), anew, ["knn"], every="1 step", keep=0, **QUICK)
    look(1), none(1)
    first, other = data["train"].reads, anew["train"].reads
    look(2), none(2)
    assert data["train"].reads == first
    assert anew["train"].reads == other + 60


def test_a_look_sees_the_weights_as_they_are():
    seed()
    model = Encoder()
    look = Probe(model, labelled(), ["knn"], every="1 step", **QUICK)
    before = look(1)
    with torch.no_grad():
        model.patch.weight.zero_()
        model.patch.bias.zero_()
    after = look(2)
    assert before["iceprobe/knn/top1"] > 0.7
    assert after["iceprobe/knn/top1"] == 0.5  # all tokens alike


class Failing(Encoder):
    fails = False

    def forward(self, images):
        if self.fails:
            raise ValueError("no\nluck")
        return super().forward(images)


def test_a_look_that_fails_is_logged_and_training_goes_on(caplog):
    seed()
    model = Failing()
    look = Probe(model, labelled(), ["knn"], every="1 step", **QUICK)
    model.fails = True
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    assert look(1) is None
    (line,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert "step 1 failed, training goes on" in line
    assert "no luck" in line
    assert look.history[0].error in line
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(dict(model.state_dict()), before)
    assert model.training
    model.fails = False
    assert look(2) is not None


def test_a_look_that_fails_ends_training_if_asked():
    seed()
    model = Failing()
    look = Probe(model, labelled(), ["knn"], every="1 step", on_error="raise", **QUICK)
    model.fails = True
    with pytest.raises(iceprobe.IceprobeError, match="no luck"):
        look(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(probes=["knm"]), "knm"),
        (dict(probes="knn"), "probes='knn'.*list of texts"),
        (dict(every=5), r"every=5: write.*every='1 epoch'"),
        (dict(every="soon"), "every='soon'"),
        (dict(at_most="500%"), "at_most='500%'.*at_most='5%'"),
        (dict(data="bundled:fashon"), "fashon"),
        (dict(epochs=0), "epochs=0"),
        (dict(keep="much"), "keep='much'.*8GB"),
        (dict(keep=-1), "keep=-1"),
        (dict(on_error="ignore"), "on_error"),
        (dict(device="cpu"), "device='cpu'.*leave it out"),
        (dict(ever="1 step"), "ever"),
        (dict(model=nn.Linear(3, 3)), "image_size"),
        (dict(model="vit"), "nn.Module"),
        (dict(probes=["ep3"]), "ep3"),  # 8 numbers don't divide by 3
        (dict(metric="mae"), "mae"),
        (dict(shots=40), "40"),  # of 30 a class
    ],
)
def test_what_can_be_known_is_refused_before_training_starts(change, message):
    given = dict(model=Encoder(), data=labelled(), probes=["knn"], every="1 step") | QUICK | change
    with pytest.raises(iceprobe.IceprobeError, match=message) as caught:
        Probe(given.pop("model"), given.pop("data"), given.pop("probes"), **given)
    assert "\n" not in str(caught.value)


def test_the_count_that_every_needs_is_asked_for():
    look = Probe(Encoder(), labelled(), ["knn"], every="2 epochs", **QUICK)
    with pytest.raises(iceprobe.IceprobeError, match=r"look\(epoch=epoch\)"):
        look(3)


def test_what_is_put_off_is_said_once(monkeypatch, caplog):
    """Each look takes 10 s and each step 1 s, by the clock that the probe reads."""
    from iceprobe.integrations import looks

    now = 0.0
    monkeypatch.setattr(looks.time, "monotonic", lambda: now)

    def take(self, module, makers):
        nonlocal now
        now += 10.0
        return []

    look = Probe(Encoder(), labelled(), ["knn"], every="5 steps", at_most="25%", **QUICK)
    monkeypatch.setattr(looks.Looks, "_results", take)
    for step in range(1, 201):
        now += 1.0
        look(step)
    # The next at step n is within a quarter of training if (looks + 1) * 10 <= n / 4.
    assert [one.step for one in look.history] == [5, 80, 120, 160, 200]
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert ["took 10.0 s" in line for line in lines] == [True, False]
    assert "1 min 15 s more" in lines[0]
    assert "step 10 is put off" in lines[1]
