"""The module that a look runs: the trained one, or, where its weights are in pieces, a whole copy of it.

weights over processes ──gathered──▶ process 0 ──▶ a module of the caller's ──▶ the look
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from iceprobe.backbones.wrappers import inside_of
from iceprobe.core.checksums import tensors_digest
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.machine.processes import World

FSDP, DDP = "FullyShardedDataParallel", "DistributedDataParallel"
REMEDY = "give whole= a function that makes the module anew, into which its weights are gathered, or train under DDP"
ZERO_3 = (
    "look at checkpoints: iceprobe run --backbone … on the whole state_dict that the trainer saves"
)
# Class of a wrapper → what torch leaves out of the names of a gathered state.
_LEFT_OUT = {
    FSDP: "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OptimizedModule": "_orig_mod",
    DDP: "module",
}
State = dict[str, Any]  # of tensors, and of what get_extra_state gives


def _is(module: nn.Module, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(module).__mro__)


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
            if _is(one, FSDP):
                raise _sharded(module, f"FSDP ({FSDP})")
    for name, parameter in module.named_parameters():
        kinds = {kind.__name__ for kind in type(parameter).__mro__}
        if kinds & {"DTensor", "FlatParameter"} or getattr(parameter, "_fsdp_flattened", False):
            raise _sharded(module, f"FSDP or tensor parallelism ({name} is in pieces)")
    for name, one in _within(module).named_modules():
        if _is(one, DDP):
            raise IceprobeError(
                f"{name} of {type(module).__name__} is wrapped by {DDP}, whose forward pass needs all processes: select= the module inside, or give whole= a function that makes this one anew, without it"
            )
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


def gathered(module: nn.Module, outer: nn.Module | None) -> State | None:
    """In process 0 the whole state of a module, on the host; in others nothing. All call it together.

    Buffers that a ``state_dict`` leaves out are in it too.

    Args:
        module: that is trained.
        outer: what the trainer trains, which may wrap it.

    Returns:
        ``None`` before the first forward pass under FSDP, which learns by that pass which module is the outermost.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    module = _within(module)
    prefix, root = _place(module, outer)
    if any(_is(one, FSDP) and one._is_root is None for one in root.modules()):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole = get_model_state_dict(root, options=options)
    state = {
        name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)
    }
    for name, buffer in _left_out(module).items():
        full = buffer.full_tensor() if hasattr(buffer, "full_tensor") else buffer
        state[_cleaned(module, name)] = full.detach().cpu()
    return state


def _left_out(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that a ``state_dict`` leaves out."""
    return {
        f"{name}.{key}".removeprefix("."): buffer
        for name, part in module.named_modules()
        for key, buffer in part.named_buffers(recurse=False)
        if key in part._non_persistent_buffers_set
    }


def _within(module: nn.Module) -> nn.Module:
    """The module inside wrappers that don't change the output."""
    inside: nn.Module = inside_of(module)
    return module if inside is module else _within(inside)


def _place(module: nn.Module, outer: nn.Module | None) -> tuple[str, nn.Module]:
    """The prefix of a module's names within the module that is asked for its state, and that one."""
    whole = module if outer is None else outer
    for name, one in whole.named_modules():
        if one is module:
            name = _cleaned(whole, name)
            return f"{name}." if name else "", whole
    return "", module  # a copy of its own: an average of weights


def _cleaned(root: nn.Module, name: str) -> str:
    """The name of a part of ``root``, without what wrappers put into it."""
    kept, parent = [], root
    for part in name.split("."):
        if not any(_is(parent, kind) and part == inner for kind, inner in _LEFT_OUT.items()):
            kept.append(part)
        parent = getattr(parent, part, parent)
    return ".".join(kept)


def filled(
    made: nn.Module | Callable[[], Any],
    state: State | None,
    module: nn.Module,
    outer: nn.Module | None,
    processes: World,
) -> nn.Module:
    """A module with the state that process 0 has, in all ``processes``, on the host.

    Args:
        made: the module, or a function that makes it.
        state: of process 0; ``None`` leaves the module as it is.
        module: that is trained.
        outer: what the trainer trains, which may wrap it.
        processes: that call it together.

    Raises:
        IceprobeError: if it is no module of its own with the names, shapes and dtypes of that state.
    """

    def load() -> nn.Module:
        copy = made if isinstance(made, nn.Module) else made()
        if not isinstance(copy, nn.Module):
            raise IceprobeError(
                f"whole= made {shown(copy)}: give a function that returns the nn.Module"
            )
        trained = {
            id(one) for part in (module, outer) if part is not None for one in part.parameters()
        }
        if any(id(one) in trained for one in copy.parameters()):
            raise IceprobeError(
                "whole= gave the trained module itself, or a part of it: give a function that makes it anew"
            )
        if processes.main and state is not None:
            _load(copy, state)
        return copy.requires_grad_(False)

    copy = processes.each(load)
    processes.copy_first([*copy.parameters(), *copy.buffers()])
    return copy


def _load(copy: nn.Module, state: State) -> None:
    left_out = _left_out(copy)
    own: State = {**copy.state_dict(), **left_out}
    for name in sorted({*own, *state}):
        here, there = _described(own, name), _described(state, name)
        if here != there:
            remedy = "give a function that makes the same module"
            if there == "none" or there.endswith("(0,)"):
                remedy += "; if the module around it holds its weights, give that one, and select="
            raise IceprobeError(
                f"whole= made another {type(copy).__name__} than is trained ({name}: made {here}, trained {there}): {remedy}"
            )
    copy.load_state_dict({name: value for name, value in state.items() if name not in left_out})
    for name, buffer in left_out.items():
        buffer.copy_(state[name])


def _described(state: State, name: str) -> str:
    if name not in state:
        return "none"
    value = state[name]
    if not isinstance(value, Tensor):
        return "a state of its own"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def device_of(module: nn.Module, outer: nn.Module | None) -> torch.device:
    """Where the trainer runs the module, though its weights may rest elsewhere or in another module."""
    parts = [part for part in (module, outer) if part is not None]
    for one in (one for part in parts for one in part.modules()):
        if _is(one, FSDP) and isinstance(device := one.compute_device, torch.device):
            return device
    for parameter in (one for part in parts for one in part.parameters()):
        mesh = getattr(parameter, "device_mesh", None)
        if mesh is not None and mesh.device_type == "cuda":
            return torch.device("cuda", torch.cuda.current_device())
        return parameter.device
    return torch.device("cpu")


def align(module: nn.Module, processes: World) -> None:
    """Give all processes the buffers of the first one, whose batch statistics are its own.

    Raises:
        IceprobeError: if their weights aren't the same.
    """
    if processes.size == 1:
        return
    processes.copy_first(list(module.buffers()))
    parameters = dict(module.named_parameters())
    digests = processes.gather(
        processes.each(lambda: [tensors_digest({"": one}, "") for one in parameters.values()])
    )
    for rank, each in enumerate(digests):
        for name, one, other in zip(parameters, each, digests[0], strict=True):
            if one != other:
                raise IceprobeError(
                    f"process {rank} of {processes.size} has other weights than process 0 ({name}): processes='first' "
                    "looks at those of process 0"
                )
