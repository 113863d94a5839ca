"""Standardised coordinates: probes learn in them, and are folded back into the published form.

    x̂ = (x − μ)/σ        W x̂ + b  =  (W/σ) x + (b − (W/σ) μ)

Queries start at 0.02 and AdamW's steps are as large for a dimension of deviation 1000 as for one of
0.001. So what a probe learns would hang on the units of the features. μ and σ are of the training
tokens, each dimension's own: mean and deviation, but σ is no less than a tenth of the way from μ to the
farthest value. (One step of AdamW moves W x̂ by the rate times x̂: of a dimension that is seldom active,
whose values lie hundreds of deviations off, a single step would settle what is read.)

A pooling names the maps that meet the tokens (`Pooling.token_maps`), and their weights W are learned for
x̂. What is run, counted, drawn and exported is W/σ on x. Without a bias the shift is left in: it drops out
of every softmax, and the batch norm takes it off the values.

A LayerNorm in front isn't linear, but what follows it is: its affine is learned for the normalised
tokens in standardised coordinates (`Pooling.token_norms`), γ/σ̃ and β − (γ/σ̃) μ̃. Its ε, and whatever
else isn't linear, is made for tokens of deviation about 1: such poolings read s x, with one number s
that goes with the probe (`Probe.scale`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from iceprobe.probes.pooling import Pooling

NEAR = 10.0  # median lengths, beyond which a token is an artefact
MOST_LEFT_OUT = 0.1  # of the tokens; more are no artefacts
FARTHEST = 10.0  # |x̂| of the tokens that σ is of
COLUMNS = 16  # at once; all at once would take several times the memory of the tokens


@dataclass(frozen=True)
class Coordinates:
    """Of tokens x ∈ R^D.

    Attributes:
        mean: μ, ``(D,)``.
        std: σ, ``(D,)``, for which no |x̂| is beyond `FARTHEST`; 1 where a dimension is constant.
        scale: s, one over the median token's deviation over its channels.
        normed_mean, normed_std: μ̃ and σ̃, ``(D,)``, of LN(x) without its affine.
    """

    mean: Tensor
    std: Tensor
    scale: float
    normed_mean: Tensor
    normed_std: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Self:
        """Of training tokens ``(n, D)``, in float32; artefacts don't count (:func:`usual`)."""
        tokens = usual(tokens.float())
        mean, std = location_and_scale(tokens)
        own_std, own_mean = torch.std_mean(tokens, -1, correction=0, keepdim=True)
        spread = float(own_std.median())
        # A token that is the same everywhere is normed to 0.
        length = torch.where(own_std > 0, own_std, 1.0)
        normed = location_and_scale(tokens, lambda columns: (columns - own_mean) / length)
        return cls(mean, std, 1 / spread if spread else 1.0, *normed)

    def scaled(self) -> Self:
        """Of s x."""
        return replace(self, mean=self.mean * self.scale, std=self.std * self.scale, scale=1.0)

    def to(self, device: torch.device) -> Self:
        moved = {
            key: getattr(self, key).to(device)
            for key in ("mean", "std", "normed_mean", "normed_std")
        }
        return replace(self, **moved)


def usual(tokens: Tensor) -> Tensor:
    """The tokens ``(m, D)`` of ``(n, D)`` that are no artefacts: not many times as long as the others.

    A token's length is its mean absolute distance from the median, each dimension in units of its root
    mean square one, so that it hangs on no dimension's unit and on no single dimension. Left out is what is longer than `NEAR` median
    lengths; nothing where that would be more than a tenth. (Values aren't left out one by one: of a
    dimension that is seldom active they would be all that it says.)
    """
    length = tokens.new_zeros(len(tokens))
    for columns in tokens.split(COLUMNS, 1):
        away = (columns - columns.median(0).values).abs()
        unit = away.square().mean(0).sqrt()
        length += (away / torch.where(unit > 0, unit, 1.0)).sum(1)
    near = length <= NEAR * length.median()
    return tokens if near.float().mean() < 1 - MOST_LEFT_OUT else tokens[near]


def location_and_scale(
    values: Tensor, of: Callable[[Tensor], Tensor] = lambda columns: columns
) -> tuple[Tensor, Tensor]:
    """μ and σ of each column of ``of(values)``, ``(n, D)`` → each ``(D,)``.

    ``of`` is computed for a few columns at a time. σ is the deviation, or the farthest
    value's distance from μ over `FARTHEST` where that is more; 1 where a column is constant.
    """
    means, scales = [], []
    for columns in values.split(COLUMNS, 1):
        found = of(columns)
        centre = found.median(0).values  # nothing cancels far from 0, and a constant is 0
        away = found - centre
        std, mean = torch.std_mean(away, 0, correction=0)
        scale = torch.maximum(std, (away - mean).abs().amax(0) / FARTHEST)
        means.append(centre + mean)
        scales.append(torch.where(std > 0, scale, 1.0))
    return torch.cat(means), torch.cat(scales)


def factors(pooling: Pooling, at: Coordinates) -> dict[str, Tensor]:
    """Name of each weight that meets the tokens → what the learned one is multiplied by.

    κ/σ, with κ the unit of the map (`Pooling.units`).
    """
    found, parameters = {}, dict(pooling.named_parameters())
    for name in pooling.token_maps:
        weight = name if name in parameters else f"{name}.weight"
        inputs = parameters[weight].shape[-1]  # fewer than D where each row sees a slice
        std = at.std if inputs == len(at.std) else at.std.view(-1, inputs)
        found[weight] = pooling.units.get(weight, 1.0) / std
    return found


def published(
    pooling: Pooling, learned: Mapping[str, Tensor], at: Coordinates
) -> dict[str, Tensor]:
    """The published parameters of ``pooling`` from those learned in the coordinates ``at``.

    Args:
        pooling: says which parameters meet the tokens.
        learned: its parameters by name, with leading axes or without.
        at: of the tokens as the pooling reads them.
    """
    found = dict(learned)
    for weight, factor in factors(pooling, at).items():
        found[weight] = learned[weight] * factor
        bias = f"{weight.removesuffix('.weight')}.bias"
        if bias in learned:
            found[bias] = learned[bias] - found[weight] @ at.mean
    for name in pooling.token_norms:
        weight, bias = f"{name}.weight", f"{name}.bias"
        found[weight] = learned[weight] / at.normed_std
        found[bias] = learned[bias] - found[weight] * at.normed_mean
    return found
