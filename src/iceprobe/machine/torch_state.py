"""torch's global state as iceprobe needs it, restored afterwards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def own_state() -> Iterator[None]:
    """Gradients on, float32 and CPU as defaults, no autocast.

    ``torch.no_grad()``, ``torch.inference_mode()``, ``torch.autocast`` or another default dtype or
    device of the caller must not affect the fits of probes.
    """
    dtype = torch.get_default_dtype()
    kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in kinds:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        yield


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads for torch, and for the BLAS of scipy and numpy.

    One is faster for small problems: a call ends when its last thread does, which on a machine with other work
    waits for a core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with threadpool_limits(number, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def in_own_state(function: F) -> F:
    """A function that runs in :func:`own_state`."""
    return own_state()(function)
