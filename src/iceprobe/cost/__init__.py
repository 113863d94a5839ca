"""What work will cost before it begins: extraction, fits, searches; by measured steps or on paper."""

from iceprobe.core.lazy import lazy

_HOME = {
    "FitPlan": "phases",
    "Plan": "extraction",
    "plan": "extraction",
    "plan_fit": "fit",
    "plan_search": "search",
}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
