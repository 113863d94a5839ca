"""Probes: torch modules that read frozen tokens."""

from iceprobe.core.lazy import lazy

_HOME = {
    "ComposedPooling": "framework",
    "PROBES": "registry",
    "Probe": "probe",
    "Queries": "framework",
    "absorb": "pooling",
    "build": "probe",
    "build_for": "probe",
    "build_pooling": "probe",
    "load_published": "published",
    "parse_probe": "registry",
    "probe_label": "registry",
    "within_budget": "budget",
    "register": "registry",
}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
