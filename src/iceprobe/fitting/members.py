"""Groups of members of pooled probes, with stacked parameters (`fitting/stacked.py`)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from iceprobe.fitting.stacked import Member as Member
from iceprobe.fitting.stacked import Stacked, by_probe
from iceprobe.fitting.whitening import Whitening
from iceprobe.machine.products import linears
from iceprobe.machine.shared_batches import part_of_batch
from iceprobe.probes.aim import NormalisedTokens
from iceprobe.probes.coordinates import Coordinates, published
from iceprobe.probes.linear import Linear
from iceprobe.probes.masks import given
from iceprobe.probes.pooling import QueryPooling
from iceprobe.probes.probe import Probe, build_for
from iceprobe.tasks.task import Task
from iceprobe.tokens import TokenShape


class Group(Stacked):
    """Members of one pooled probe, stacked.

    Attributes:
        template: a probe of this shape.
        buffers: of its pooling, by name. If scores are linear in the tokens they are statistics of
            the tokens, the same for every member, and are the template's own; otherwise they depend
            on a member's parameters and are stacked, ``(G, …)``.
        running_mean, running_var: ``(G, D_o)`` statistics of the descriptors.
        fixed_statistics: whether these are measured on all training images and used in training too.
        weights: the published probe's parameters, ``(G, …)``, which `fold` computes of the trained
            ones.
        coordinates: of the tokens, if it is trained in them (`probes/coordinates.py`).
        whitened: name of a weight that is trained in whitened coordinates, and the matrix that its
            parameter is multiplied by (`fitting/whitening.py`).
        scale: s, the factor of the tokens that it reads.
        scaling: μ and σ of the outputs, if the task has them: logits z are handed out as σ z + μ.
    """

    def __init__(
        self,
        members: list[Member],
        shape: TokenShape,
        num_classes: int,
        device: torch.device,
        whitening: Whitening | None = None,
        coordinates: Coordinates | None = None,
        scaling: tuple[Tensor, Tensor] | None = None,
        task: Task | None = None,
    ):
        self.members = members
        self.scaling = None if scaling is None else tuple(one.to(device) for one in scaling)
        probes = [
            build_for(shape, member.probe, num_classes, member.seed, task).to(device)
            for member in members
        ]
        self.template = probes[0]
        self.norm = self.template.norm if isinstance(self.template.norm, nn.BatchNorm1d) else None
        before = whitening.before(self.template) if whitening is not None else None
        self.whitened = (before[0], before[1].to(device)) if before is not None else None
        stacked: dict[str, Tensor] = {}
        for name, _ in self.template.named_parameters():
            stacked[name] = torch.stack([p.get_parameter(name).detach() for p in probes])
        if self.whitened is not None:  # W' such that training starts from the same probe
            name, matrix = self.whitened
            inverse = torch.linalg.inv(matrix.double()).to(stacked[name].dtype)
            stacked[name] = stacked[name] @ inverse
        if coordinates is not None:  # the published start, of tokens in standardised coordinates
            for name, unit in self.template.pooling.units.items():
                stacked[f"pooling.{name}"] /= unit
        self.parameters = {name: t.requires_grad_() for name, t in stacked.items()}
        self.weights = self.parameters
        self._enter(coordinates, whitening, device)
        if isinstance(self.template.pooling, NormalisedTokens) and self.coordinates is not None:
            self.template.pooling.enter_coordinates(self.coordinates)
        self.buffers = {
            name: buffer
            if self.shares_attention
            else torch.stack([p.pooling.get_buffer(name) for p in probes])
            for name, buffer in self.template.pooling.named_buffers()
        }
        size = (len(members), self.template.pooling.out_dim)
        self.running_mean = torch.zeros(size, device=device)
        self.running_var = torch.ones(size, device=device)
        self.fixed_statistics = (
            whitening is not None
            and self.norm is not None
            and isinstance(self.template.pooling, Linear)
        )
        if whitening is not None and self.fixed_statistics:
            self.running_mean += whitening.mean.to(device)
            self.running_var *= whitening.std.to(device).square()
        elif self.coordinates is not None and self.template.pooling.own_values:
            self.running_var *= self.coordinates.std.square()
        self.views = self._views()

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.template.classifier.out_features

    @property
    def input(self) -> str:
        return self.template.input

    @property
    def parts(self) -> int:
        """Rows of its input for each example (`TokenShape.parts`)."""
        return self.template.parts

    @property
    def shares_attention(self) -> bool:
        """Whether its scores are linear in the tokens: one product serves all such groups."""
        return isinstance(self.template.pooling, QueryPooling)

    @property
    def layer_norm(self) -> float | None:
        """ε of its LayerNorm of the tokens, if it has one; LN of s x with ε is LN of x with ε/s²."""
        pooling = self.template.pooling
        if not isinstance(pooling, QueryPooling) or pooling.layer_norm is None:
            return None
        return pooling.layer_norm / self.scale**2

    @property
    def regularised(self) -> bool:
        """Whether its loss reads the attention as well as the logits."""
        return bool(self.template.regularisation)

    def fold(self) -> None:
        """Compute `weights` of the trained parameters, differentiably."""
        self.weights = self.parameters
        if self.coordinates is not None:
            trained = {
                name.removeprefix("pooling."): t
                for name, t in self.parameters.items()
                if name.startswith("pooling.")
            }
            folded = published(self.template.pooling, trained, self.coordinates)
            self.weights = self.parameters | {f"pooling.{n}": t for n, t in folded.items()}
        if self.whitened is not None:
            name, matrix = self.whitened
            weight = self.parameters[name]
            self.weights = self.parameters | {name: weight @ matrix.to(weight.dtype)}

    def queries(self, stats: Any) -> Tensor:
        """Folded queries of all members, ``(G·M, D)``."""
        return self._each("queries", (None,))(stats).flatten(0, 1)

    def values(self, pooled: Tensor, stats: Any) -> Tensor:
        """Pooled tokens ``(B, G·M, D)`` of the group's queries → descriptors ``(G, B, D_o)``."""
        pooled = pooled.unflatten(1, (len(self), -1))
        return self._each("values", (1, None))(pooled, stats)

    def penalties(self, log_weights: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
        """Its attention and the logarithms, ``(B, G·M, N)`` → terms of the members' losses, ``(G,)``."""
        of_members = [t.unflatten(1, (len(self), -1)) for t in (log_weights, weights)]
        return self.template.regularisation(*of_members, *given(mask)).mean(0)

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Descriptors ``(G, B, D_o)`` of a pooling that shares nothing, one member at a time."""
        call = _Call(self.template.pooling, "forward")
        tokens = tokens * self.scale if self.scale != 1 else tokens
        weights = {n: t for n, t in self.weights.items() if n.startswith("pooling.")}
        if not weights:
            return call(tokens, *given(mask))[None].expand(len(self), -1, -1)
        weights |= {f"pooling.{n}": buffer for n, buffer in self.buffers.items()}
        members = [{n: w[g] for n, w in weights.items()} for g in range(len(self))]
        inputs = (tokens, *given(mask))
        return torch.stack([functional_call(call, mine, inputs) for mine in members])

    def classify(self, descriptors: Tensor, training: bool) -> Tensor:
        """Batch norm without affine, each member's linear classifier, the outputs' scaling: ``(G, B, K)``."""
        weight, bias = self.weights["classifier.weight"], self.weights["classifier.bias"]
        y = descriptors.to(weight.dtype) - self._offset()
        training = training and not self.fixed_statistics
        if self.norm is not None:
            mean = y.mean(1) if training else self.running_mean
            y = y - mean[:, None]
            var = y.square().mean(1) if training else self.running_var
            if training:
                images, part = y.shape[1], part_of_batch()
                if part is not None:
                    own, images = mean, part.images * self.parts
                    mean, var = part.moments(own, var)
                    y = y + (own - mean)[:, None]
                self._track(mean, var, images)
            y = y * torch.rsqrt(var[:, None] + self._epsilon)
        logits = linears(y, weight) + bias[:, None]
        if self.scaling is not None:
            shift, scale = self.scaling
            logits = logits * scale + shift
        return logits

    @torch.no_grad()
    def keep(self, kept: Sequence[int]) -> None:
        super().keep(kept)
        index = list(kept)
        if not self.shares_attention:
            self.buffers = {name: buffer[index] for name, buffer in self.buffers.items()}
        self.running_mean, self.running_var = self.running_mean[index], self.running_var[index]

    def trained(self) -> list[Tensor]:
        return [*self.parameters.values(), self.running_mean, self.running_var]

    def probe(self, g: int) -> Probe:
        """Member ``g`` as an ordinary module, a copy."""
        probe = copy.deepcopy(self.template)
        with torch.no_grad():
            self.fold()
            for name, weights in self.weights.items():
                probe.get_parameter(name).copy_(weights[g])
            offset = self._offset().expand(len(self), 1, self.template.pooling.out_dim)[g, 0]
            for name, buffer in self.buffers.items():
                own = buffer if self.shares_attention else buffer[g]
                probe.pooling.get_buffer(name).copy_(own)
            if isinstance(probe.norm, nn.BatchNorm1d):
                probe.norm.running_mean.copy_(self.running_mean[g] + offset)  # type: ignore[union-attr]
                probe.norm.running_var.copy_(self.running_var[g])  # type: ignore[union-attr]
                # In training the divisor was √(v + ετ²), in the module it is √(v + ε).
                variance = self.running_var[g]
                ratio = (variance + probe.norm.eps) / (variance + self._epsilon)
                probe.classifier.weight.mul_(ratio.sqrt())
            else:
                probe.classifier.bias.sub_(probe.classifier.weight @ offset)
            if isinstance(probe.pooling, NormalisedTokens):
                probe.pooling.leave_coordinates()
            if self.scale != 1:
                probe.scale = torch.tensor(self.scale, device=self.running_mean.device)
            if self.scaling is not None:
                weight, bias = probe.classifier.weight, probe.classifier.bias
                shift, scale = (one.to(weight) for one in self.scaling)
                weight.mul_(scale[:, None])
                bias.copy_(bias * scale + shift)
        return probe.eval()

    def _enter(
        self, coordinates: Coordinates | None, whitening: Whitening | None, device: torch.device
    ) -> None:
        """Set the coordinates of training: of the tokens, or of whitened pooled vectors."""
        pooling, self.scale = self.template.pooling, 1.0
        unit = None if whitening is None or not pooling.own_values else whitening.std.to(device)
        self.coordinates = None if coordinates is None else coordinates.to(device)
        if self.coordinates is not None:
            if not pooling.linear_in_tokens:
                self.scale = self.coordinates.scale
                self.coordinates = self.coordinates.scaled()
            if pooling.own_values:
                unit = self.coordinates.std
        eps = 0.0 if self.norm is None else self.norm.eps
        # The batch norm's ε is for descriptors of deviation about 1.
        self._epsilon = eps if unit is None else eps * unit.square()

    def _offset(self) -> Tensor:
        """The part of every descriptor that the mean token μ makes, ``(G, 1, D_o)`` or 0.

        Standardised tokens make none. A map's bias or a norm in front subtracts it already; for the
        others it is subtracted here.
        """
        pooling, at = self.template.pooling, self.coordinates
        if at is None:
            return self.running_mean.new_zeros(())
        if pooling.own_values:
            return at.mean
        maps = [f"pooling.{name}" for name in pooling.token_maps]
        biased = any(f"{name}.bias" in self.weights for name in maps)
        if not maps or biased or not isinstance(pooling, QueryPooling):
            return self.running_mean.new_zeros(())
        return self.values(at.mean.expand(1, len(self) * pooling.num_predictors, -1), None)

    def state(self) -> dict[str, Tensor]:
        buffers = {f"buffer.{n}": b for n, b in self.buffers.items()}
        running = {"running_mean": self.running_mean, "running_var": self.running_var}
        return super().state() | buffers | running

    def _each(self, method: str, in_dims: tuple[int | None, ...]) -> Callable[..., Tensor]:
        """``pooling.method`` over the member axis of the parameters."""
        call = _Call(self.template.pooling, method)
        mine = {n: t for n, t in self.weights.items() if n.startswith("pooling.")}

        def one(parameters: dict[str, Tensor], *inputs: Any) -> Tensor:
            return functional_call(call, parameters, inputs)

        return lambda *inputs: vmap(one, in_dims=(0, *in_dims))(mine, *inputs)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        assert self.norm is not None
        momentum = self.norm.momentum or 0.1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * (count / max(1, count - 1)), momentum)


class _Call(nn.Module):
    """A method of a pooling as a module, since ``functional_call`` calls ``forward`` only."""

    def __init__(self, pooling: nn.Module, method: str):
        super().__init__()
        self.pooling, self.method = pooling, method

    def forward(self, *inputs: Any) -> Tensor:
        return getattr(self.pooling, self.method)(*inputs)


def make_groups(
    members: list[Member],
    shape: TokenShape,
    num_classes: int,
    device: torch.device,
    whitenings: Mapping[str, Whitening] | None = None,
    coordinates: Mapping[str, Coordinates] | None = None,
    scaling: tuple[Tensor, Tensor] | None = None,
    task: Task | None = None,
) -> list[Group]:
    """One group a probe; ``whitenings`` of pooled vectors and ``coordinates`` of tokens are by input.

    ``task``: whose outputs they are; only fitted probes of examples in parts need it.
    """
    groups = []
    for probe, alike in by_probe(members).items():
        read = build_for(shape, probe, num_classes).input
        of_vectors, of_tokens = (whitenings or {}).get(read), (coordinates or {}).get(read)
        groups.append(
            Group(alike, shape, num_classes, device, of_vectors, of_tokens, scaling, task)
        )
    return groups
