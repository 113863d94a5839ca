"""A look leaves training as it was: what may change is put back afterwards, bit by bit."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Within it random numbers, flags of torch, and the state of ``module`` may change.

    Random numbers are Python's, numpy's and torch's, of all GPUs. Of the module its modes, its
    ``requires_grad`` flags and its buffers are put back. Parameters, gradients and optimisers aren't touched
    by a forward pass without gradients. What a module's own ``forward`` or its hooks keep elsewhere (a list
    of outputs, a counter) isn't known here.
    """
    modes = [(part, part.training) for part in module.modules()]
    learn = [(one, one.requires_grad) for one in module.parameters()]
    buffers = [
        (part, name, one, _here(one).clone())
        for part in module.modules()
        for name, one in part._buffers.items()
        if one is not None
    ]
    flags, drawn = _flags(), _random_state()
    if flags["deterministic"] == (
        True,
        False,
    ):  # a fit has steps that no GPU has such an algorithm for
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        _restore_random_state(drawn)
        _restore_flags(flags)
        for part, training in modes:
            part.training = training
        for parameter, requires in learn:
            parameter.requires_grad = requires
        for part, name, buffer, content in buffers:
            if part._buffers.get(name) is not buffer:
                part._buffers[name] = buffer
            if _here(buffer).shape != content.shape:
                buffer.data = content
            elif not torch.equal(_here(buffer), content):
                _here(buffer).copy_(content)


def _here(tensor: Any) -> Tensor:
    """The tensor, or of one in pieces (a DTensor) that of this process, which takes no word with others."""
    tensor = tensor.detach()
    piece: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return piece


def _random_state() -> dict[str, Any]:
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _restore_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def _flags() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "cudnn": {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")},
        "deterministic": _deterministic(),
        "threads": torch.get_num_threads(),
    }


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _restore_flags(flags: dict[str, Any]) -> None:
    for name, value in flags["cudnn"].items():
        if getattr(torch.backends.cudnn, name) != value:
            setattr(torch.backends.cudnn, name, value)
    if _deterministic() != flags["deterministic"]:
        enabled, warn_only = flags["deterministic"]
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    if torch.get_num_threads() != flags["threads"]:
        torch.set_num_threads(flags["threads"])
