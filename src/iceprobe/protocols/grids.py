"""The learning rates and weight decays that are tried of a probe, and how they grow.

A user's own grid is used for every probe and doesn't grow. Otherwise each kind states its rates
(`probes/registry.py`), and they grow on the side on which the chosen one lies at the edge::

    … 1e-4   3e-4   1e-3   3e-3   1e-2   3e-2 …        half decades, `beyond`
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from iceprobe.probes import parse_probe
from iceprobe.probes.registry import PROBES
from iceprobe.protocols.protocol import Protocol

LARGE = 1_000_000  # parameters above which a kind's weight decays are tried too
LEAST, MOST = 1e-6, 1.0  # rates beyond which no grid grows


@dataclass(frozen=True)
class Grid:
    """The settings that are tried of one probe."""

    learning_rates: tuple[float, ...]  # at first
    weight_decays: tuple[float, ...]  # each rate is tried with each decay
    grows: bool  # whether rates beyond these are tried if the best lies at an edge

    @property
    def points(self) -> list[tuple[float, float]]:
        """Learning rate and weight decay of every setting."""
        return [(rate, decay) for rate in self.learning_rates for decay in self.weight_decays]


def grid_of(protocol: Protocol, label: str, parameters: int) -> Grid:
    """The grid of the probe called ``label``, which has so many parameters, under ``protocol``."""
    entry = PROBES[parse_probe(label).name]
    decays = protocol.weight_decays
    if decays is None:
        decays = entry.weight_decays if parameters > LARGE else (0.0,)
    rates = protocol.learning_rates
    grows = rates is None and protocol.held_out > 0
    return Grid(entry.learning_rates if rates is None else rates, decays, grows)


def beyond(
    rates: Iterable[float], chosen: float, least: float = LEAST, most: float = MOST
) -> float | None:
    """The next half decade beyond ``chosen`` where that is the lowest or the highest of ``rates``.

    ``None`` where it lies within them, or the next isn't from ``least`` to ``most``.

    >>> beyond([0.001, 0.003, 0.01], 0.01), beyond([0.001, 0.003], 0.001), beyond([1, 2, 3], 2)
    (0.03, 0.0003, None)
    """
    tried = sorted(rates)
    side = (chosen >= tried[-1]) - (chosen <= tried[0])
    if len(tried) == 1:
        side = 1
    if not side or chosen <= 0:
        return None
    place = 2 * math.log10(chosen)  # among half decades; the next isn't nearer than a factor of 1.6
    step = math.floor(place + 0.4) + 1 if side > 0 else math.ceil(place - 0.4) - 1
    found = float(f"{10 ** (step / 2):.0e}")
    return found if least <= found <= most else None


def at_edge(values: Iterable[float], chosen: float) -> str | None:
    """``"lowest"`` or ``"highest"`` of several ``values``, where ``chosen`` is that; 0 is no edge.

    >>> at_edge([0.1, 0.2], 0.2), at_edge([0.1, 0.2], 0.1), at_edge([0.0, 0.1], 0.0)
    ('highest', 'lowest', None)
    """
    tried = sorted(values)
    if len(tried) < 2 or tried[0] < chosen < tried[-1]:
        return None
    if chosen >= tried[-1]:
        return "highest"
    return "lowest" if chosen > 0 else None
