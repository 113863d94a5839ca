"""A campaign: one run for each backbone, layer, data set and number of training images.

Each *cell* is an ordinary run in ``NAME/cells/CELL/``, with its own config.yaml, results and report.
The campaign's folder holds the results of all cells and one report across them.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from iceprobe.cli.config import digest
from iceprobe.cli.console import Bars, say
from iceprobe.cli.folder import RunFolder
from iceprobe.cli.stages import (
    C,
    TokenSource,
    check_finished,
    finish_off,
    fit_run,
    run_stages,
    show,
    show_finished,
    write_report,
)
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.processes import first
from iceprobe.probes.inputs import names_layers
from iceprobe.results import FittedResult, read_results, write_results
from iceprobe.settings import FitRun, Run


def cells(config: C, probes: Mapping[str, list[str]] | None = None) -> list[C]:
    """The runs of ``config``, each of one backbone, data set and draw, with its own output.

    ``probes`` of each backbone are by default those of ``config``.
    """
    found = [config.model_copy(update=change) for change in _changes(config, probes or {})]
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
                f"{was!r} is given twice: name each backbone, data set and number of training "
                "images once"
            )
    return [
        cell.model_copy(update={"output": config.output / "cells" / name})
        for cell, name in zip(found, names, strict=True)
    ]


def run_cells(
    config: FitRun,
    runs: Sequence[C],
    source: TokenSource[C],
    *,
    resume: bool = True,
    ahead: Callable[[Sequence[C]], None] | None = None,
) -> None:
    """Run the cells that aren't finished, then report across all of them.

    A single cell is an ordinary run.

    Args:
        config: of the campaign.
        runs: its cells.
        source: of their tokens.
        resume: continue unfinished fits.
        ahead: given the unfinished cells of a campaign, runs them elsewhere.
    """
    if len(runs) == 1:
        run_stages(runs[0], source, resume=resume)
        return
    folder = RunFolder(config)
    if folder.state == "finished":

        def read() -> None:
            for run in runs:
                source.tests.read(run, RunFolder(run), partial(source.other_sets, run))

        first(lambda: show_finished(folder, lambda: _identities(runs, source), resume, read))
        return
    for run in runs:
        source.check(run)
    _check_distinct(runs, source)
    folder.create()
    with contextlib.ExitStack() as locked:

        def lock() -> None:
            locked.enter_context(exclusive(folder.path))

        first(lock)
        todo = [run for run in runs if RunFolder(run).state != "finished"]
        if ahead is not None and todo:
            ahead(todo)
        results: list[FittedResult] = []
        for number, run in enumerate(runs, 1):
            assert run.output is not None
            say(f"[{number}/{len(runs)}] {run.output.name}")
            cell = RunFolder(run)
            if cell.state == "finished":
                done = check_finished(cell, source.identities(run))
                first(partial(finish_off, cell, done))
                first(partial(source.tests.read, run, cell, partial(source.other_sets, run)))
            else:
                fit_run(run, cell, source, resume=resume)
            results += _read(run.output, folder.path)
        first(lambda: _report(config, folder, results))
    show(results, folder)


def _report(config: FitRun, folder: RunFolder, results: list[FittedResult]) -> None:
    """Write the campaign's own results and the report across its cells."""
    write_results(folder.path, results)
    title = None
    if isinstance(config, Run):
        title = f"{' · '.join(config.backbone)} on {' · '.join(config.data)}"
    with Bars() as progress:
        write_report(results, folder, progress, title)


def _identities(runs: Sequence[C], source: TokenSource[C]) -> set[str]:
    return {identity for run in runs for identity in source.identities(run)}


def _check_distinct(runs: Sequence[C], source: TokenSource[C]) -> None:
    """Refuse two cells that would read the same tokens with the same draw."""
    seen: dict[tuple[object, ...], str] = {}
    for run in runs:
        assert run.output is not None
        identities = frozenset(source.identities(run))
        key = (identities, *(run.shots or []), *map(str, run.fraction or []))
        if key in seen:
            raise IceprobeError(
                f"{seen[key]!r} and {run.output.name!r} are the same tokens under two names: "
                "name one of them"
            )
        seen[key] = run.output.name


def _changes(config: FitRun, probes: Mapping[str, list[str]]) -> Iterator[dict[str, Any]]:
    draws: list[dict[str, Any]] = [{"shots": [k], "fraction": None} for k in config.shots or []]
    draws += [{"shots": None, "fraction": [f]} for f in config.fraction or []]
    for draw in draws or [{"shots": None, "fraction": None}]:
        if not isinstance(config, Run):
            yield draw
            continue
        for backbone in config.backbone:
            mine = probes.get(backbone, config.probe)
            change: dict[str, Any] = {"backbone": [backbone], "layers": None, "probe": mine}
            if any(map(names_layers, mine)):
                change |= {"budget": None, "budget_flops": None}  # of probes of one layer
            for data in config.data:
                yield {**change, "data": [data], **draw}


def _name(cell: FitRun, whole: FitRun) -> str:
    """``mae-tiny-layer-3--fashion--5-shots``: what distinguishes the cell from the others."""
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


def _read(run: Path, campaign: Path) -> list[FittedResult]:
    """A cell's results, their files named relative to the campaign."""
    results = read_results(run)
    inside = run.relative_to(campaign).as_posix()
    return [one.replaced(files=one.files.moved(inside), run=campaign) for one in results]
