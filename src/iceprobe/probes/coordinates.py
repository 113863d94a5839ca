"""Standardised coordinates: probes are trained in them and converted back to the published form.

    x̂ = (x − μ)/σ        W x̂ + b  =  (W/σ) x + (b − (W/σ) μ)

Without this, a probe would depend on the units of the features (docs/coordinates.md). μ and σ are
the mean and the deviation of each dimension of the training tokens; σ is at least a tenth of the
distance from μ to the farthest value. (A step of AdamW changes W x̂ by the rate times x̂. In a
dimension that is rarely active, with values hundreds of deviations from μ, a single step would
dominate the output.)

The weights W of a pooling's `token_maps` are trained for x̂; the published probe has W/σ on x. A
map without bias keeps the shift: it cancels in every softmax, and the batch norm removes it from
the values.

A LayerNorm in front isn't linear, but its affine is: that is trained for the normalised tokens in
standardised coordinates (`Pooling.token_norms`), γ/σ̃ and β − (γ/σ̃) μ̃. Its ε, and all else that
isn't linear, assumes tokens of deviation about 1: such poolings read s x, with a scalar s that is
stored with the probe (`Probe.scale`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from iceprobe.probes.pooling import Pooling

NEAR = 10.0  # median lengths; a longer token is an artefact
MOST_LEFT_OUT = 0.1  # share of the tokens; if more are that long, none is an artefact
FARTHEST = 10.0  # the largest |x̂| of the training tokens
COLUMNS = 16  # computed at a time; all together would take several times the memory of the tokens


@dataclass(frozen=True)
class Coordinates:
    """Standardised coordinates of tokens x ∈ R^D."""

    mean: Tensor  # μ, (D,)
    std: Tensor  # σ, (D,), so large that |x̂| is at most `FARTHEST`; 1 if a dimension is constant
    scale: float  # s, one over the median token's deviation over its channels
    normed_mean: Tensor  # μ̃, (D,), of LN(x) without affine
    normed_std: Tensor  # σ̃, (D,), likewise

    @classmethod
    def of(cls, tokens: Tensor) -> Self:
        """Of training tokens ``(n, D)``, in float32, without artefacts (:func:`usual`)."""
        tokens = usual(tokens.float())
        mean, std = location_and_scale(tokens)
        own_std, own_mean = torch.std_mean(tokens, -1, correction=0, keepdim=True)
        spread = float(own_std.median())
        # A constant token is normalised to 0.
        length = torch.where(own_std > 0, own_std, 1.0)
        normed = location_and_scale(tokens, lambda columns: (columns - own_mean) / length)
        return cls(mean, std, 1 / spread if spread else 1.0, *normed)

    def scaled(self) -> Self:
        """Coordinates of s x."""
        return replace(self, mean=self.mean * self.scale, std=self.std * self.scale, scale=1.0)

    def to(self, device: torch.device) -> Self:
        names = ("mean", "std", "normed_mean", "normed_std")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def usual(tokens: Tensor) -> Tensor:
    """Tokens ``(n, D)`` without artefacts, those longer than `NEAR` median lengths.

    A token's length is its mean absolute distance from the median, each dimension in units of its
    root mean square distance. None is left out if more than `MOST_LEFT_OUT` are that long. (Single
    values are kept: in a dimension that is rarely active they are all its information.)
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

    ``of`` gets a few columns at a time. σ is the larger of the deviation and the farthest distance
    from μ over `FARTHEST`; 1 if a column is constant.
    """
    means, scales = [], []
    for columns in values.split(COLUMNS, 1):
        found = of(columns)
        centre = found.median(0).values  # no cancellation far from 0; constants are exactly 0
        away = found - centre
        std, mean = torch.std_mean(away, 0, correction=0)
        scale = torch.maximum(std, (away - mean).abs().amax(0) / FARTHEST)
        means.append(centre + mean)
        scales.append(torch.where(std > 0, scale, 1.0))
    return torch.cat(means), torch.cat(scales)


def factors(pooling: Pooling, at: Coordinates) -> dict[str, Tensor]:
    """Name of each weight in `Pooling.token_maps` → the factor of the learned one, κ/σ.

    κ is the unit of the map (`Pooling.units`).
    """
    found, parameters = {}, dict(pooling.named_parameters())
    for name in pooling.token_maps:
        weight = name if name in parameters else f"{name}.weight"
        inputs = parameters[weight].shape[-1]  # fewer than D if each row reads a slice
        std = at.std if inputs == len(at.std) else at.std.view(-1, inputs)
        found[weight] = pooling.units.get(weight, 1.0) / std
    return found


def published(
    pooling: Pooling, learned: Mapping[str, Tensor], at: Coordinates
) -> dict[str, Tensor]:
    """Convert parameters ``learned`` in the coordinates ``at`` to the published form.

    They are given by name, with or without leading axes.
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
