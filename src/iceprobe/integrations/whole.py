"""The module that a look runs: the trained one, or, where its weights are in pieces, a whole copy of it.

weights over processes ──gathered──▶ process 0 ──▶ a module of the caller's ──▶ the look
"""

from typing import Any

import torch
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.machine.processes import World

REMEDY = "give whole= a function that makes the module anew, into which its weights are gathered, or train under DDP"
ZERO_3 = (
    "look at checkpoints: iceprobe run --backbone … on the whole state_dict that the trainer saves"
)
# What wrappers put between the names of modules.
_WRAPPERS = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "module")


def check_whole(module: nn.Module, outer: nn.Module | None = None) -> None:
    """Refuse a module whose weights are in pieces, or whose forward pass needs all processes.

    Args:
        module: that is to be run.
        outer: what the trainer trains, which may wrap it.

    Raises:
        IceprobeError: naming what shards it.
    """
    for part in (module, outer):
        for one in part.modules() if part is not None else ():
            if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(one).__mro__):
                raise _sharded(module, "FSDP (FullyShardedDataParallel)")
    for name, parameter in module.named_parameters():
        kinds = {kind.__name__ for kind in type(parameter).__mro__}
        if kinds & {"DTensor", "FlatParameter"} or getattr(parameter, "_fsdp_flattened", False):
            raise _sharded(module, f"FSDP or tensor parallelism ({name} is in pieces)")
    check_gatherable(module)


def check_gatherable(module: nn.Module) -> None:
    """Refuse a module whose weights torch can't gather.

    Raises:
        IceprobeError: naming what shards it.
    """
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise _sharded(module, f"DeepSpeed's ZeRO 3 ({name} is in pieces)", ZERO_3)


def _sharded(module: nn.Module, by: str, remedy: str = REMEDY) -> IceprobeError:
    return IceprobeError(
        f"weights of {type(module).__name__} are spread over processes by {by}, and a look runs the whole: {remedy}"
    )


def gathered(module: nn.Module, outer: nn.Module | None) -> dict[str, Tensor]:
    """In process 0 the whole state of a module, on the host; in others nothing. All call it together.

    Args:
        module: that is trained.
        outer: what the trainer trains, which may wrap it.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    prefix, root = _place(module, outer)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(root, options=options)
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix) and isinstance(value, Tensor)
    }


def _place(module: nn.Module, outer: nn.Module | None) -> tuple[str, nn.Module]:
    """The prefix of a module's names within the module that is asked for its state, and that one."""
    whole = module if outer is None else outer
    for name, one in whole.named_modules():
        if one is module:
            parts = [part for part in name.split(".") if part and part not in _WRAPPERS]
            return "".join(f"{part}." for part in parts), whole
    return "", module  # a copy of its own: an average of weights


def filled(made: Any, state: dict[str, Tensor], module: nn.Module, processes: World) -> nn.Module:
    """A module with the state that process 0 has, in all ``processes``, on the device of ``module``.

    Args:
        made: the module, or a function that makes it.
        state: of process 0.
        module: that is trained.
        processes: that call it together.

    Raises:
        IceprobeError: if it is no module with the names and shapes of that state.
    """

    def load() -> nn.Module:
        copy = made if isinstance(made, nn.Module) else made()
        if not isinstance(copy, nn.Module):
            raise IceprobeError(
                f"whole= made {shown(copy)}: give a function that returns the nn.Module"
            )
        if processes.main:
            _load(copy, state)
        device = next((one.device for one in module.parameters()), torch.device("cpu"))
        return copy.requires_grad_(False).to(device)

    copy = processes.each(load)
    processes.align([*copy.parameters(), *copy.buffers()])
    return copy


def align(module: nn.Module, processes: World) -> None:
    """Give all processes the buffers of the first one, whose batch statistics are its own.

    Raises:
        IceprobeError: if their weights aren't the same.
    """
    if processes.size == 1:
        return
    processes.align(list(module.buffers()))
    names = [name for name, _ in module.named_parameters()]
    sums = processes.gather([_sum_of_bits(one) for one in module.parameters()])
    for rank, each in enumerate(sums):
        for name, one, other in zip(names, each, sums[0], strict=True):
            if one != other:
                raise IceprobeError(
                    f"process {rank} of {processes.size} has other weights than process 0 ({name}): processes='first' "
                    "looks at those of process 0"
                )


def _sum_of_bits(tensor: Tensor) -> int:
    """Equal of equal tensors, and most likely different of others."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return int(tensor.detach().contiguous().view(integers[tensor.itemsize]).sum())


def _load(copy: nn.Module, state: dict[str, Tensor]) -> None:
    own = copy.state_dict()
    for name in sorted({*own, *state}):
        here, there = own.get(name), state.get(name)
        if here is None or there is None or here.shape != there.shape:
            of = {True: "none", False: "one"}
            said = (
                f"{tuple(here.shape)}, trained {tuple(there.shape)}"
                if here is not None and there is not None
                else f"{of[here is None]}, trained {of[there is None]}"
            )
            raise IceprobeError(
                f"whole= made another {type(copy).__name__} than is trained ({name}: made {said}): give a function "
                "that makes the same module"
            )
    copy.load_state_dict(state)
