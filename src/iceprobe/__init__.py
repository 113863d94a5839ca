"""iceprobe tells what a frozen vision backbone knows.

The public names; each is imported when it is first used, so that ``import iceprobe`` (and with it
``iceprobe --help``) doesn't wait for torch.
"""

import logging
from typing import TYPE_CHECKING

from iceprobe.core.errors import IceprobeError
from iceprobe.core.lazy import lazy
from iceprobe.core.text import spelled

if TYPE_CHECKING:
    from iceprobe import probes, settings
    from iceprobe.backbones import Backbone, load_backbone
    from iceprobe.datasets import Dataset, load_dataset
    from iceprobe.exporting import export, load_probe
    from iceprobe.neighbours import knn
    from iceprobe.reporting import figure, report
    from iceprobe.results import Result, advise, read_results
    from iceprobe.settings import Adaptation, Extraction, Fitting
    from iceprobe.signatures import (
        adapt,
        analyze,
        extract,
        extract_layers,
        fit,
        live,
        plan,
        plan_fit,
        probe,
        segment,
    )
    from iceprobe.store import Store
    from iceprobe.tokens import Tokens

__version__ = "0.1.0"

logging.getLogger("iceprobe").addFilter(spelled)

_HOME = {
    "Adaptation": "settings",
    "Extraction": "settings",
    "Fitting": "settings",
    "settings": "",
    "Backbone": "backbones",
    "Dataset": "datasets",
    "Result": "results",
    "Store": "store",
    "dense": "",
    "Tokens": "tokens",
    "adapt": "adaptation",
    "advise": "results",
    "analyze": "analysis",
    "export": "exporting",
    "extract": "store",
    "extract_layers": "store",
    "figure": "reporting",
    "fit": "fitting",
    "knn": "neighbours",
    "live": "store",
    "load_backbone": "backbones",
    "load_dataset": "datasets",
    "load_probe": "exporting",
    "plan": "cost",
    "plan_fit": "cost",
    "probe": "fitting",
    "probes": "",
    "read_results": "results",
    "report": "reporting",
    "segment": "fitting",
}

__all__ = [
    "Adaptation",
    "Backbone",
    "Dataset",
    "Extraction",
    "Fitting",
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
    "settings",
]


__getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
