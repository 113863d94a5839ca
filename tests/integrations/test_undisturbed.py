"""What a look may change is put back; each thing is changed here."""

import random

import numpy as np
import pytest
import torch

from iceprobe.integrations.looks import _once
from iceprobe.integrations.looks import log as its_log
from iceprobe.integrations.undisturbed import undisturbed
from tests.integrations.training import Model, assert_same, drawn, seed


def test_random_numbers_modes_flags_and_buffers_are_put_back():
    seed()
    model = Model().train()
    model.backbone.norm.eval()
    norm, passes = model.backbone.norm, model.backbone.passes
    norm.running_mean[0] = float("nan")  # which equals nothing
    before = {name: one.clone() for name, one in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    learn = [one.requires_grad for one in model.parameters()]
    seed()
    expected = drawn()
    seed()
    threads = torch.get_num_threads()
    with undisturbed(model):
        random.random(), np.random.rand(), torch.rand(1)
        model.eval().requires_grad_(False)
        model.backbone.norm.train()
        model.backbone(torch.rand(2, 1, 16, 16))
        model.backbone.passes = torch.full((3,), 7.0)
        norm.num_batches_tracked.resize_(2)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(threads + 1)
    assert drawn() == expected
    assert model.backbone.passes is passes
    found = dict(model.state_dict())
    assert torch.equal(
        found.pop("backbone.norm.running_mean").isnan(),
        before.pop("backbone.norm.running_mean").isnan(),
    )
    assert_same(found, before)
    assert [part.training for part in model.modules()] == modes
    assert [one.requires_grad for one in model.parameters()] == learn
    assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads


def test_it_is_put_back_after_an_error_too():
    model = Model()

    def failing():
        with undisturbed(model):
            model.eval()
            raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        failing()
    assert model.training


def test_deterministic_algorithms_only_warn_within():
    torch.use_deterministic_algorithms(True)
    try:
        with undisturbed(Model()):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_random_numbers_of_all_gpus_are_put_back(monkeypatch):
    states = [torch.tensor([1, 2]), torch.tensor([3, 4])]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [one.clone() for one in states])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state_all", lambda given: states.__setitem__(slice(None), given)
    )
    with undisturbed(Model()):
        states[0] += 5
        states[1] += 5
    assert [one.tolist() for one in states] == [[1, 2], [3, 4]]


def test_a_line_is_logged_once_and_an_error_each_time(caplog):
    said = set()
    for _ in range(2):
        with _once(said):
            its_log.warning("assumed: %s", "this")
            its_log.error("failed")
    its_log.warning("assumed: this")
    assert [one.getMessage() for one in caplog.records] == [
        "assumed: this", "failed", "failed", "assumed: this",
    ]  # fmt: skip
