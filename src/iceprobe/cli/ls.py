"""``iceprobe ls``: what there is to choose from. Only ``ls probes``, which counts, imports torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from iceprobe.cli.console import below, console
from iceprobe.cli.probe_table import show_probes
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown

if TYPE_CHECKING:
    from iceprobe.adaptation.registry import AdaptationOption
    from iceprobe.protocols.protocol import Protocol


@dataclass(frozen=True)
class Entry:
    """One thing to choose.

    Attributes:
        name: as it is asked for.
        what: it is, in a few words.
        lines: what else there is to know, an example last.
    """

    name: str
    what: str = ""
    lines: Sequence[str] = ()

    def has(self, word: str) -> bool:
        return word.lower() in " ".join((self.name, self.what, *self.lines)).lower()


def ls(
    what: Annotated[
        str | None,
        typer.Argument(
            help="backbones, datasets, probes, adaptations, protocols, runs or stores; all if left out."
        ),
    ] = None,
    word: Annotated[str | None, typer.Argument(help="Show only what has this word in it.")] = None,
    dim: Annotated[int, typer.Option(min=1, help="probes: width of the tokens, D.")] = 768,
    classes: Annotated[int, typer.Option(min=1, help="probes: number of classes, C.")] = 1000,
    grid: Annotated[str, typer.Option(help="probes: rows x columns of the patches.")] = "14x14",
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    features: Annotated[Path, typer.Option(help="Folder of the stores.")] = Path("features"),
) -> None:
    """List backbones, data sets, probes, adaptations, protocols, runs or feature stores.

    Probes asked for by name come with their parameters and FLOPs at one size of tokens and grid.

    \b
    Examples:
      iceprobe ls probes
      iceprobe ls probes ep --dim 1024 --classes 100 --grid 16x16
      iceprobe ls backbones timm
      iceprobe ls runs
      iceprobe ls stores
    """
    listings: dict[str, Callable[[], list[Entry]]] = {
        "backbones": _backbones,
        "datasets": _datasets,
        "probes": _probes,
        "adaptations": _adaptations,
        "protocols": _protocols,
        "runs": lambda: _runs(runs),
        "stores": lambda: _stores(features, runs),
    }
    if what is not None and what not in listings:
        raise IceprobeError(unknown("list", what, listings))
    if what == "probes":
        show_probes(word, dim, classes, grid)
        return
    for name in [what] if what else listings:
        _show(name, listings[name](), word)


def _show(title: str, entries: Sequence[Entry], word: str | None) -> None:
    """Each entry as a line of its own and indented ones below; an address stays in one piece."""
    found = [entry for entry in entries if word is None or entry.has(word)]
    if not found:
        console.print(f"{title}: {'none' if word is None else f'none with {word!r}'}", markup=False)
        return
    console.print(Text(title, style="bold underline"))
    for entry in found:
        console.print()
        head = Text(entry.name, style="bold")
        console.print(head.append(f"  {entry.what}" if entry.what else "", style="not bold"))
        for line in filter(None, entry.lines):
            below(line)
    console.print()


def _backbones() -> list[Entry]:
    from iceprobe.backbones import BACKBONES
    from iceprobe.backbones.families import FAMILIES

    sources = {name: BACKBONES[name] for name in BACKBONES}
    entries = [Entry(f"{name}:", one.summary, one.examples) for name, one in sources.items()]
    for family in filter(lambda family: family.tokens, FAMILIES):
        read = f"{family.tokens}; {'with' if family.norm else 'without'} the final norm"
        if family.published_norm is False:
            read += "; the published rows are without it: norm=false"
        lines = (f"read: {read}", f"licence of the weights: {family.licence}", family.example)
        entries.append(Entry(family.name, family.paradigm, lines))
    return entries


def _datasets() -> list[Entry]:
    from iceprobe.datasets import CATALOGUE, DATASETS

    sources = {name: DATASETS[name] for name in DATASETS}
    entries = [Entry(f"{name}:", one.summary, one.examples) for name, one in sources.items()]
    for name in CATALOGUE:
        one = CATALOGUE[name]
        train, test = one.images
        reported = {"top1": "top-1", "mean_per_class": "the mean per class"}[one.headline]
        lines = (
            f"{one.classes:,} classes, {train:,} + {test:,} images; {reported} is reported",
            f"licence: {one.licence}; {one.where}",
            f"{name}?root=DIR",
        )
        entries.append(Entry(name, one.summary, lines))
    return entries


def _probes() -> list[Entry]:
    from iceprobe.probes import PROBES, probe_label

    return [
        Entry(
            probe_label(name),
            PROBES[name].summary,
            (PROBES[name].equation, f"keys: {', '.join(PROBES[name].options)}"),
        )
        for name in PROBES
    ]


def _adaptations() -> list[Entry]:
    from iceprobe.adaptation import ADAPTATIONS

    return [
        Entry(
            name,
            one.summary,
            (
                one.source,
                f"keys: {', '.join(_spelled(one.options))}" if one.options else "",
                "; ".join(one.examples),
            ),
        )
        for name, one in ((name, ADAPTATIONS[name]) for name in ADAPTATIONS)
    ]


def _spelled(options: "Mapping[str, AdaptationOption]") -> list[str]:
    """``rank=8`` where there is a default, else the key alone."""
    return [f"{key}={option.default}" if option.default else key for key, option in options.items()]


def _protocols() -> list[Entry]:
    from iceprobe.protocols.protocol import PROTOCOLS

    def settings(p: "Protocol") -> str:
        least = f", at least {p.min_steps} steps" if p.min_steps else ""
        return f"{p.optimizer}, {p.epochs} epochs, {p.batch_size} images a step{least}"

    return [Entry(name, p.summary, (settings(p),)) for name, p in PROTOCOLS.items()]


def _runs(folder: Path) -> list[Entry]:
    from iceprobe.results import read_results
    from iceprobe.results.tables import leaderboard, percent

    entries = []
    places = {
        path.parent for name in ("config.yaml", "results.json") for path in folder.glob(f"*/{name}")
    }
    for run in sorted(places):
        if (run / "dense.json").exists():
            entries.append(_segmentation(run))
            continue
        if not (run / "results.json").exists():
            entries.append(Entry(run.name, "unfinished: the same command goes on from here"))
            continue
        best = leaderboard(read_results(run))[0]
        line = f"{best.backbone} on {best.dataset}: {best.label} {percent(best.score, best.metric)}{best.metric.unit}"
        entries.append(Entry(run.name, lines=(line,)))
    return entries


def _segmentation(run: Path) -> Entry:
    from iceprobe.results.segmentation_files import read_segmentations
    from iceprobe.results.tables import percent

    best = max(read_segmentations(run), key=lambda one: one.miou.mean)
    line = f"{best.backbone} on {best.dataset}: {best.probe} {percent(best.miou)}% mIoU"
    return Entry(run.name, lines=(line,))


def _stores(features: Path, runs: Path) -> list[Entry]:
    from rich.filesize import decimal

    from iceprobe.cli.stores import stores_in
    from iceprobe.store.format import Manifest

    entries = []
    for one in stores_in(features, [runs]):
        lines = []
        if isinstance(one.manifest, Manifest):
            lines.append(f"{one.manifest.backbone.spec} on {one.manifest.dataset.spec}")
            lines.append(f"images: {one.images}; {one.tokens}")
        readers = ", ".join(map(str, one.readers))
        lines.append(
            f"read by {readers}" if readers else f"read by no run in {runs}: iceprobe prune"
        )
        entries.append(Entry(str(one.path), f"{decimal(one.bytes)}, {one.state}", lines))
    return entries
