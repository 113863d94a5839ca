"""The probe that docs/probes.md makes from outside the package, through a fit and a report."""

import re

import pytest
import torch

import iceprobe
from iceprobe.probes import PROBES
from iceprobe.store import extract_in_memory
from tests.fitting.test_api import planted_dataset
from tests.guide.blocks import blocks
from tests.guide.running import ROOT
from tests.store.conftest import make_backbone

PAGE = ROOT / "docs" / "probes.md"


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(PROBES, "_entries", dict(PROBES._entries))


def test_every_probe_is_on_the_page():
    assert all(f"\n{name}" in PAGE.read_text() for name in PROBES)


def test_a_probe_from_outside_is_fitted_and_shown_as_any_other(own_registry, tmp_path):
    exec(next(block.text for block in blocks(PAGE) if block.language == "python"), {})
    store = extract_in_memory(make_backbone(), planted_dataset())
    asked = ["gaussian4", "gaussian2?batch_norm=false&out_dim=6", "ep4"]
    results = iceprobe.fit(
        store, asked, output=tmp_path / "run", seeds=1, epochs=6, batch_size=32,
        learning_rates=[3e-2],
    )  # fmt: skip
    assert [result.probe for result in results] == asked
    own, narrow, _ = results
    # D = 8, N = 16, C = 3: two numbers a centre and one a width; W_V; the classifier
    assert own.parameters.total == 4 * 3 + 8 * 8 + 8 * 3 + 3
    assert own.flops.per_image == 2 * (16 * 4 * 8 + 8 * 8 + 8 * 3)
    assert narrow.parameters.total == 2 * 3 + 8 * 6 + 6 * 3 + 3
    assert isinstance(narrow.probes[0].norm, torch.nn.Identity)

    probe = own.probes[0]
    fresh = iceprobe.probes.build("gaussian4", 8, 3, store.grid)
    fresh.load_state_dict(probe.state_dict())  # names and shapes are those of a built one
    assert own.top1.mean > 0.5  # of three classes
    weights = probe.pooling.attention(torch.randn(2, 16, 8))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))
    assert torch.equal(weights[0], weights[1])  # it doesn't look at the image

    page = iceprobe.report(results, tmp_path / "r.html").read_text()
    galleries = re.findall(r"<summary>(.*?) <span", page.partition('id="attention"')[2])
    assert sorted(galleries) == ["EP4", "gaussian2 (batch_norm=false, out_dim=6)", "gaussian4"]
