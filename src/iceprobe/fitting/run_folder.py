"""The folder of a fit or an adaptation: which run it is, and the files of an unfinished run.

``request.json`` is written before the work begins and kept: every setting that can change a number. So
a folder without results is recognised as this run's, whenever it was killed, and a finished run's
results are returned to a caller that asks for the same again.
"""

import json
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.machine.files import write_atomically
from iceprobe.results.files import FILE_NAME as RESULTS
from iceprobe.results.files import read_results
from iceprobe.results.fitted import FittedResult

REQUEST = "request.json"
STATE_FILE = "state-{}.safetensors"  # of each replicate
PREDICTIONS_FILE = "predictions-{}.safetensors"  # likewise
TRAININGS = "trainings"  # of an adaptation, those that are finished
_WORKING = (
    "state-*.safetensors",
    "state-*.tmp",
    "predictions-*.safetensors",
    TRAININGS,
)  # there while the run isn't finished
_SIGNS = {"config.yaml", "log.txt", "adapters", TRAININGS, REQUEST}  # of a run that was stopped
_RENAMED = {"protocol.looks": "protocol.evaluations"}  # keys of requests of earlier versions
_LATER = {"protocol.outer_folds": 0}  # keys that they don't have, and what they did
_MOST = 3  # differences that are named
_REMEDY = "give another --output, or remove the folder"


def check_folder(
    folder: Path, request: Mapping[str, Any], *, resume: bool = True
) -> list[FittedResult] | None:
    """Check the folder of a run that is about to begin; nothing is written.

    Args:
        folder: locked.
        request: the settings that can change a number.
        resume: whether an earlier run in it may be used.

    Returns:
        The results, if the run is finished already.

    Raises:
        IceprobeError: if it holds another run that is finished, or something else.
    """
    if not (folder / RESULTS).exists():
        found = {path.name for path in folder.iterdir() if not path.name.startswith(f".{REQUEST}")}
        found -= {".lock"}
        work = {path.name for pattern in _WORKING for path in folder.glob(pattern)}
        if found and not found & (_SIGNS | work):
            raise IceprobeError(f"{folder} holds something that is no run: give another --output")
        return None
    if not resume:
        raise IceprobeError(f"{folder} holds a finished run: {_REMEDY} to begin again")
    check_same(folder, request)
    tidy(folder)
    return read_results(folder)


def check_same(folder: Path, request: Mapping[str, Any]) -> None:
    """Refuse a finished run that isn't the one of ``request``.

    Raises:
        IceprobeError: naming what differs, or that it isn't known.
    """
    try:
        earlier = parse_json((folder / REQUEST).read_bytes())
    except FileNotFoundError:
        raise IceprobeError(
            f"{folder} holds a finished run of an earlier iceprobe, which didn't keep its settings: "
            f"{_REMEDY}"
        ) from None
    except (OSError, ValueError) as error:
        raise IceprobeError(f"{folder / REQUEST} can't be read ({error}): {_REMEDY}") from error
    before = _LATER | {_RENAMED.get(key, key): value for key, value in _flat(earlier).items()}
    now = _LATER | _flat(_plain(request))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        what = ", ".join(
            f"{k} {_short(before.get(k))} → {_short(now.get(k))}" for k in changed[:_MOST]
        )
        what += f" and {len(changed) - _MOST} more" if len(changed) > _MOST else ""
        raise IceprobeError(
            f"{folder} holds a finished run with other settings ({what}): {_REMEDY}"
        )


def begin(folder: Path, request: Mapping[str, Any]) -> None:
    """Write ``request.json``."""
    text = json.dumps(_plain(request), indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / REQUEST, text.encode())


def flat_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a request one by one, ``{"protocol.epochs": 100, …}``."""
    return _flat(_plain(request))


def check_there(folder: Path) -> None:
    """Refuse to go on in a folder that isn't the one that the run began in.

    Raises:
        IceprobeError: if it was removed.
    """
    if not (folder / REQUEST).exists():
        raise IceprobeError(f"{folder} was removed while the fit was at work: run the same again")


def abandon(folder: Path) -> None:
    """Undo :func:`begin`, if the run has written nothing else."""
    ours = {REQUEST, ".lock", "config.yaml", "log.txt"}
    for path in folder.glob(PREDICTIONS_FILE.format("*")):
        path.unlink()
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= ours:
        (folder / REQUEST).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove the files that a finished run doesn't need."""
    for pattern in _WORKING:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def untidy(folder: Path) -> bool:
    """Whether a run was killed between its results and the end of its work."""
    return (folder / ".lock").exists() or any(any(folder.glob(one)) for one in _WORKING)


def _plain(request: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(request, default=_written))


def _written(value: Any) -> Any:
    """A protocol by its fields, a number of numpy as a number."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value.item()


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {name: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{name}.{key}" if name else str(key))
    return found


def _short(value: Any) -> str:
    return textwrap.shorten(str(value), 60, placeholder=" …")
