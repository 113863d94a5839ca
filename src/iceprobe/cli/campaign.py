"""A campaign: one run for each backbone, layer, data set and number of training images.

Every *cell* of it is an ordinary run in ``NAME/cells/CELL/``, with its own config.yaml, results and
report, and is resumed, shown and repeated like any other. The campaign itself holds the results of
all of them and one report across.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iceprobe.cli.config import digest
from iceprobe.cli.console import Bars, console
from iceprobe.cli.folder import RunFolder
from iceprobe.cli.stages import check_finished, finish_off, fit_run, show, show_finished
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.machine.processes import first
from iceprobe.settings import FitRun, Run

if TYPE_CHECKING:
    from iceprobe.results import FittedResult
    from iceprobe.store import Store

C = TypeVar("C", bound=FitRun)


def cells(config: C) -> list[C]:
    """The runs that ``config`` asks for, each of one backbone, data set and draw; outputs set."""
    found = [config.model_copy(update=change) for change in _changes(config)]
    if len(found) == 1:
        return found
    assert config.output is not None  # resolve() has set it
    spelled = [_name(cell, config) for cell in found]
    short = [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") for name in spelled]
    names = [
        name if name == was and short.count(name) == 1 else f"{name}-{digest(cell)}".strip("-")
        for name, was, cell in zip(short, spelled, found, strict=True)
    ]
    for name, was in zip(names, spelled, strict=True):
        if names.count(name) > 1:
            raise IceprobeError(
                f"{was!r} is asked for twice: name each backbone, data set and number of training "
                "images once"
            )
    places = [config.output / "cells" / name for name in names]
    return [
        cell.model_copy(update={"output": place}) for cell, place in zip(found, places, strict=True)
    ]


def run_campaign(
    config: FitRun,
    runs: Sequence[C],
    obtain: Callable[[C, Bars], "Store"],
    identities: Callable[[C], Collection[str]],
    check: Callable[[C], None],
    *,
    resume: bool = True,
    ahead: Callable[[Sequence[C]], None] | None = None,
) -> None:
    """Run the cells that aren't finished, then report across all of them.

    Args:
        config: of the whole.
        runs: its cells.
        obtain: makes or opens the feature store of a cell.
        identities: of the stores that would serve a cell now.
        check: refuses a cell whose probes or draws don't fit, before any is begun.
        resume: go on from unfinished fits.
        ahead: finishes cells elsewhere, given those that aren't.
    """
    folder = RunFolder(config)
    if folder.state == "finished":
        first(
            lambda: show_finished(
                folder, lambda: {i for one in runs for i in identities(one)}, resume
            )
        )
        return
    for run in runs:
        check(run)
    _check_distinct(runs, identities)
    folder.create()
    from iceprobe.machine.folder_lock import exclusive

    with contextlib.ExitStack() as locked:

        def lock() -> None:
            locked.enter_context(exclusive(folder.path))

        first(lock)
        todo = [run for run in runs if RunFolder(run).state != "finished"]
        if ahead is not None and todo:
            ahead(todo)
        results = _run_cells(config, runs, folder, obtain, identities, resume)
    show(results, folder)


def _run_cells(
    config: FitRun,
    runs: Sequence[C],
    folder: RunFolder,
    obtain: Callable[[C, Bars], "Store"],
    identities: Callable[[C], Collection[str]],
    resume: bool,
) -> list["FittedResult"]:
    """The cells that aren't finished, then the files of the whole."""
    results: list[FittedResult] = []
    for number, run in enumerate(runs, 1):
        cell = RunFolder(run)
        assert run.output is not None
        console.print(f"[{number}/{len(runs)}] {run.output.name}", markup=False, soft_wrap=True)
        if cell.state == "finished":
            done = check_finished(cell, identities(run))
            first(partial(finish_off, cell, done))
        else:
            fit_run(run, cell, partial(obtain, run), resume=resume)
        results += _read(run.output, folder.path)
    first(lambda: _report(config, folder, results))
    return results


def _report(config: FitRun, folder: RunFolder, results: list["FittedResult"]) -> None:
    """Write the campaign's own results and the report across its cells."""
    from iceprobe import report
    from iceprobe.results import write_results

    write_results(folder.path, results)
    with Bars() as progress:
        progress("report", 0, 1)
        report(results, folder.report, title=_title(config))
        progress("report", 1, 1)


def _check_distinct(runs: Sequence[C], identities: Callable[[C], Collection[str]]) -> None:
    """Refuse two cells that would read the same tokens with the same draw.

    Raises:
        IceprobeError: naming both.
    """
    seen: dict[tuple[object, ...], C] = {}
    for run in runs:
        key = (frozenset(identities(run)), *(run.shots or []), *map(str, run.fraction or []))
        if key in seen:
            assert run.output is not None
            first = seen[key].output
            assert first is not None
            raise IceprobeError(
                f"{first.name!r} and {run.output.name!r} are the same tokens under two names: "
                "name one of them"
            )
        seen[key] = run


def _changes(config: FitRun) -> Iterator[dict[str, Any]]:
    draws: list[dict[str, Any]] = [{"shots": [k], "fraction": None} for k in config.shots or []]
    draws += [{"fraction": [f], "shots": None} for f in config.fraction or []]
    whole = [{"shots": None, "fraction": None}]
    for draw in draws or whole:
        if not isinstance(config, Run):
            yield draw
            continue
        for backbone in config.backbone:
            for data in config.data:
                yield {"backbone": [backbone], "data": [data], "layers": None, **draw}


def _name(cell: FitRun, whole: FitRun) -> str:
    """``mae-tiny-layer-3--fashion--5-shots``: what tells the cell from the others."""
    parts = []
    if isinstance(cell, Run) and isinstance(whole, Run):
        parts += [_short(cell.backbone[0])] * (len(whole.backbone) > 1)
        parts += [_short(cell.data[0])] * (len(whole.data) > 1)
    parts += [f"{k}-shots" for k in cell.shots or []]
    parts += [f"{100 * f:g}-percent" for f in cell.fraction or []]
    return "--".join(parts)


def _short(text: str) -> str:
    """A spec's name and options, without the source it comes from or a path's folders."""
    spec = parse_spec(text)
    options = [f"{key}-{Path(value).name}" for key, value in sorted(spec.options.items())]
    return "-".join([Path(spec.name).name, *options])


def _read(run: Path, campaign: Path) -> list["FittedResult"]:
    """A cell's results, their files named relative to the campaign."""
    from iceprobe.results import read_results

    results = read_results(run)
    inside = run.relative_to(campaign).as_posix()
    return [one.replaced(files=one.files.moved(inside), run=campaign) for one in results]


def _title(config: FitRun) -> str | None:
    if not isinstance(config, Run):
        return None
    return f"{' · '.join(config.backbone)} on {' · '.join(config.data)}"
