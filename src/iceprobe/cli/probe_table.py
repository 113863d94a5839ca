"""The table behind ``iceprobe ls probes``: what each probe is, and what it costs at one size."""

import re
from collections.abc import Sequence

from rich.text import Text

from iceprobe.cli.console import below, console
from iceprobe.core.errors import IceprobeError
from iceprobe.probes import PROBES, probe_label

HEADINGS = ("probe", "M", "pooling", "whole probe", "FLOPs")
WIDTHS = (-28, 4, 12, 13, 9)  # to the left where it is negative
GOING = ("pooling", "M", "FLOPs")  # in a narrow terminal, in this order


def show_probes(word: str | None, dim: int, num_classes: int, grid: str) -> None:
    """Print the probes whose names begin with ``word``, or, if none do, that speak of it.

    Raises:
        IceprobeError: for a grid that isn't written like 14x14.
    """
    rows, columns = _grid(grid)
    names = _find(word or "")
    if not names:
        console.print(f"probes: none with {word!r}", markup=False)
        return
    size = f"D = {dim:,}, C = {num_classes:,}, N = {rows}x{columns}"
    console.print(Text(f"probes at {size}", style="bold"))
    console.print(Text(_line(HEADINGS), style="bold"), soft_wrap=True)
    for name in names:
        entry = PROBES[name]
        console.print()
        for spec, equation in {name: entry.equation, **entry.variants}.items():
            if entry.target is None:  # nothing is trained, and its FLOPs grow with the images
                line = _line((name, "–", "0", "0", "–"))
                console.print(Text(line, style="bold"), soft_wrap=True)
                below(equation)
            else:
                _show(probe_label(spec), equation, dim, num_classes, (rows, columns))
        below(entry.source)
        below(f"keys: {', '.join(entry.options)}")
        if entry.target is not None:
            below(f"learning rates: {', '.join(f'{rate:g}' for rate in entry.learning_rates)}")
    note = "pooling and whole probe: trainable parameters. FLOPs: whole probe, per image."
    console.print(f"\n{note}", markup=False)
    if gone := _gone():
        console.print(f"Too narrow for: {', '.join(gone)}.", markup=False)


def _show(label: str, equation: str, dim: int, classes: int, grid: tuple[int, int]) -> None:
    """Counts and equation of one probe; where it can't be built at this size, why."""
    from iceprobe.probes.counts import count
    from iceprobe.results.tables import short

    try:
        counted = count(label, dim, classes, grid)
    except IceprobeError as error:
        console.print(Text(label, style="bold"), soft_wrap=True)
        below(str(error))
    else:
        figures = (f"{counted.pooling:,}", f"{counted.total:,}", short(counted.flops))
        line = _line((label, str(counted.predictors or "–"), *figures))
        console.print(Text(line, style="bold"), soft_wrap=True)
        if counted.absorbed is not None:
            equation += (
                f"\nabsorbed: {counted.absorbed:,} ({counted.pooling - counted.absorbed:,} fewer), "
                f"saves {short(counted.flops_per_step)} FLOPs a step"
            )
    below(equation)


def _line(cells: Sequence[str]) -> str:
    """Cells under one another; a name that is longer than its column moves the others on."""
    gone = _gone()
    return "".join(
        f"{cell:{abs(width)}}" if width < 0 else f"{cell:>{width}}"
        for heading, width, cell in zip(HEADINGS, WIDTHS, cells, strict=True)
        if heading not in gone
    )


def _gone() -> list[str]:
    """Columns for which the terminal is too narrow."""
    room, gone = console.width - sum(map(abs, WIDTHS)), list[str]()
    for heading in GOING:
        if room < 0:
            gone.append(heading)
            room += abs(WIDTHS[HEADINGS.index(heading)])
    return gone


def _find(word: str) -> list[str]:
    """Names that begin with ``word``; where none does, those with it in what is said of them."""
    word = word.lower()
    named = [name for name in PROBES if name.startswith(word)]
    return named or [name for name in PROBES if word in _said(name)]


def _said(name: str) -> str:
    entry = PROBES[name]
    equations = " ".join(entry.variants.values())
    return f"{entry.summary} {entry.equation} {equations} {entry.source}".lower()


def _grid(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise IceprobeError(f"--grid {text!r}: write rows x columns, such as 14x14")
    return int(found[1]), int(found[2])
