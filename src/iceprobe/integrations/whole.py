"""Whether process 0 has the whole weights of a module: it alone runs it."""

from torch import nn

from iceprobe.core.errors import IceprobeError

REMEDY = (
    "train under DDP, or look at its checkpoints: iceprobe run --backbone … on the whole state_dict that the "
    "trainer saves"
)


def check_whole(module: nn.Module, outer: nn.Module | None = None) -> None:
    """Refuse a module whose weights are in pieces, or whose forward pass needs all processes.

    Args:
        module: that is to be run.
        outer: what the trainer trains, which may wrap it.

    Raises:
        IceprobeError: naming what shards it.
    """
    for part in (outer or module, module):
        for one in part.modules():
            if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(one).__mro__):
                raise _sharded(module, "FSDP (FullyShardedDataParallel)")
    for name, parameter in module.named_parameters():
        kinds = {kind.__name__ for kind in type(parameter).__mro__}
        if kinds & {"DTensor", "FlatParameter"} or getattr(parameter, "_fsdp_flattened", False):
            raise _sharded(module, f"FSDP or tensor parallelism ({name} is in pieces)")
        if hasattr(parameter, "ds_id"):
            raise _sharded(module, f"DeepSpeed's ZeRO 3 ({name} is in pieces)")


def _sharded(module: nn.Module, by: str) -> IceprobeError:
    return IceprobeError(
        f"weights of {type(module).__name__} are spread over processes by {by}, and one process takes the "
        f"look: {REMEDY}"
    )
