"""Members whose parameters are stacked, as the joint trainer and the optimiser use them.

A *member* is one probe with one learning rate, weight decay and seed. Members of the same probe have
equal shapes: a group keeps each of their parameters in one tensor with a leading member axis, so that
one batched product serves them all.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Member:
    """One probe with one learning rate, weight decay and seed."""

    probe: str
    learning_rate: float
    weight_decay: float
    seed: int

    @property
    def setting(self) -> tuple[float, float]:
        """Learning rate and weight decay."""
        return self.learning_rate, self.weight_decay


def members_of(
    points: Mapping[str, Sequence[tuple[float, float]]], seeds: Sequence[int]
) -> list[Member]:
    """A member of each seed at each of a probe's settings, by label."""
    return [
        Member(label, rate, decay, seed)
        for label, settings in points.items()
        for rate, decay in settings
        for seed in seeds
    ]


def by_probe(members: Iterable[Member]) -> dict[str, list[Member]]:
    """The members of each probe, in the order in which probes first appear."""
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(member.probe, []).append(member)
    return found


class Stacked(ABC):
    """G members of one probe.

    Attributes:
        members: all of the same probe.
        parameters: name → leaf tensor ``(G, …)`` that gradients reach.
        views: the members one by one, as views of the stacked tensors, for the optimiser.
    """

    members: list[Member]
    parameters: dict[str, Tensor]
    views: list[dict[str, nn.Parameter]]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def label(self) -> str:
        """Canonical spec string of the probe."""
        return self.members[0].probe

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """K, outputs an example or a patch."""

    @abstractmethod
    def probe(self, g: int) -> nn.Module:
        """Member ``g`` as an ordinary module in evaluation mode, a copy."""

    def probes(self) -> list[nn.Module]:
        """Every member as :meth:`probe` gives it."""
        return [self.probe(g) for g in range(len(self))]

    def trained(self) -> list[Tensor]:
        """All tensors that training changes, ``(G, …)`` each."""
        return list(self.parameters.values())

    def finite(self) -> Tensor:
        """Whether all trained values of each member are finite, ``(G,)``."""
        finite = [t.detach().flatten(1).isfinite().all(1) for t in self.trained()]
        return torch.stack(finite).all(0)

    @torch.no_grad()
    def keep(self, kept: Sequence[int]) -> None:
        """Keep the members numbered ``kept`` only, unchanged."""
        self.members = [self.members[g] for g in kept]
        index = list(kept)
        self.parameters = {
            n: t.detach()[index].requires_grad_() for n, t in self.parameters.items()
        }
        self.views = self._views()

    def hand_gradients(self) -> None:
        """Give each member's views their part of the stacked gradients, for the optimiser."""
        for name, stacked in self.parameters.items():
            for g, view in enumerate(self.views):
                view[name].grad = None if stacked.grad is None else stacked.grad[g]

    def forget_gradients(self) -> None:
        for name, stacked in self.parameters.items():
            stacked.grad = None
            for view in self.views:
                view[name].grad = None

    def state(self) -> dict[str, Tensor]:
        """All that training changes, by name; the tensors themselves, not copies."""
        return {name: stacked.detach() for name, stacked in self.parameters.items()}

    def _views(self) -> list[dict[str, nn.Parameter]]:
        return [
            {name: nn.Parameter(t.detach()[g]) for name, t in self.parameters.items()}
            for g in range(len(self))
        ]
