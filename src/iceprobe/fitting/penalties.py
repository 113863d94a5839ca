"""The strengths of the penalty that are tried of a solved probe.

| probe | searched | λ | values |
|---|---|---|---|
| `linear` | λ itself | λ | half decades, growing at the edges |
| `logreg` | C, scikit-learn's | 1 / (C n) | 45 from 1e-6 to 1e5 (DINOv2), or eighths of decades from 1e-6 to 1e6 (CLIP) |
| `ridge` | alpha, scikit-learn's | alpha / n | half decades, growing at the edges |

C and alpha are the same on a fold and on all rows, and for every output: n are the rows that are learnt
from, in which the output is known. A setting is named by its λ on all rows.

Oquab et al., DINOv2 (2023), following Kornblith et al. (2019): values of C in logarithmic steps. Radford
et al. (CLIP, 2021): a search that begins at every second decade and halves the step around the best, down to
eight values a decade.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.losses import Loss, SoftmaxLoss
from iceprobe.probes.registry import PROBES, parse_probe, probe_options
from iceprobe.protocols.grids import beyond
from iceprobe.protocols.protocol import Protocol

# λ; half decades. On 500 to 6,000 images of the bundled encoders 1e-5 to 0.3 is best: a class token whose
# directions differ by orders of magnitude is read at 46% at 1e-5 and at 42% at 1e-3. The grid grows.
DECAYS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
ALPHAS = (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)
DINOV2 = tuple(10 ** (-6 + 11 * step / 44) for step in range(45))  # C
CLIP = tuple(10.0**decade for decade in range(-6, 7, 2))  # C, at first
EIGHTHS = 8  # of a decade, to which CLIP's search goes
LEAST, MOST = 1e-8, 1e3  # λ that no grid grows beyond
LEAST_ALPHA, MOST_ALPHA = 1e-6, 1e9
GROWTHS = 6  # half decades on either side


@dataclass(frozen=True)
class Penalty:
    """The values that are tried of one probe on n rows.

    Attributes:
        key: ``"weight_decay"`` (λ itself), ``"C"`` or ``"alpha"``: its name in results.
        values: tried at first.
        count: n of all rows.
        limits: values that it may grow to; ``None`` if it doesn't grow.
        halving: whether the step is halved around the best value.
    """

    key: str
    values: tuple[float, ...]
    count: int
    limits: tuple[float, float] | None = None
    halving: bool = False

    @property
    def given(self) -> bool:
        """Whether nothing is searched: the spec string has the value."""
        return self.key != "weight_decay" and len(self.values) == 1

    def decay(self, value: float) -> float:
        """λ on all rows."""
        if self.key == "C":
            return 1 / (value * self.count)
        return value / self.count if self.key == "alpha" else value

    def stretch(self, loss: Loss, count: int) -> Tensor | None:
        """An output's λ on ``count`` rows, in units of its λ on all rows: ``(K,)`` or ``()``."""
        if self.key == "weight_decay":
            return None
        # Of two classes scikit-learn penalises w₁ − w₀ = 2 w₁; ‖w₀‖² + ‖w₁‖² is half of its square.
        two = 2 if isinstance(loss, SoftmaxLoss) and loss.outputs == 2 else 1
        return two * self.count / (count * torch.where(loss.known > 0, loss.known, 1.0))

    def following(self, tried: Sequence[float], chosen: float, alone: bool) -> list[float]:
        """The values to try next, after ``chosen`` was the best of ``tried``.

        Args:
            alone: whether no other value is as good.
        """
        if self.halving:
            return _halved(tried, chosen)
        if self.limits is None or not alone or len(tried) >= len(self.values) + GROWTHS:
            return []
        edge = beyond(tried, chosen, *self.limits)
        return [] if edge is None else [edge]


def penalty_of(label: str, protocol: Protocol, count: int) -> Penalty:
    """The penalty of a solved probe on ``count`` rows."""
    options, searched = probe_options(label), PROBES[parse_probe(label).name].solver
    if "alpha" in searched:
        if "alpha" in options:
            return Penalty("alpha", (options["alpha"],), count)
        return Penalty("alpha", ALPHAS, count, (LEAST_ALPHA, MOST_ALPHA))
    if "C" in searched:
        if "C" in options:
            return Penalty("C", (options["C"],), count)
        halving = options["grid"] == "clip"
        return Penalty("C", CLIP if halving else DINOV2, count, halving=halving)
    given = given_decays(protocol)
    if given is not None:
        return Penalty("weight_decay", tuple(given), count)
    return Penalty("weight_decay", DECAYS, count, (LEAST, MOST))


def given_decays(protocol: Protocol) -> list[float] | None:
    """The caller's λ without 0, for which separable images have no optimum."""
    return [decay for decay in protocol.weight_decays or () if decay > 0] or None


def is_solved(label: str, protocol: Protocol, solver: str | None, live: bool) -> bool:
    """Whether a probe is solved for its optimum: `linear` where the protocol says so, on stored tokens,
    and those that are nothing else, which `check_solved` refuses elsewhere.

    ``solver`` is the task's. The search reads tokens many times; live ones would need a pass of the backbone each time.
    """
    spec = parse_probe(label)
    if PROBES[spec.name].solver:
        return True
    return protocol.solves_linear and not live and spec.name == "linear" and solver is not None


def check_solved(label: str, task: str, live: bool) -> None:
    """Refuse a probe that is always solved where it can't be.

    Raises:
        IceprobeError: with another probe, or what to do.
    """
    spec = parse_probe(label)
    entry = PROBES[spec.name]
    if not entry.solver:
        return
    if task not in entry.tasks:
        others = [name for name in PROBES if task in PROBES[name].tasks]
        raise IceprobeError(
            f"probe {spec.name!r} is for task={' or '.join(entry.tasks)} and this is task={task}: "
            f"take {' or '.join([*others, 'linear'])}"
        )
    if live:
        raise IceprobeError(
            f"probe {spec.name!r} reads the tokens many times and live ones are computed each time: "
            "extract them first and fit the store, or take linear"
        )
    if "C" in spec.options and "grid" in spec.options:
        raise IceprobeError(
            f"probe {label!r} has a value of C and a grid to search it on: keep one of them"
        )


def _halved(tried: Sequence[float], chosen: float) -> list[float]:
    """CLIP's next two values, at half the distance to the nearest; none below an eighth of a decade."""
    place = round(EIGHTHS * math.log10(chosen))
    places = [round(EIGHTHS * math.log10(value)) for value in tried]
    step = min(abs(one - place) for one in places if one != place) // 2
    if step < 1:
        return []
    inside = [one for one in (place - step, place + step) if min(places) <= one <= max(places)]
    return [10 ** (one / EIGHTHS) for one in inside if one not in places]
