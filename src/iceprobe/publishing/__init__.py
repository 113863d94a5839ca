"""A run where others read it: a model repository of the Hub, a row of the authors' table."""

from iceprobe.core.lazy import lazy

_HOME = {
    "DESTINATIONS": "registry",
    "Publication": "publication",
    "publish": "api",
}

__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
