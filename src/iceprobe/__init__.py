"""iceprobe tells what a frozen vision backbone knows.

The public names; each is imported when it is first used, so that ``import iceprobe`` (and with it
``iceprobe --help``) doesn't wait for torch.
"""

import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from iceprobe.errors import IceprobeError
from iceprobe.lazy import lazy
from iceprobe.text import spelled

if TYPE_CHECKING:
    from iceprobe import probes
    from iceprobe.adaptation import adapt
    from iceprobe.analysis import analyze
    from iceprobe.backbones import Backbone, load_backbone
    from iceprobe.datasets import Dataset, load_dataset
    from iceprobe.dense import segment
    from iceprobe.export import export, load_probe
    from iceprobe.fitting import fit, plan_fit, probe
    from iceprobe.knn import knn
    from iceprobe.report import report
    from iceprobe.results import Result, advise, read_results
    from iceprobe.store import Store, extract, extract_layers, plan
    from iceprobe.tokens import Tokens

__version__ = "0.1.0"

logging.getLogger("iceprobe").addFilter(spelled)

_HOME = {
    "Backbone": "backbones",
    "Dataset": "datasets",
    "Result": "results",
    "Store": "store",
    "Tokens": "tokens",
    "adapt": "adaptation",
    "advise": "results",
    "analyze": "analysis",
    "export": "export",
    "extract": "store",
    "extract_layers": "store",
    "figure": "report",
    "fit": "fitting",
    "knn": "knn",
    "live": "store",
    "load_backbone": "backbones",
    "load_dataset": "datasets",
    "load_probe": "export",
    "plan": "store",
    "plan_fit": "fitting",
    "probe": "fitting",
    "probes": "",
    "read_results": "results",
    "report": "report",
    "segment": "dense",
}

__all__ = [
    "Backbone",
    "Dataset",
    "IceprobeError",
    "Result",
    "Store",
    "Tokens",
    "adapt",
    "advise",
    "analyze",
    "export",
    "extract",
    "extract_layers",
    "figure",
    "fit",
    "knn",
    "live",
    "load_backbone",
    "load_dataset",
    "load_probe",
    "plan",
    "plan_fit",
    "probe",
    "probes",
    "read_results",
    "report",
    "segment",
]


__getattr__ = lazy(__name__, _HOME)


class _Package(ModuleType):
    """Keeps ``iceprobe.export``, ``iceprobe.knn`` and ``iceprobe.report`` the functions.

    Folders of these names exist, and importing one would put the module in the function's place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
