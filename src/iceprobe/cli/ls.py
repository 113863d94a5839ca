"""``iceprobe ls``: what there is to choose from. Only ``ls probes``, which counts, imports torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from iceprobe.cli.console import console
from iceprobe.cli.probe_table import show_probes
from iceprobe.errors import IceprobeError
from iceprobe.specs import unknown

Rows = list[tuple[str, ...]]


def ls(
    what: Annotated[
        str | None,
        typer.Argument(
            help="backbones, datasets, probes, protocols or runs; all of them if left out."
        ),
    ] = None,
    word: Annotated[
        str | None, typer.Argument(help="Show only lines with this word in them.")
    ] = None,
    dim: Annotated[int, typer.Option(min=1, help="probes: width of the tokens, D.")] = 768,
    classes: Annotated[int, typer.Option(min=1, help="probes: number of classes, C.")] = 1000,
    grid: Annotated[str, typer.Option(help="probes: rows x columns of the patches.")] = "14x14",
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
) -> None:
    """List backbones, data sets, probes, protocols or runs.

    Probes asked for by name come with their parameters and FLOPs at one size of tokens and grid.

    \b
    Examples:
      iceprobe ls probes
      iceprobe ls probes ep --dim 1024 --classes 100 --grid 16x16
      iceprobe ls backbones timm
      iceprobe ls runs
    """
    listings: dict[str, Callable[[], tuple[tuple[str, ...], Rows]]] = {
        "backbones": _backbones,
        "datasets": _datasets,
        "probes": _probes,
        "protocols": _protocols,
        "runs": lambda: _runs(runs),
    }
    if what is not None and what not in listings:
        raise IceprobeError(unknown("list", what, listings))
    if what == "probes":
        show_probes(word, dim, classes, grid)
        return
    for name in [what] if what else listings:
        headings, rows = listings[name]()
        _show(name, headings, rows, word)


def _show(name: str, headings: tuple[str, ...], rows: Rows, word: str | None) -> None:
    found = [row for row in rows if word is None or word.lower() in " ".join(row).lower()]
    if not found:
        console.print(f"{name}: {'none' if word is None else f'none with {word!r}'}", markup=False)
        return
    table = Table(title=name, title_justify="left", title_style="bold", header_style="bold")
    for position, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=position == 0)
    for row in found:
        table.add_row(*map(Text, row))
    console.print(table)


def _backbones() -> tuple[tuple[str, ...], Rows]:
    from iceprobe.backbones import BACKBONES
    from iceprobe.backbones.families import FAMILIES

    entries = {name: BACKBONES[name] for name in BACKBONES}
    rows: Rows = [(f"{k}:", e.summary, "", "", "\n".join(e.examples)) for k, e in entries.items()]
    for family in filter(lambda family: family.tokens, FAMILIES):
        read = f"{family.tokens}; {'with' if family.norm else 'without'} the final norm"
        rows.append((family.name, family.paradigm, read, family.licence, family.example))
    return ("source or family", "what it is", "what is read", "licence of weights", "example"), rows


def _datasets() -> tuple[tuple[str, ...], Rows]:
    from iceprobe.datasets import CATALOGUE, DATASETS

    sources = {name: DATASETS[name] for name in DATASETS}
    rows: Rows = [
        (f"{name}:", entry.summary, "", "", "", "\n".join(entry.examples))
        for name, entry in sources.items()
    ]
    for name in CATALOGUE:
        entry = CATALOGUE[name]
        train, test = entry.images
        size = f"{entry.classes:,} classes\n{train:,} + {test:,}"
        reported = {"top1": "top-1", "mean_per_class": "mean per class"}[entry.headline]
        origin = f"{entry.licence}; {entry.where}"
        rows.append((name, entry.summary, size, reported, origin, f"{name}?root=DIR"))
    headings = ("data", "what it is", "train + test", "reported", "licence; where", "for example")
    return headings, rows


def _probes() -> tuple[tuple[str, ...], Rows]:
    from iceprobe.probes import PROBES, probe_label

    rows: Rows = []
    for name in PROBES:
        entry = PROBES[name]
        rows.append((probe_label(name), entry.summary, entry.equation, ", ".join(entry.options)))
    return ("probe", "what it is", "definition", "keys"), rows


def _protocols() -> tuple[tuple[str, ...], Rows]:
    from iceprobe.fitting.protocols import PROTOCOLS

    rows: Rows = [
        (name, p.summary, f"{p.optimizer}, {p.epochs} epochs, {p.batch_size} images a step")
        for name, p in PROTOCOLS.items()
    ]
    return ("protocol", "what it does", "training"), rows


def _runs(folder: Path) -> tuple[tuple[str, ...], Rows]:
    from iceprobe.results import read_results
    from iceprobe.results.tables import leaderboard, percent

    rows: Rows = []
    for config in sorted(folder.glob("*/config.yaml")):
        run = config.parent
        if not (run / "results.json").exists():
            rows.append((run.name, "unfinished: the same command goes on from here", "", ""))
            continue
        results = leaderboard(read_results(run))
        best = f"{results[0].probe} {percent(results[0].top1)}"
        rows.append((run.name, results[0].backbone, results[0].dataset, best))
    return ("run", "backbone", "data", "best top-1 %"), rows
