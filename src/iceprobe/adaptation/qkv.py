"""Split a fused ``qkv`` projection in three, so that one of them can be adapted alone.

    [q; k; v](x) = [W_q; W_k; W_v] x + [b_q; b_k; b_v]

timm has the three in one ``nn.Linear``, where LoRA would change all of them with one common A.
:func:`split_qkv` replaces it by a :class:`SplitQKV`, whose parts ``q``, ``k``, ``v`` are linear
layers that peft finds by name; :func:`fuse_qkv` restores one linear layer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError


class SplitQKV(nn.Module):
    """Three linear layers, their outputs side by side: ``(…, D)`` → ``(…, 3·D')``."""

    def __init__(self, fused: nn.Linear):
        super().__init__()
        if fused.out_features % 3:
            raise IceprobeError(f"{fused} can't be split in three: name modules= to adapt instead")
        biases: Sequence[Tensor | None] = (None,) * 3 if fused.bias is None else fused.bias.chunk(3)
        self.q, self.k, self.v = (
            _linear(weight, bias, fused)
            for weight, bias in zip(fused.weight.chunk(3), biases, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], -1)

    def fused(self) -> nn.Linear:
        """The three as one linear layer again."""
        parts = [self.q, self.k, self.v]
        bias = None if self.q.bias is None else torch.cat([p.bias for p in parts])
        return _linear(torch.cat([p.weight for p in parts]), bias, self.q)


def split_qkv(model: nn.Module, names: Sequence[str] | None = None) -> list[str]:
    """Replace fused projections by a :class:`SplitQKV` each, in place.

    Args:
        model: such as one of timm's.
        names: of the projections; default: every ``nn.Linear`` that is called ``qkv``.

    Returns:
        Names of those that were split.
    """
    names = list(fused_names(model) if names is None else names)
    _replace(model, names, lambda module: SplitQKV(module))  # type: ignore[arg-type]
    return names


def fuse_qkv(model: nn.Module) -> list[str]:
    """Replace each :class:`SplitQKV` by one linear layer, in place.

    Merge adapters first (peft's ``merge_and_unload``): the fused layer can't hold them.

    Returns:
        Names of those that were fused.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, SplitQKV)]
    _replace(model, names, lambda module: module.fused())  # type: ignore[operator]
    return names


def fused_names(model: nn.Module) -> list[str]:
    """Names of the fused projections."""
    return [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "qkv" and isinstance(module, nn.Linear)
    ]


def values_are_last(model: nn.Module, name: str, run: Callable[[], object]) -> bool:
    """Whether the last third of a fused projection holds the values.

    If the values are zero, attention must return the same vector at every token. This fails for
    models that order q, k and v by heads, and for those that read the projection's weight without
    its ``forward``.

    Args:
        model: contains ``name``.
        name: of the fused projection.
        run: passes an example that isn't blank through the model.
    """
    attention = model.get_submodule(name.rpartition(".")[0])
    seen: list[bool] = []

    def without_values(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        third = output.shape[-1] // 3
        return torch.cat([output[..., : 2 * third], torch.zeros_like(output[..., :third])], -1)

    def compare(module: nn.Module, inputs: object, output: object) -> None:
        tokens = output if isinstance(output, Tensor) else output[0]  # type: ignore[index]
        tokens = tokens.reshape(-1, tokens.shape[-1])
        seen.append(torch.allclose(tokens, tokens[:1].expand_as(tokens), atol=1e-6))

    fused = model.get_submodule(name).register_forward_hook(without_values)
    with torch.no_grad(), fused, attention.register_forward_hook(compare):
        run()
    return bool(seen) and all(seen)


def _linear(weight: Tensor, bias: Tensor | None, like: nn.Linear) -> nn.Linear:
    rows, columns = weight.shape
    made = nn.Linear(columns, rows, bias is not None, device="meta", dtype=weight.dtype)
    trains = like.weight.requires_grad
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=trains)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=trains)
    return made.train(like.training)


def _replace(
    model: nn.Module, names: Sequence[str], make: Callable[[nn.Module], nn.Module]
) -> None:
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, make(model.get_submodule(name)))
