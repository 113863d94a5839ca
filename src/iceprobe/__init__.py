"""iceprobe tells what a frozen vision backbone knows.

The public names; each is imported when it is first used, so that ``import iceprobe`` (and with it
``iceprobe --help``) doesn't wait for torch.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from iceprobe.errors import IceprobeError

if TYPE_CHECKING:
    from iceprobe import probes
    from iceprobe.backbones import Backbone, load_backbone
    from iceprobe.datasets import Dataset, load_dataset
    from iceprobe.fitting import fit, probe
    from iceprobe.knn import knn
    from iceprobe.report import report
    from iceprobe.results import Result, read_results
    from iceprobe.store import Store, extract, plan
    from iceprobe.tokens import Tokens

__version__ = "0.1.0"

_WHERE = {
    "Backbone": "iceprobe.backbones",
    "Dataset": "iceprobe.datasets",
    "Result": "iceprobe.results",
    "Store": "iceprobe.store",
    "Tokens": "iceprobe.tokens",
    "extract": "iceprobe.store",
    "fit": "iceprobe.fitting",
    "knn": "iceprobe.knn",
    "load_backbone": "iceprobe.backbones",
    "load_dataset": "iceprobe.datasets",
    "plan": "iceprobe.store",
    "probe": "iceprobe.fitting",
    "read_results": "iceprobe.results",
    "report": "iceprobe.report",
}

__all__ = [
    "Backbone",
    "Dataset",
    "IceprobeError",
    "Result",
    "Store",
    "Tokens",
    "extract",
    "fit",
    "knn",
    "load_backbone",
    "load_dataset",
    "plan",
    "probe",
    "probes",
    "read_results",
    "report",
]


def __getattr__(name: str) -> Any:
    if name == "probes":
        return importlib.import_module("iceprobe.probes")
    if name not in _WHERE:
        raise AttributeError(f"module 'iceprobe' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


class _Package(ModuleType):
    """Keeps ``iceprobe.knn`` and ``iceprobe.report`` the functions.

    Folders of these names exist, and importing one would put the module in the function's place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
