"""``results.json``, from which every table and picture of a run is derived.

``{"sha256": …, "format": 2, "results": [Result, …]}``, one entry a probe, in the order they were asked
for; for an entry's fields see :mod:`iceprobe.results.schema`, for the checksum :mod:`iceprobe.core.checksums`.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from iceprobe.core.checksums import seal, unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import json_bytes
from iceprobe.machine.files import write_atomically
from iceprobe.results.fitted import FittedResult
from iceprobe.results.listing import Results
from iceprobe.results.schema import Result

FORMAT_VERSION = 2
FILE_NAME = "results.json"
SEGMENTATIONS = "dense.json"  # of `iceprobe segment`
_METRICS = ("top1", "top5", "mean_per_class")  # of format 1, each in a field of its own
EDITED = "put it back as it was, run again, or take its line sha256 out to have it read as it is, unverified"


def write_results(run: str | Path, results: Sequence[Result]) -> Path:
    """Write ``run/results.json`` atomically.

    Returns:
        The path of the file.

    Raises:
        IceprobeError: if a probe appears twice for the same tokens and training images.
    """
    seen: set[tuple[object, ...]] = set()
    for one in results:
        key = (
            *(one.label, one.store.identity, one.protocol, one.split, one.shots, one.fraction),
            *(one.masked, one.test_of),
        )
        if key in seen:
            raise IceprobeError(f"probe {one.label!r} appears twice in {run}: keep one entry")
        seen.add(key)
    entries = [result.model_dump(mode="json") for result in results]
    return write_sealed(Path(run) / FILE_NAME, {"format": FORMAT_VERSION, "results": entries})


def write_sealed(path: Path, document: Mapping[str, Any]) -> Path:
    """Write a document with its checksum as JSON, atomically; returns its path."""
    text = json.dumps(seal(document), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, json_bytes(text))
    return path


def read_results(run: str | Path) -> Results[FittedResult]:
    """Read the results of a run folder (or the path of a ``results.json``), a list that notebooks show as a table.

    Raises:
        IceprobeError: if there is no such file, or it isn't one that this version can read.
    """
    path = Path(run)
    path = path if path.name.endswith(".json") else path / FILE_NAME
    try:
        document = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        if (path.parent / SEGMENTATIONS).exists():
            raise IceprobeError(
                f"{path.parent} is a run of `iceprobe segment`: it has no top-1 to compare or "
                f"tabulate; `iceprobe report {shlex.quote(str(path.parent))}`, of that run alone, "
                "shows its probes and their paired differences (in Python "
                "iceprobe.dense.read_segmentations reads it)"
            ) from None
        raise IceprobeError(
            f"no results at {path}: name the folder of a finished run (iceprobe ls runs)"
        ) from None
    except OSError as error:
        raise IceprobeError(f"results {path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise IceprobeError(f"results {path} are not JSON ({error}): run again") from error
    if not isinstance(document, dict) or not isinstance(document.get("results"), list):
        raise IceprobeError(f"{path} is not a results file of iceprobe: it has no list of results")
    version = document.get("format")
    if version not in (1, FORMAT_VERSION):
        raise IceprobeError(
            f"results {path} have format {version!r}, this iceprobe reads 1 and "
            f"{FORMAT_VERSION}: use the version that wrote them, or run again"
        )
    document = unseal(document, path, EDITED)
    try:
        entries = document["results"]
        if version == 1:
            entries = [_from_1(one) if isinstance(one, dict) else one for one in entries]
        results = [FittedResult.model_validate(entry) for entry in entries]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "entry"
        raise IceprobeError(
            f"results {path} don't fit the schema: {field}: {first['msg']}; run again"
        ) from error
    return Results(result.replaced(run=path.parent) for result in results)


def _from_1(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of format 1: metrics had a field each, ``headline`` was the name of the primary one."""
    kept = {name: value for name, value in entry.items() if name not in ("headline", *_METRICS)}
    metrics = {name: entry[name] for name in _METRICS if entry.get(name) is not None}
    return {**kept, "primary": entry.get("headline", "top1"), "metrics": metrics}


def is_segmented(run: Path) -> bool:
    """Whether a run folder is one of ``iceprobe segment``."""
    return (run / SEGMENTATIONS).exists() and not (run / FILE_NAME).exists()
