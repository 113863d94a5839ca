"""Tasks, kinds of targets: outputs, loss, record, metrics and strata. One file a task."""

from iceprobe.core.lazy import lazy

_HOME = {"Metric": "metrics", "TASKS": "registry", "Task": "task", "get_task": "registry"}
__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
