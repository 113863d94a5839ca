"""Read what a checkpoint holds besides its weights as data: no code that the file names is run.

``torch.load(weights_only=True)`` refuses a file because of one ``yacs.CfgNode``. Here every class
of another library, or of the user's script, becomes a :class:`Plain`, which stores its state and
does nothing. Only functions that rebuild tensors are called. Python's own functions and classes,
except plain containers, are refused: no checkpoint needs them.
"""

import pickle
import sys
from collections import OrderedDict
from typing import Any, NoReturn

import torch
from torch._utils import (
    _rebuild_meta_tensor_no_storage,
    _rebuild_qtensor,
    _rebuild_sparse_tensor,
    _rebuild_tensor,
    _rebuild_tensor_v2,
)

_BUILTIN = (
    *("set", "frozenset", "list", "dict", "tuple", "object", "range", "xrange", "slice"),
    *("int", "long", "float", "complex", "bool", "bytes", "bytearray", "str", "unicode"),
)
_PLAIN = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.defaultdict",
    "collections.Counter",
    "collections.deque",
    "decimal.Decimal",
    "enum.EnumMeta",
    "fractions.Fraction",
    "uuid.UUID",
    "_codecs.encode",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTIN),
}
_PLAIN_MODULES = {"pathlib", "datetime", "__main__", "zoneinfo"}
_OF_PYTHON = {*sys.stdlib_module_names, "__builtin__", "copy_reg"} - {"__main__"}


class Plain(dict[Any, Any]):
    """An object whose class isn't loaded: its state, and its class's name in ``of``."""

    of = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Plain":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        # If a pickle sets the state of a class, not an object, ``self`` is the state: that fails.
        if isinstance(state, dict):
            self.update(state)

    def append(self, item: Any) -> None:
        """Ignores items of a class derived from ``list`` or ``set``."""

    extend = add = append


class _Rebuild:
    """A function that a pickle may call but can't change."""

    __slots__ = ("_function",)
    _function: Any

    def __init__(self, function: Any):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it sets {name} of a function")


_REBUILD = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_qtensor": _rebuild_qtensor,
    "torch._utils._rebuild_sparse_tensor": _rebuild_sparse_tensor,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta_tensor_no_storage,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
    "torch._tensor._rebuild_from_type_v2": lambda function, kind, args, state: function(*args),
    "torch.serialization._get_layout": lambda name: torch.serialization._get_layout(name),
    "torch.Size": tuple,
    "torch.device": str,
}


class Unpickler(pickle.Unpickler):
    """Reads containers, tensors and :class:`Plain`."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises UnpicklingError for anything that would run code."""
        full = f"{module}.{name}"
        if full in ("collections.OrderedDict", "torch.OrderedDict"):
            return OrderedDict
        if full in _REBUILD:
            return _Rebuild(_REBUILD[full])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.startswith(("torch.distributed", "torchao", "bitsandbytes")):
            raise pickle.UnpicklingError(f"it holds {full}")
        top = module.partition(".")[0]
        if top in _OF_PYTHON and full not in _PLAIN and top not in _PLAIN_MODULES:
            raise pickle.UnpicklingError(f"it names {full}")
        return type(name, (Plain,), {"of": full})


def load(file: Any, **options: Any) -> Any:
    """``pickle.load``; ``torch.load`` needs it and :class:`Unpickler` of a pickle module."""
    return Unpickler(file, **options).load()
