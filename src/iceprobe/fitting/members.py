"""Members, and groups of members whose parameters live side by side.

A *member* is one probe with one learning rate, weight decay and seed. Members of the same probe
have equal shapes: a *group* keeps each of their parameters in one tensor with a leading member
axis, so that one batched product serves them all.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from iceprobe.distributed.batches import part_of_batch
from iceprobe.fitting.whitening import Whitening
from iceprobe.probes import build, parse_probe
from iceprobe.probes.linear import Linear
from iceprobe.probes.pooling import QueryPooling
from iceprobe.probes.probe import Probe
from iceprobe.products import linears
from iceprobe.store.format import Manifest


@dataclass(frozen=True)
class Member:
    """One probe with one learning rate, weight decay and seed."""

    probe: str
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Shape:
    """What of a store decides the shapes of its probes."""

    dim: int
    num_classes: int
    grid: tuple[int, int] | None
    has_class: bool
    pooled_class: bool = False
    vectors: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        shape = manifest.shape
        return cls(
            shape.dim,
            len(manifest.dataset.classes),
            shape.grid,
            shape.has_class,
            manifest.backbone.pooled_class,
            shape.vectors,
        )

    def build(self, probe: str, seed: int | None = None) -> Probe:
        """A probe of this shape; with a seed, initialised by it alone."""
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.default_generator.manual_seed(seed)  # the CPU's only: others aren't forked
            return build(
                parse_probe(probe),
                dim=self.dim,
                num_classes=self.num_classes,
                grid=self.grid,
                has_class=self.has_class,
                pooled_class=self.pooled_class,
                vectors=self.vectors,
            )


class Group:
    """Members of one probe, stacked.

    Attributes:
        members: G of them, all of the same probe.
        parameters: name → leaf tensor ``(G, …)`` that gradients reach.
        template: a probe of this shape.
        buffers: of its pooling, by name. Where scores are linear in the tokens they are statistics
            of the tokens, the same for every member of a batch, and are the template's own;
            elsewhere they follow from a member's parameters and lie stacked, ``(G, …)``.
        running_mean, running_var: ``(G, D_o)`` statistics of the descriptors, ``None`` for a
            probe without batch norm.
        fixed_statistics: whether the running ones are those of all training images already, and
            serve in training too.
        views: the members one by one, as views of the stacked tensors, for the optimiser.
        whitened: the name of a weight that is learned in whitened coordinates, and the matrix
            that its parameter is multiplied by (see `fitting/whitening.py`).
    """

    def __init__(
        self,
        members: list[Member],
        shape: Shape,
        device: torch.device,
        whitening: Whitening | None = None,
    ):
        self.members = members
        probes = [shape.build(member.probe, member.seed).to(device) for member in members]
        self.template = probes[0]
        before = whitening.before(self.template) if whitening is not None else None
        self.whitened = (before[0], before[1].to(device)) if before is not None else None
        stacked: dict[str, Tensor] = {}
        for name, _ in self.template.named_parameters():
            stacked[name] = torch.stack([p.get_parameter(name).detach() for p in probes])
        if self.whitened is not None:  # W' such that training starts from the same probe
            name, matrix = self.whitened
            inverse = torch.linalg.inv(matrix.double()).to(stacked[name].dtype)
            stacked[name] = stacked[name] @ inverse
        self.parameters = {name: t.requires_grad_() for name, t in stacked.items()}
        self.buffers = {
            name: buffer
            if self.shares_attention
            else torch.stack([p.pooling.get_buffer(name) for p in probes])
            for name, buffer in self.template.pooling.named_buffers()
        }
        self.norm = self.template.norm if isinstance(self.template.norm, nn.BatchNorm1d) else None
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
        self.views = self._views()

    def __len__(self) -> int:
        return len(self.members)

    @property
    def input(self) -> str:
        return self.template.input

    @property
    def shares_attention(self) -> bool:
        """Whether its scores are linear in the tokens, so that its queries join everybody's."""
        return isinstance(self.template.pooling, QueryPooling)

    @property
    def layer_norm(self) -> float | None:
        """ε of the LayerNorm through which it reads the tokens, if there is one."""
        pooling = self.template.pooling
        return pooling.layer_norm if isinstance(pooling, QueryPooling) else None

    @property
    def regularised(self) -> bool:
        """Whether its loss reads the attention as well as the logits."""
        return bool(self.template.regularisation)

    def weight(self, name: str) -> Tensor:
        """The parameter ``name`` of all members as the probe uses it, ``(G, …)``."""
        parameter = self.parameters[name]
        if self.whitened is None or self.whitened[0] != name:
            return parameter
        return parameter @ self.whitened[1].to(parameter.dtype)

    def queries(self, stats: Any) -> Tensor:
        """Folded queries of all members, ``(G·M, D)``."""
        return self._each("queries", (None,))(stats).flatten(0, 1)

    def values(self, pooled: Tensor, stats: Any) -> Tensor:
        """Pooled tokens ``(B, G·M, D)`` of the group's queries → descriptors ``(G, B, D_o)``."""
        pooled = pooled.unflatten(1, (len(self), -1))
        return self._each("values", (1, None))(pooled, stats)

    def penalties(self, log_weights: Tensor, weights: Tensor) -> Tensor:
        """ln of its attention, and that, ``(B, G·M, N)`` → what each member's loss has more, ``(G,)``."""
        of_members = [t.unflatten(1, (len(self), -1)) for t in (log_weights, weights)]
        return self.template.regularisation(*of_members).mean(0)

    def pool(self, tokens: Tensor) -> Tensor:
        """Descriptors ``(G, B, D_o)`` of a pooling that shares nothing, one member at a time."""
        call = _Call(self.template.pooling, "forward")
        stacked = {n: t for n, t in self.parameters.items() if n.startswith("pooling.")}
        if not stacked:
            return call(tokens)[None].expand(len(self), -1, -1)
        weights = {name: self.weight(name) for name in stacked}
        weights |= {f"pooling.{n}": buffer for n, buffer in self.buffers.items()}
        return torch.stack(
            [
                functional_call(call, {n: w[g] for n, w in weights.items()}, (tokens,))
                for g in range(len(self))
            ]
        )

    def classify(self, descriptors: Tensor, training: bool) -> Tensor:
        """Batch norm without affine, then each member's linear classifier: ``(G, B, C)``."""
        weight, bias = self.weight("classifier.weight"), self.parameters["classifier.bias"]
        y = descriptors.to(weight.dtype)
        training = training and not self.fixed_statistics
        if self.norm is not None:
            mean = y.mean(1) if training else self.running_mean
            y = y - mean[:, None]
            var = y.square().mean(1) if training else self.running_var
            if training:
                images, part = y.shape[1], part_of_batch()
                if part is not None:
                    own, images = mean, part.images
                    mean, var = part.moments(own, var)
                    y = y + (own - mean)[:, None]
                self._track(mean, var, images)
            y = y * torch.rsqrt(var[:, None] + self.norm.eps)
        return linears(y, weight) + bias[:, None]

    def hand_gradients(self) -> None:
        """Give the members' views their part of the stacked gradients, for the optimiser."""
        for name, stacked in self.parameters.items():
            for g, view in enumerate(self.views):
                view[name].grad = None if stacked.grad is None else stacked.grad[g]

    def forget_gradients(self) -> None:
        for name, stacked in self.parameters.items():
            stacked.grad = None
            for view in self.views:
                view[name].grad = None

    @torch.no_grad()
    def keep(self, places: Sequence[int]) -> None:
        """Go on with the members at ``places`` only; each is as it was."""
        index = torch.tensor(places, device=self.running_mean.device)
        self.members = [self.members[g] for g in places]
        self.parameters = {
            name: t.detach()[index].requires_grad_() for name, t in self.parameters.items()
        }
        if not self.shares_attention:
            self.buffers = {name: buffer[index] for name, buffer in self.buffers.items()}
        self.running_mean, self.running_var = self.running_mean[index], self.running_var[index]
        self.views = self._views()

    def finite(self) -> Tensor:
        """Whether all that a member has learned is finite, ``(G,)``."""
        learned = [*self.parameters.values(), self.running_mean, self.running_var]
        return torch.stack([t.detach().flatten(1).isfinite().all(1) for t in learned]).all(0)

    def probe(self, g: int) -> Probe:
        """Member ``g`` as an ordinary module, a copy."""
        probe = copy.deepcopy(self.template)
        with torch.no_grad():
            for name in self.parameters:
                probe.get_parameter(name).copy_(self.weight(name)[g])
            for name, buffer in self.buffers.items():
                own = buffer if self.shares_attention else buffer[g]
                probe.pooling.get_buffer(name).copy_(own)
            if isinstance(probe.norm, nn.BatchNorm1d):
                probe.norm.running_mean.copy_(self.running_mean[g])  # type: ignore[union-attr]
                probe.norm.running_var.copy_(self.running_var[g])  # type: ignore[union-attr]
        return probe.eval()

    def state(self) -> dict[str, Tensor]:
        """All that training changes, by name; the tensors themselves, not copies."""
        state = {name: stacked.detach() for name, stacked in self.parameters.items()}
        buffers = {f"buffer.{n}": b for n, b in self.buffers.items()}
        running = {"running_mean": self.running_mean, "running_var": self.running_var}
        return {**state, **buffers, **running}

    def _views(self) -> list[dict[str, nn.Parameter]]:
        return [
            {name: nn.Parameter(t.detach()[g]) for name, t in self.parameters.items()}
            for g in range(len(self))
        ]

    def _each(self, method: str, in_dims: tuple[int | None, ...]) -> Callable[..., Tensor]:
        """``pooling.method`` over the member axis of the parameters."""
        call = _Call(self.template.pooling, method)
        mine = {n: t for n, t in self.parameters.items() if n.startswith("pooling.")}

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
    shape: Shape,
    device: torch.device,
    whitenings: Mapping[str, Whitening] | None = None,
) -> list[Group]:
    """One group a probe, in the order in which probes first appear; ``whitenings`` by input."""
    by_probe: dict[str, list[Member]] = {}
    for member in members:
        by_probe.setdefault(member.probe, []).append(member)
    known = whitenings or {}
    return [
        Group(group, shape, device, known.get(shape.build(probe).input))
        for probe, group in by_probe.items()
    ]
