"""``iceprobe ls``: everything that can be chosen. Only ``ls probes``, which counts, imports torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.text import Text

from iceprobe.adaptation import ADAPTATIONS
from iceprobe.backbones import BACKBONES
from iceprobe.backbones.families import FAMILIES
from iceprobe.cli.console import answers, below, console
from iceprobe.cli.probe_table import show_probes
from iceprobe.cli.stores import stores_in
from iceprobe.core.errors import IceprobeError
from iceprobe.core.registry import Registry
from iceprobe.core.specs import unknown
from iceprobe.datasets import CATALOGUE, DATASETS
from iceprobe.loggers import LOGGERS
from iceprobe.measures.registry import MEASURES
from iceprobe.probes import PROBES, probe_label
from iceprobe.protocols.protocol import PROTOCOLS
from iceprobe.published import encoders, figures
from iceprobe.results import read_results
from iceprobe.results.dense import Dense, best_first
from iceprobe.results.files import SEGMENTATIONS
from iceprobe.results.fitted import FittedResult
from iceprobe.results.segmentation_files import read_segmentations
from iceprobe.tasks import TASKS, get_task

LISTS = (
    "backbones", "datasets", "probes", "tasks", "metrics", "measures", "adaptations", "protocols",
    "loggers", "published", "runs", "stores",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One thing that can be chosen.

    Attributes:
        name: as an option takes it.
        what: a short description.
        lines: details, an example last.
        values: the same for programs.
    """

    name: str
    what: str = ""
    lines: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """For programs."""
        lines = [*filter(None, self.lines)]
        return {"name": self.name, "what": self.what, "lines": lines, **self.values}

    def has(self, word: str) -> bool:
        return word.lower() in " ".join((self.name, self.what, *self.lines)).lower()


def ls(
    what: Annotated[
        str | None,
        typer.Argument(
            help="backbones, datasets, probes, tasks, metrics, measures, adaptations, protocols, "
            "loggers, published, runs or stores; all if left out."
        ),
    ] = None,
    word: Annotated[
        str | None, typer.Argument(help="Show only entries that contain this word.")
    ] = None,
    dim: Annotated[int, typer.Option(min=1, help="probes: width of the tokens, D.")] = 768,
    classes: Annotated[int, typer.Option(min=1, help="probes: number of classes, C.")] = 1000,
    grid: Annotated[str, typer.Option(help="probes: rows x columns of the patches.")] = "14x14",
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    features: Annotated[Path, typer.Option(help="Folder of the stores.")] = Path("features"),
) -> None:
    """List backbones, data sets, probes, tasks, metrics, measures, adaptations, protocols, loggers, published figures,
    runs or stores.

    Probes asked for by name come with their parameters and FLOPs at one size of tokens and grid.

    \b
    Examples:
      iceprobe ls probes
      iceprobe ls probes ep --dim 1024 --classes 100 --grid 16x16
      iceprobe ls backbones timm
      iceprobe ls metrics multilabel
      iceprobe ls published DINOv2
      iceprobe ls runs
      iceprobe ls stores
    """
    made: Sequence[Callable[[], list[Entry]]] = (
        _backbones, _datasets, _probes, _tasks, _metrics, _measures, _adaptations, _protocols, _loggers, _published,
        lambda: _runs(runs), lambda: _stores(features, runs),
    )  # fmt: skip
    listings = dict(zip(LISTS, made, strict=True))
    if what is not None and what not in listings:
        raise IceprobeError(unknown("list", what, listings))
    if what == "probes":
        show_probes(word, dim, classes, grid)
        return
    for name in [what] if what else listings:
        _show(name, listings[name](), word)


def _show(title: str, entries: Sequence[Entry], word: str | None) -> None:
    """Print each entry with its details indented below."""
    found = [entry for entry in entries if word is None or entry.has(word)]
    if answers(title, [entry.record for entry in found]):
        return
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


def _loggers() -> list[Entry]:
    return [Entry(name, LOGGERS[name].summary, LOGGERS[name].examples) for name in sorted(LOGGERS)]


def _sources(registry: Registry[Any]) -> list[Entry]:
    return [Entry(f"{name}:", registry[name].summary, registry[name].examples) for name in registry]


def _backbones() -> list[Entry]:
    entries = _sources(BACKBONES)
    for family in filter(lambda family: family.tokens, FAMILIES):
        read = f"{family.tokens}; {'with' if family.norm else 'without'} the final norm"
        if family.published_norm is False:
            read += "; the published rows are without it: norm=false"
        lines = (f"read: {read}", f"licence of the weights: {family.licence}", family.example)
        entries.append(Entry(family.name, family.paradigm, lines))
    return entries


def _datasets() -> list[Entry]:
    entries = _sources(DATASETS)
    for name in CATALOGUE:
        one = CATALOGUE[name]
        train, test = one.images
        reported = {"top1": "top-1", "mean_per_class": "the mean per class"}[one.headline]
        images = f"{train:,} + {test:,} images" if train else f"{test:,} test images alone"
        lines = (
            f"{one.classes:,} classes, {images}; {reported} is reported",
            f"licence: {one.licence}; {one.where}",
            f"{name}?root=DIR",
        )
        known = {"classes": one.classes, "train": train, "test": test, "metric": one.headline}
        entries.append(Entry(name, one.summary, lines, {**known, "licence": one.licence}))
    return entries


