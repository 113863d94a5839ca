"""The table of ``iceprobe ls probes``: each probe with its counts at one size."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from iceprobe.cli.console import answers, below, console
from iceprobe.core.errors import IceprobeError
from iceprobe.probes import PROBES, probe_label

# Heading → width; negative: aligned to the left.
COLUMNS = {"probe": -28, "M": 4, "pooling": 12, "whole probe": 13, "FLOPs": 9}
DROPPED = ("pooling", "M", "FLOPs")  # in a narrow terminal, in this order


def show_probes(word: str | None, dim: int, num_classes: int, grid: str) -> None:
    """Print the probes whose names begin with ``word``, or, if none do, whose text contains it.

    Raises:
        IceprobeError: for a grid that isn't written like 14x14.
    """
    rows, columns = _grid(grid)
    names = _find(word or "")
    if answers("probes", _records(names, dim, num_classes, (rows, columns))):
        return
    if not names:
        console.print(f"probes: none with {word!r}", markup=False)
        return
    size = f"D = {dim:,}, C = {num_classes:,}, N = {rows}x{columns}"
    console.print(Text(f"probes at {size}", style="bold"))
    _print_line(*COLUMNS)
    for name in names:
        entry = PROBES[name]
        console.print()
        for spec, equation in {name: entry.equation, **entry.variants}.items():
            if entry.target is None:  # nothing is trained, and its FLOPs grow with the images
                _print_line(probe_label(spec), "–", "0", "0", "–")
                below(equation)
            else:
                _show(probe_label(spec), equation, dim, num_classes, (rows, columns))
        below(entry.source)
        below(f"keys: {', '.join(entry.options)}")
        if entry.one_length:
            below(f"of examples with one number of tokens only: {entry.one_length}")
        if entry.solver:
            below(f"solved for its optimum, for {' and '.join(entry.tasks)}")
        elif entry.target is not None:
            below(f"learning rates: {', '.join(f'{rate:g}' for rate in entry.learning_rates)}")
    note = "pooling and whole probe: trainable parameters. FLOPs: whole probe, per image."
    console.print(f"\n{note}", markup=False)
    if dropped := _dropped():
        console.print(f"Too narrow for: {', '.join(dropped)}.", markup=False)


def _records(
    names: Sequence[str], dim: int, classes: int, grid: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """The same for programs: an entry a spec, with its counts or why it has none."""
    from iceprobe.probes.counts import count

    for name in names:
        entry = PROBES[name]
        for spec, equation in {name: entry.equation, **entry.variants}.items():
            known: dict[str, Any] = {"counts": None, "error": None}
            if entry.target is not None:
                try:
                    known["counts"] = count(probe_label(spec), dim, classes, grid)
                except IceprobeError as error:
                    known["error"] = str(error)
            yield {
                "name": probe_label(spec),
                "what": entry.summary,
                "equation": equation,
                "source": entry.source,
                "keys": [*entry.options],
                "tasks": [*entry.tasks],
                "learning_rates": [*entry.learning_rates],
                **known,
            }


def _show(label: str, equation: str, dim: int, classes: int, grid: tuple[int, int]) -> None:
    """Print counts and equation of one probe, or why it can't be built at this size."""
    from iceprobe.probes.counts import count
    from iceprobe.results.tables import short

    try:
        counted = count(label, dim, classes, grid)
    except IceprobeError as error:
        console.print(Text(label, style="bold"), soft_wrap=True)
        below(str(error))
    else:
        figures = (f"{counted.pooling:,}", f"{counted.total:,}", short(counted.flops))
        _print_line(label, str(counted.predictors or "–"), *figures)
        if counted.absorbed is not None:
            equation += (
                f"\nabsorbed: {counted.absorbed:,} ({counted.pooling - counted.absorbed:,} fewer), "
                f"saves {short(counted.flops_per_step)} FLOPs a step"
            )
    below(equation)


def _print_line(*cells: str) -> None:
    """Print cells in their columns; a name longer than its column shifts the others."""
    dropped = _dropped()
    line = "".join(
        f"{cell:{abs(width)}}" if width < 0 else f"{cell:>{width}}"
        for (heading, width), cell in zip(COLUMNS.items(), cells, strict=True)
        if heading not in dropped
    )
    console.print(Text(line, style="bold"), soft_wrap=True)


def _dropped() -> list[str]:
    """Columns for which the terminal is too narrow."""
    room, dropped = console.width - sum(map(abs, COLUMNS.values())), list[str]()
    for heading in DROPPED:
        if room < 0:
            dropped.append(heading)
            room += COLUMNS[heading]
    return dropped


def _find(word: str) -> list[str]:
    """Names that begin with ``word``, or else those whose summary, equation or source contains it."""
    word = word.lower()
    named = [name for name in PROBES if name.startswith(word)]
    return named or [name for name in PROBES if word in _text_of(name)]


def _text_of(name: str) -> str:
    entry = PROBES[name]
    return " ".join((entry.summary, entry.equation, *entry.variants.values(), entry.source)).lower()


def _grid(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise IceprobeError(f"--grid {text!r}: write rows x columns, such as 14x14")
    return int(found[1]), int(found[2])
