"""What stored tokens tell without labels: how many dimensions they use, how they spread, how alike two stores are.

One file a kind of measure, each a pure function on moments, vectors or views; `MEASURES` describes them all,
and `measure` takes them over stores. `correlate` sets them beside what probes scored on the same stores.
"""

from collections.abc import Callable
from typing import Any

from iceprobe.core.lazy import lazy

_NAMES = {
    "registry": "MEASURES Measure",
    "running": "measure",
    "schema": "Measured Correlation Coefficient",
    "correlation": "correlate",
    "files": "write_measured",
    "moments": "Moments",
    "spectrum": "rankme alpha_req participation_ratio",
    "sphere": "uniformity alignment",
    "lidar": "lidar",
    "cka": "linear_cka",
}
_HOME = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = list(_HOME)
__getattr__: Callable[[str], Any] = lazy(__name__, _HOME)