def _probes() -> list[Entry]:
    found = {probe_label(name): PROBES[name] for name in PROBES}
    return [
        Entry(label, one.summary, (one.equation, f"keys: {', '.join(one.options)}"))
        for label, one in found.items()
    ]


def _tasks() -> list[Entry]:
    entries = []
    for name in TASKS:
        task = get_task(name)
        metrics = ", ".join(task.metrics)
        lines = (f"selected by {task.metric().title}", f"metrics: {metrics}")
        known = {"metric": task.metric().name, "metrics": [*task.metrics]}
        entries.append(Entry(name, TASKS[name].summary, lines, known))
    return entries


def _metrics() -> list[Entry]:
    """The metrics of each task, the one that selects first."""
    entries = []
    for name in TASKS:
        for metric in get_task(name).metrics.values():
            low, high = (
                ("−∞" if metric.range[0] is None else f"{metric.range[0]:g}"),
                ("∞" if metric.range[1] is None else f"{metric.range[1]:g}"),
            )
            better = "more" if metric.higher_is_better else "less"
            number = (
                f"{low} to {high}{', shown in %' if metric.percent else ''}; {better} is better"
            )
            known = {
                "task": name,
                "range": metric.range,
                "percent": metric.percent,
                "higher_is_better": metric.higher_is_better,
            }
            title = f"{metric.title}, of {name}"
            entries.append(Entry(metric.name, title, (metric.note, number), known))
    return entries


def _measures() -> list[Entry]:
    entries = []
    for name in MEASURES:
        one = MEASURES[name]
        number = f"{one.range}; {one.better} is usually better" if one.better != "–" else one.range
        entries.append(
            Entry(name, f"{one.title}: {one.summary}", (one.equation, number, one.source))
        )
    return entries


def _adaptations() -> list[Entry]:
    entries = []
    for name in ADAPTATIONS:
        one = ADAPTATIONS[name]
        keys = [f"{k}={o.default}" if o.default else k for k, o in one.options.items()]
        lines = (one.source, f"keys: {', '.join(keys)}" if keys else "", "; ".join(one.examples))
        entries.append(Entry(name, one.summary, lines))
    return entries


def _protocols() -> list[Entry]:
    entries = []
    for name, p in PROTOCOLS.items():
        least = f", at least {p.min_steps} steps" if p.min_steps else ""
        line = f"{p.optimizer}, {p.epochs} epochs, {p.batch_size} images a step{least}"
        known = {
            "optimizer": p.optimizer,
            "epochs": p.epochs,
            "batch_size": p.batch_size,
            "min_steps": p.min_steps,
        }
        entries.append(Entry(name, p.summary, (line,), known))
    return entries


def _published() -> list[Entry]:
    """The encoders with published figures, each with its figures by data set and source."""
    entries = []
    for encoder in encoders().values():
        of = [one for one in figures() if one.encoder == encoder.name]
        lines = []
        for data, source in dict.fromkeys((one.data, one.source) for one in of):
            here = [one for one in of if (one.data, one.source) == (data, source)]
            read = ", ".join(f"{one.probe} {100 * one.top1:.1f}" for one in here)
            lines.append(f"{data}, {source}: {read}")
        specs = "; ".join(map(str, encoder.specs)) or "no source of backbones has its weights: --as"
        entries.append(
            Entry(encoder.name, f"pre-trained on {encoder.pretraining}", (*lines, specs))
        )
    return entries


def _runs(folder: Path) -> list[Entry]:
    from iceprobe.results.tables import leaderboard, percent

    entries = []
    folders = {
        file.parent for name in ("config.yaml", "results.json") for file in folder.glob(f"*/{name}")
    }
    for run in sorted(folders):
        if (run / SEGMENTATIONS).exists():
            best = best_first(read_segmentations(run))[0]
            one: Dense | FittedResult = best
            unit = f"{best.score_unit} {best.metric.title}"
        elif (run / "results.json").exists():
            one = leaderboard(read_results(run))[0]
            unit = one.metric.unit
        else:
            unfinished = "unfinished: the same command goes on from here"
            entries.append(Entry(run.name, unfinished, values={"path": run, "finished": False}))
            continue
        scored = f"{one.label} {percent(one.score, one.metric)}{unit}"
        known = {"path": run, "finished": True, "backbone": one.backbone, "dataset": one.dataset}
        known |= {"probe": one.label, "metric": one.metric.name, "score": one.score}
        lines = (f"{one.backbone} on {one.dataset}: {scored}",)
        entries.append(Entry(run.name, lines=lines, values=known))
    return entries


def _stores(features: Path, runs: Path) -> list[Entry]:
    entries = []
    for one in stores_in(features, [runs]):
        readers = ", ".join(map(str, one.readers)) or f"no run in {runs}: iceprobe prune"
        lines = [*one.content, f"read by {readers}"]
        size = f"{decimal(one.bytes)}, {one.state}"
        entries.append(Entry(str(one.path), size, lines, one.record))
    return entries
