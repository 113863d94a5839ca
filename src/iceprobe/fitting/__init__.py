"""Fitting: members, protocols, optimisers, and the engine that trains all of them in one pass."""

from iceprobe.lazy import lazy

_HOME = {
    "FitPlan": "planning",
    "PROTOCOLS": "protocols",
    "fit": "api",
    "plan_fit": "planning",
    "probe": "api",
}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
