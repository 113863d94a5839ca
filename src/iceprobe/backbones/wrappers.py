"""Unwrap modules from training wrappers, or refuse a wrapper by name.

Wrappers that don't change the output are removed: ``torch.compile``, DataParallel, DDP, averages of
weights, peft (whose adapters stay in the model). Weights sharded over processes can't be read here.
"""

from typing import Any

from torch import nn

from iceprobe.core.errors import IceprobeError

# Class name → the attribute that holds the module.
_INSIDE = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEma": "ema",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "EMA": "ema_model",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
_LIBRARIES = ("torch", "timm", "ema_pytorch")  # a user's own class of such a name is left alone
_SHARDED = {"FullyShardedDataParallel": "FSDP", "DeepSpeedEngine": "DeepSpeed"}
_WHOLE = (
    "build the model anew and load into it what torch.distributed.checkpoint.state_dict."
    "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) gives"
)


def unwrapped(module: Any) -> nn.Module:
    """The module inside all wrappers.

    Raises:
        IceprobeError: for a sharded module, a wrapper that changes the output, and anything that
            isn't a module; says what to pass.
    """
    _refuse_sharded(module)
    while (inside := inside_of(module)) is not module:
        module = inside
        _refuse_sharded(module)
    if not isinstance(module, nn.Module):
        raise IceprobeError(
            f"a backbone is a spec string or an nn.Module, not a {type(module).__name__}"
        )
    for name, parameter in module.named_parameters():
        if any(kind.__name__ == "DTensor" for kind in type(parameter).__mro__):
            raise IceprobeError(
                f"{type(module).__name__} is wrapped by fully_shard or parallelised: {name} is "
                f"sharded over processes: {_WHOLE}"
            )
        if parameter.is_meta:
            raise IceprobeError(
                f"{name} of {type(module).__name__} is on the meta device, a shape without values: "
                "load its weights first"
            )
        if hasattr(parameter, "ds_id"):
            raise IceprobeError(
                f"{type(module).__name__} is partitioned by DeepSpeed's ZeRO: build the model anew "
                "and load its whole state_dict()"
            )
    return module


def _refuse_sharded(module: Any) -> None:
    for kind in type(module).__mro__:
        if kind.__name__ in _SHARDED:
            raise IceprobeError(
                f"the module is wrapped by {_SHARDED[kind.__name__]} ({kind.__name__}), which may "
                f"shard its weights over processes: {_WHOLE}"
            )


def inside_of(module: Any) -> Any:
    """The module in a wrapper that doesn't change the output, or ``module`` itself."""
    for kind in type(module).__mro__:
        attribute = _INSIDE.get(kind.__name__)
        library = kind.__module__.partition(".")[0]
        if attribute and library in _LIBRARIES and hasattr(module, attribute):
            return getattr(module, attribute)
        if kind.__name__ == "PeftModel" and kind.__module__.startswith("peft."):
            return _of_peft(module)
    return module


def _of_peft(module: Any) -> Any:
    """The model with its adapters inside; prompts act outside the model and are refused."""
    config = module.active_peft_config
    if config.is_prompt_learning:
        raise IceprobeError(
            f"the module is wrapped by peft's {type(module).__name__} with {config.peft_type.value}, "
            "whose prompts act outside the model: pass a module that runs it, with a method "
            "tokens(images) -> iceprobe.Tokens"
        )
    return module.base_model.model
