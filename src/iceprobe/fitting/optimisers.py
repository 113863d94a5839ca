"""Optimisers of the two protocols, and the schedule of the learning rate.

Members have their own parameters, views of stacked tensors, so ordinary optimisers can train them.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017) as masked autoencoders probe with it.

    For a parameter p of two or more dimensions, with gradient g::

        g ← g + wd·p;   g ← g · η‖p‖ / ‖g‖   (factor 1 where either norm is 0)

    and for every parameter ``μ ← 0.9 μ + g;  p ← p − lr·μ``. Parameters of one dimension or less
    get neither decay nor trust ratio. (timm's ``Lars`` differs: its ratio adds both norms and
    takes no ratio at all without weight decay.)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.6,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"trust_coefficient": trust_coefficient})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in parameters if p.ndim > 1]
            if matrices:
                self._scale([p.grad for p in matrices], matrices, group)
            momenta = [self._momentum(p) for p in parameters]
            if parameters:
                torch._foreach_mul_(momenta, group["momentum"])
                torch._foreach_add_(momenta, [p.grad for p in parameters])
                torch._foreach_add_(parameters, momenta, alpha=-group["lr"])
        return loss

    @staticmethod
    def _scale(gradients: list[Tensor], parameters: list[Tensor], group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
        p_norms = torch.stack(torch._foreach_norm(parameters))
        g_norms = torch.stack(torch._foreach_norm(gradients))
        ratios = group["trust_coefficient"] * p_norms / g_norms
        ratios = torch.where((p_norms > 0) & (g_norms > 0), ratios, 1.0)
        torch._foreach_mul_(gradients, list(ratios.unbind()))

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def build_optimizer(name: str, groups: list[dict[str, Any]]) -> Optimizer:
    """``"adamw"`` (torch's own, fused) or ``"lars"`` over ``groups`` with their lr and decay."""
    if name == "lars":
        return LARS(groups)
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)


def hand_over(old: Optimizer, new: Optimizer, heirs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy the moments of each parameter of ``old`` to the one of ``new`` that replaces it."""
    for parameter, heir in heirs:
        if parameter in old.state:
            new.state[heir] = old.state[parameter]


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the peak learning rate at ``step`` of ``steps``: linear rise, half-cosine to 0."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
