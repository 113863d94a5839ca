"""Published figures, and a run beside them: what each stands for and what differs in protocol."""

from iceprobe.core.lazy import lazy

_HOME = {
    "Beside": "pairs",
    "Encoder": "rows",
    "Figure": "rows",
    "SOURCES": "sources",
    "Source": "sources",
    "beside": "pairs",
    "encoders": "rows",
    "figures": "rows",
}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
