"""``analysis.json`` and ``analysis.csv`` of a run folder.

``{"format": 1, "analyses": [Analysis, …]}``, fields as in `iceprobe.analysis.schema`; the table
has a row for each predictor of each seed.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from iceprobe.analysis.schema import Analysis, Estimate
from iceprobe.core.checksums import unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import csv_text, utf8
from iceprobe.machine.files import write_atomically
from iceprobe.results.files import write_sealed

FORMAT_VERSION = 1
JSON_NAME, CSV_NAME = "analysis.json", "analysis.csv"
_ESTIMATES = ("importance", "entropy", "centroid_in_box", "mass_in_box", "mass_in_mask")


def write_analyses(run: str | Path, analyses: Sequence[Analysis]) -> tuple[Path, Path]:
    """Write both files atomically; what is there is replaced.

    Returns:
        The paths of the JSON file and of the table.
    """
    document = {"format": FORMAT_VERSION, "analyses": [asdict(one) for one in analyses]}
    written = write_sealed(Path(run) / JSON_NAME, document)
    write_atomically(Path(run) / CSV_NAME, utf8(_table(analyses)))
    return written, Path(run) / CSV_NAME


def read_analyses(run: str | Path) -> list[Analysis]:
    """What ``iceprobe analyze`` left in a run folder; nothing where it never ran.

    Raises:
        IceprobeError: if the file is there and can't be read.
    """
    path = Path(run) / JSON_NAME
    if not path.exists():
        return []
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT_VERSION:
            raise ValueError(f"it has format {document['format']}")
        document = unseal(document, path, f"run iceprobe analyze {run} again")
        return TypeAdapter(list[Analysis]).validate_python(document["analyses"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "its fields are others" if isinstance(error, ValidationError) else error
        raise IceprobeError(
            f"{path} can't be read ({reason}): run iceprobe analyze {run} again"
        ) from error


def _table(analyses: Sequence[Analysis]) -> str:
    columns = [f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")]
    rows: list[list[object]] = [
        ["probe", "store", "split", "seed", "predictor", *columns, "prefix_share"]
    ]
    for one in analyses:
        for each in one.predictors:
            cells = [cell for name in _ESTIMATES for cell in _cells(getattr(each, name))]
            head = [one.probe, one.store, one.split, each.seed, each.predictor]
            rows.append([*head, *cells, f"{each.prefix_share:.6g}"])
    return csv_text(rows)


def _cells(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return ["", "", ""]
    return [f"{value:.6g}" for value in (estimate.mean, *estimate.interval)]
