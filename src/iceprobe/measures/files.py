"""What was measured as a file: JSON with all of it, or CSV with a row a store.

``{"format": 1, "measured": [Measured, …], "correlations": [Correlation, …]}``, fields as in
`iceprobe.measures.schema`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import csv_text, utf8
from iceprobe.machine.files import write_atomically
from iceprobe.measures.schema import Correlation, Measured
from iceprobe.results.files import write_sealed

FORMAT_VERSION = 1
ENDINGS = (".json", ".csv")


def check_ending(path: Path) -> None:
    """Raise an `IceprobeError` for a file that is neither."""
    if path.suffix not in ENDINGS:
        raise IceprobeError(f"output {str(path)!r}: what was measured is written to .json or .csv")


def write_measured(
    path: str | Path, measured: Sequence[Measured], correlations: Sequence[Correlation] = ()
) -> Path:
    """Write both, or of ``.csv`` the measures alone; a file that is there is replaced atomically.

    Raises:
        IceprobeError: for another ending.
    """
    path = Path(path)
    check_ending(path)
    if path.suffix == ".csv":
        write_atomically(path, utf8(_table(measured)))
        return path
    document = {
        "format": FORMAT_VERSION,
        "measured": [asdict(one) for one in measured],
        "correlations": [asdict(one) for one in correlations],
    }
    return write_sealed(path, _finite(document))


def _table(measured: Sequence[Measured]) -> str:
    rows = [one.row() for one in measured]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=lambda name: name in ("store", "path"))  # last
    cells = [["" if row.get(name) is None else row[name] for name in columns] for row in rows]
    return csv_text([columns, *cells])


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
