"""Which settings are tried of a probe: each kind's own, or what the user gives."""

import pytest

from iceprobe import IceprobeError
from iceprobe.probes import PROBES, register
from iceprobe.probes.linear import Linear
from iceprobe.protocols.grids import LARGE, beyond, grid_of
from iceprobe.protocols.protocol import get_protocol

HELDOUT = get_protocol("heldout")


def test_each_kind_has_rates_of_its_own_and_a_users_hold_for_all():
    few, block = grid_of(HELDOUT, "ep12", 100), grid_of(HELDOUT, "cait4", 100)
    assert few.learning_rates == PROBES["ep"].learning_rates
    assert max(block.learning_rates) < max(few.learning_rates)
    assert [few.grows, block.grows] == [True, True]
    mine = get_protocol("heldout", learning_rates=[0.5, 0.1])
    for label in ("ep12", "cait4"):
        grid = grid_of(mine, label, 100)
        assert (grid.learning_rates, grid.grows) == ((0.5, 0.1), False)
    paper = grid_of(get_protocol("paper"), "ep12", 100)
    assert (paper.points, paper.grows) == ([(0.1, 0.0)], False)


def test_weight_decays_are_tried_of_large_probes():
    assert grid_of(HELDOUT, "ep12", LARGE).weight_decays == (0.0,)
    assert grid_of(HELDOUT, "ep12", LARGE + 1).weight_decays == PROBES["ep"].weight_decays
    assert len(PROBES["ep"].weight_decays) > 1
    mine = get_protocol("heldout", weight_decays=[0.3])
    assert grid_of(mine, "ep12", LARGE + 1).weight_decays == (0.3,)


def test_a_probe_of_ones_own_has_rates_too():
    def pooling(dim: int) -> Linear:
        return Linear(dim)

    register("ratesown", pooling, "with rates", learning_rates=[0.2, 0.6])
    register("ratesless", pooling, "without")
    try:
        assert grid_of(HELDOUT, "ratesown", 10).learning_rates == (0.2, 0.6)
        assert len(grid_of(HELDOUT, "ratesless", 10).learning_rates) > 1
        with pytest.raises(IceprobeError, match=r"'rateswrong': learning_rates=\(0,\)"):
            register("rateswrong", pooling, "wrong", learning_rates=[0])
    finally:
        del PROBES._entries["ratesown"], PROBES._entries["ratesless"]


@pytest.mark.parametrize(
    ("rates", "chosen", "following"),
    [
        ((1e-3, 3e-3, 1e-2), 1e-2, 3e-2),
        ((1e-3, 3e-3, 1e-2), 1e-3, 3e-4),
        ((1e-3, 3e-3, 1e-2), 3e-3, None),
        ((3e-4, 1e-3), 3e-4, 1e-4),
        ((0.002, 0.006), 0.006, 0.01),  # the ladder of half decades, not the grid's own ratio
        ((0.3, 1.0), 1.0, None),  # the most
        ((1e-6, 1e-5), 1e-6, None),  # the least
        ((1e-2,), 1e-2, 3e-2),
    ],
)
def test_beyond_an_edge_lies_the_next_half_decade(rates, chosen, following):
    assert beyond(rates, chosen) == following
