"""iceprobe tells what a frozen vision backbone knows.

Each public name is imported when it is first used, so that ``import iceprobe`` and ``iceprobe
--help`` don't import torch.
"""

import logging
from typing import TYPE_CHECKING

from iceprobe.core.errors import IceprobeError
from iceprobe.core.lazy import lazy
from iceprobe.core.text import spelled

if TYPE_CHECKING:
    from iceprobe import probes, published, settings
    from iceprobe.backbones import Backbone, load_backbone
    from iceprobe.datasets import Dataset, load_dataset
    from iceprobe.exporting import export, load_probe
    from iceprobe.neighbours import knn
    from iceprobe.publishing import publish
    from iceprobe.reporting import figure, report
    from iceprobe.results import Result, advise, frame, read_results, records
    from iceprobe.settings import Adaptation, Extraction, Fitting
    from iceprobe.signatures import (
        adapt,
        analyze,
        extract,
        extract_layers,
        fit,
        from_tokens,
        live,
        measure,
        plan,
        plan_fit,
        probe,
        segment,
        test,
    )
    from iceprobe.store import Store, load_features
    from iceprobe.tokens import Tokens

__version__ = "0.1.0"

logging.getLogger("iceprobe").addFilter(spelled)

# Submodule → public names; "" holds the names that are submodules themselves.
_NAMES = {
    "": ["dense", "measures", "probes", "published", "settings"],
    "adaptation": ["adapt"],
    "analysis": ["analyze"],
    "backbones": ["Backbone", "load_backbone"],
    "cost": ["plan", "plan_fit"],
    "datasets": ["Dataset", "load_dataset"],
    "exporting": ["export", "load_probe"],
    "fitting": ["fit", "probe", "test"],
    "dense": ["segment"],
    "measures": ["measure"],
    "neighbours": ["knn"],
    "publishing": ["publish"],
    "reporting": ["figure", "report"],
    "results": ["Result", "advise", "frame", "read_results", "records"],
    "settings": ["Adaptation", "Extraction", "Fitting"],
    "store": ["Store", "extract", "extract_layers", "from_tokens", "live", "load_features"],
    "tokens": ["Tokens"],
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
    "frame",
    "from_tokens",
    "knn",
    "live",
    "load_backbone",
    "load_dataset",
    "load_features",
    "load_probe",
    "measure",
    "plan",
    "plan_fit",
    "probe",
    "probes",
    "publish",
    "published",
    "read_results",
    "records",
    "report",
    "segment",
    "settings",
    "test",
]

__getattr__ = lazy(__name__, {name: home for home, names in _NAMES.items() for name in names})


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
