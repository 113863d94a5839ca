"""placeholder"""

from collections.abc import Mapping

from iceprobe.tasks.metrics import Metric

METRICS: Mapping[str, Metric] = {}
