"""The grid under a budget, against counts of the modules themselves."""

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import build, within_budget


def size(spec: str, dim: int, classes: int) -> int:
    return build(spec, dim, classes).num_parameters()["total"]


def test_what_stays_within_stays_within_and_nothing_cheap_is_left_out():
    dim, classes, tokens, budget = 96, 10, 49, 5_000
    found = within_budget(dim, classes, tokens, parameters=budget)
    assert all(size(spec, dim, classes) <= budget for spec in found)
    everything = within_budget(dim, classes, tokens, parameters=10**9)
    assert len(everything) == len(set(everything)) > len(found)
    assert {spec for spec in everything if size(spec, dim, classes) <= budget} == set(found)
    sizes = [size(spec, dim, classes) for spec in found]
    assert sizes == sorted(sizes)


def test_flops_bound_as_well():
    dim, classes, tokens = 96, 10, 49
    found = within_budget(dim, classes, tokens, flops=100_000)
    costs = {spec: build(spec, dim, classes).flops(tokens) for spec in found}
    assert max(costs.values()) <= 100_000
    both = within_budget(dim, classes, tokens, flops=100_000, parameters=2_000)
    assert 0 < len(both) < len(found)


def test_the_publications_knob_is_in_the_grid():
    """EP48 with D_o = D/8 has 207,592 parameters at D = 768 and 1,000 classes."""
    assert "ep48?out_dim=96" in within_budget(768, 1000, 196, parameters=207_592)
    assert "ep48?out_dim=96" not in within_budget(768, 1000, 196, parameters=207_591)


def test_a_budget_that_nothing_meets_names_the_least():
    least = size("ep1?out_dim=6", 96, 10)
    with pytest.raises(IceprobeError, match=rf"budget of 100 parameters .the least is {least:,}."):
        within_budget(96, 10, 49, parameters=100)
