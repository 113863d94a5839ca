"""The probe of an adapted backbone learns in the coordinates of the frozen backbone's tokens.

    W = W' κ/σ      W' = W₀/κ at the start

with W₀ the published initialisation, σ the deviation of each dimension and κ the unit of a query
(`probes/coordinates.py`), as parametrisations of torch. So the probes of an adapted and a frozen
backbone start equal and take equal steps, in any units of the tokens. Tokens change while the
backbone learns, but σ only chooses coordinates: it doesn't restrict the probe.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from iceprobe.adaptation.examples import Examples, as_read
from iceprobe.backbones.base import Backbone
from iceprobe.fitting.feed import split_batches
from iceprobe.probes.coordinates import Coordinates, factors
from iceprobe.probes.probe import Probe, build_for

SAMPLED, AT_ONCE = 256, 32  # examples for the statistics; examples a batch
MOST_TOKENS = 2**15  # of a batch of clips, bags or recordings, which have any number of them


class _Folded(nn.Module):
    """Learned parameter → published one."""

    factor: Tensor

    def __init__(self, unit: float, factor: Tensor):
        super().__init__()
        self.unit = unit
        self.register_buffer("factor", factor)

    def forward(self, learned: Tensor) -> Tensor:
        return learned * self.factor

    def right_inverse(self, start: Tensor) -> Tensor:
        """The learned start, from the published initialisation for standardised tokens."""
        return start / self.unit


def measured(
    backbone: Backbone,
    examples: Examples,
    num_classes: int,
    probes: list[str],
    seed: int,
    at_once: int = AT_ONCE,
) -> dict[str, Coordinates]:
    """Coordinates of the frozen backbone's tokens by probe input, from a sample of ``examples``."""
    built = (build_for(backbone.shape, label, num_classes) for label in probes)
    readers = {probe.input: probe for probe in built}
    preprocessing, rng = backbone.preprocessing, np.random.default_rng((seed, 2))
    some = examples.take(np.sort(rng.permutation(len(examples))[:SAMPLED]))
    parts: dict[str, list[Tensor]] = {name: [] for name in readers}
    for batch, _ in some.batches(split_batches(np.arange(len(some)), at_once)):
        tokens = backbone(as_read(preprocessing, batch.to(backbone.device)))
        for name, probe in readers.items():
            read, *mask = probe.read_tokens(tokens)
            rows = read[mask[0]] if mask else read.flatten(0, 1)
            if preprocessing.kind != "image" and len(rows) > MOST_TOKENS:
                rows = rows[torch.from_numpy(rng.permutation(len(rows))[:MOST_TOKENS])]
            parts[name].append(rows.float().cpu())
    return {name: Coordinates.of(torch.cat(found)) for name, found in parts.items()}


def enter(probe: Probe, coordinates: Mapping[str, Coordinates]) -> Probe:
    """``probe``, whose weights on tokens are learned in the tokens' coordinates from now on."""
    at, pooling = coordinates[probe.input], probe.pooling
    if not pooling.linear_in_tokens or pooling.own_values:  # the batch norm of values has an ε
        probe.scale, at = torch.tensor(at.scale), at.scaled()
    for path, factor in factors(pooling, at).items():
        owner, _, last = path.rpartition(".")
        folded = _Folded(pooling.units.get(path, 1.0), factor)
        parametrize.register_parametrization(pooling.get_submodule(owner), last, folded)
    return probe


def published(probe: Probe, scaling: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
    """The state of the published probe, with the scaling of the outputs (`tasks/task.py`) in its classifier."""
    state = {}
    for name, tensor in probe.state_dict().items():
        owner, is_folded, rest = name.partition("parametrizations.")
        if not is_folded:
            state[name] = tensor
        elif rest.endswith(".original"):
            parameter = rest.removesuffix(".original")
            module = probe.get_submodule(owner.removesuffix("."))
            state[owner + parameter] = getattr(module, parameter).detach()
    if scaling is not None:
        weight, bias = (state[f"classifier.{name}"] for name in ("weight", "bias"))
        shift, scale = (one.to(weight) for one in scaling)
        state["classifier.weight"] = weight * scale[:, None]
        state["classifier.bias"] = bias * scale + shift
    return state
