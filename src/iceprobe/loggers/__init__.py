"""Where a run is logged besides its folder: TensorBoard, Weights & Biases, MLflow, Trackio, any callable."""

from typing import TYPE_CHECKING

from iceprobe.core.lazy import lazy

if TYPE_CHECKING:
    from iceprobe.loggers.events import Event
    from iceprobe.loggers.registry import LOGGERS, LoggerEntry, parse_logger
    from iceprobe.loggers.session import Session

_HOME = {
    "Event": "events",
    "LOGGERS": "registry",
    "LoggerEntry": "registry",
    "Session": "session",
    "parse_logger": "registry",
}
__all__ = ["LOGGERS", "Event", "LoggerEntry", "Session", "parse_logger"]
__getattr__ = lazy(__name__, _HOME)
