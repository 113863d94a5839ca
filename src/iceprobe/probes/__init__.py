"""Probes: the mathematics of reading frozen tokens, as torch modules."""

import importlib
from typing import Any

_EXPORTS = {
    "PROBES": "iceprobe.probes.registry",
    "Probe": "iceprobe.probes.probe",
    "absorb": "iceprobe.probes.pooling",
    "build": "iceprobe.probes.probe",
    "build_pooling": "iceprobe.probes.probe",
    "parse_probe": "iceprobe.probes.registry",
    "probe_label": "iceprobe.probes.registry",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; the registry needs no torch, modules do."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
