"""``iceprobe measure``: what stored tokens tell without labels, beside what probes scored on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import iceprobe
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars, console, note, say, table_of
from iceprobe.cli.paths import check_file
from iceprobe.cli.signature import Given, Trust, options
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import part_of
from iceprobe.machine.object_storage import is_remote
from iceprobe.measures.registry import MEASURES
from iceprobe.results import FittedResult, read_results
from iceprobe.results.files import FILE_NAME
from iceprobe.results.terminal import Column, TerminalTable
from iceprobe.settings import MeasureRun, Measuring

if TYPE_CHECKING:
    from iceprobe.measures import Correlation, Measured
    from iceprobe.store import Store


_ALIKE = 0.01  # of two CKAs that are shown as one


@options(MeasureRun)
def measure(
    given: Given,
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE|RUN…",
            help="Feature stores, and run folders whose stores are meant.",
        ),
    ],
    trust: Trust = False,
) -> None:
    """Measure stores without labels: rank, spread, views, likeness of two stores.

    Of a run the stores that its probes read are measured, and each measure is correlated with what each probe
    scored, over layers and backbones.

    \b
    Examples:
      iceprobe measure features/mae-tiny--fashion-0123456789ab
      iceprobe measure features/* --measure rankme --measure cka --output measures.csv
      iceprobe measure features/mae-tiny--fashion-0123456789ab --input patches
      iceprobe measure runs/layers --figure measures.svg
    """
    from iceprobe.measures.correlation import correlate
    from iceprobe.measures.files import check_ending, write_measured

    config = resolve(MeasureRun, given)
    for name in config.measures or []:
        MEASURES[name]
    if config.output is not None:
        check_ending(config.output)
        check_file(config.output, "--output")
    stores, results = opened(places, trust=trust)
    if config.figure is not None:
        from iceprobe.reporting.measure_chart import check_format

        check_format(config.figure)
        check_file(config.figure, "--figure")
        if not results:
            raise IceprobeError(
                "--figure draws what probes scored, and no run was named: name a run folder beside the stores"
            )
    with Bars() as bars:
        measured = iceprobe.measure(stores, part_of(config, Measuring), progress=bars)
    correlations = correlate(measured, results)
    console.print(of_stores(measured))
    for line in remarks(measured):
        note(line)
    for table in of_pairs(measured):
        console.print(table)
    if correlations:
        console.print(of_correlations(correlations, measured))
    elif results:
        note("no two of the stores were read by one probe: there is nothing to correlate")
    if config.output is not None:
        say(write_measured(config.output, measured, correlations).resolve())
    if config.figure is not None:
        from iceprobe.reporting.measure_chart import write_measure_chart

        say(write_measure_chart(config.figure, measured, results, correlations).resolve())


def opened(places: Sequence[Path], *, trust: bool) -> "tuple[list[Store], list[FittedResult]]":
    """The stores that are named, each once, and the results of the runs that are.

    Raises:
        IceprobeError: if a place is neither, or the store of a result can't be found.
    """
    from iceprobe.results.stores import store_of
    from iceprobe.store import Store

    stores: dict[str, Store] = {}
    results: list[FittedResult] = []
    for place in places:
        if is_remote(place) or not (place / FILE_NAME).exists():
            store = Store.open(place, trust=trust)
            stores.setdefault(store.identity, store)
            continue
        for one in read_results(place):
            if one.adaptation is not None or one.store.layers or one.test_of is not None:
                continue  # of no store, of several layers at once, on another data set
            results.append(one)
            if one.store.identity not in stores:
                stores[one.store.identity] = store_of(one, trust=trust)
    if not stores:
        raise IceprobeError(
            f"no probe of {', '.join(map(str, places))} read the store of one layer of a frozen backbone: name a "
            "store"
        )
    return list(stores.values()), results


def called(measured: "Sequence[Measured]") -> list[str]:
    """A name for each store: its layer where all else is the same, or its backbone, its data set where these
    differ, its folder where that is needed."""
    names = [one.backbone for one in measured]
    if layers := _layers_of_one(measured):
        names = [f"layer {layer}" for layer in layers]
    if len({one.dataset for one in measured}) > 1:
        names = [f"{name} on {one.dataset}" for name, one in zip(names, measured, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name} ({Path(one.path or one.store[:12]).name})"
        for name, one in zip(names, measured, strict=True)
    ]


def _layers_of_one(measured: "Sequence[Measured]") -> list[int]:
    """Their layers, if they are of one backbone at several."""
    from iceprobe.results.sweeps import without_layer

    layers = [one.layer for one in measured if one.layer is not None]
    of_one = len({without_layer(one.backbone) for one in measured}) == 1
    return layers if of_one and len(set(layers)) > 1 and len(layers) == len(measured) else []


def _title(measured: "Sequence[Measured]") -> str:
    """What all stores have in common."""
    from iceprobe.results.sweeps import without_layer

    backbone = without_layer(measured[0].backbone) if _layers_of_one(measured) else ""
    data = {f"{one.dataset}, {one.split}" for one in measured}
    return " on ".join(filter(None, [backbone, data.pop() if len(data) == 1 else ""]))


def of_stores(measured: "Sequence[Measured]") -> TerminalTable:
    """A row a store, a column a measure."""
    from iceprobe.measures.correlation import measures_of

    names = dict(zip([one.store for one in measured], called(measured), strict=True))
    cells: list[tuple[Column, Callable[[Measured], str]]] = [
        (Column("store", numeric=False), lambda one: names[one.store]),
        (Column("reads", numeric=False, goes=1), lambda one: one.input),
        (Column("vectors", goes=2), lambda one: f"{one.vectors:,}"),
        (Column("D", goes=3), lambda one: str(one.dim)),
    ]
    for name in measures_of(measured):
        title = f"{MEASURES[name].title} (R²)" if name == "alpha" else MEASURES[name].title
        cells.append((Column(title), lambda one, name=name: _cell(one, name)))  # type: ignore[misc]
    return table_of(measured, cells, _title(measured) or None, "measured")


def remarks(measured: "Sequence[Measured]") -> list[str]:
    """What is missing and what else to know, each line once, with its stores where these aren't all."""
    found: dict[str, list[str]] = {}
    for one, name in zip(measured, called(measured), strict=True):
        lines = [f"no {MEASURES[key].title}: {why}" for key, why in one.missing.items()]
        for line in [*one.notes, *lines]:
            found.setdefault(line, []).append(name)
    return [
        line if len(names) == len(measured) else f"{', '.join(names)}: {line}"
        for line, names in found.items()
    ]


def of_pairs(measured: "Sequence[Measured]") -> list[TerminalTable]:
    """CKA of every two stores, numbered rows and columns; the unbiased one where it says something else."""
    pairs = [both for one in measured for both in one.others.values() if "cka" in both]
    apart = [abs(both["cka"] - both["cka_unbiased"]) for both in pairs if "cka_unbiased" in both]
    keys = {"cka": "linear CKA", "cka_unbiased": "linear CKA, unbiased"}
    if max(apart, default=0) < _ALIKE:
        del keys["cka_unbiased"]
    tables = [_matrix(measured, key, title) for key, title in keys.items() if pairs]
    if apart and len(tables) == 1:
        tables[0].notes = [f"The unbiased one differs by less than {_ALIKE}."]
    return tables


def _matrix(measured: "Sequence[Measured]", key: str, title: str) -> TerminalTable:
    columns = [Column("", numeric=False)]
    columns += [Column(str(number)) for number in range(1, len(measured) + 1)]
    rows = []
    for number, (one, name) in enumerate(zip(measured, called(measured), strict=True), 1):
        values = [one.others.get(other.store, {}).get(key) for other in measured[: number - 1]]
        cells = ["–" if value is None else f"{value:.2f}" for value in values]
        rows.append([f"{number} {name}", *cells, *[""] * (len(measured) - len(cells))])
    return TerminalTable(columns, rows, title, made_of=[], name="measured")  # whose others say it


def of_correlations(
    correlations: "Sequence[Correlation]", measured: "Sequence[Measured]"
) -> TerminalTable:
    """A row a probe and measure, with the intervals over stores."""
    several = len({one.on for one in correlations}) > 1
    cells: list[tuple[Column, Callable[[Correlation], str]]] = [
        (Column("probe", numeric=False), lambda one: one.probe),
        (Column("measure", numeric=False), lambda one: MEASURES[one.measure].title),
        (Column("stores", goes=1), lambda one: str(len(one.points))),
        (Column("Spearman ρ"), lambda one: one.why or str(one.spearman)),
        (Column("Pearson r", goes=2), lambda one: str(one.pearson or "–")),
    ]
    if several:
        cells.insert(1, (Column("on", numeric=False), lambda one: one.on))
    title = "What probes scored, and measures without labels"
    table = table_of(correlations, cells, title, "correlations")
    read = " or ".join(dict.fromkeys(one.input for one in measured))
    table.notes = [
        f"Measures are of {read} (--input); probes read what their names say.",
        "Intervals: 95%, bootstrap over these stores; layers of one backbone aren't independent of each other.",
    ]
    return table


def _cell(one: "Measured", name: str) -> str:
    text = _figure(one.values.get(name))
    return f"{text} ({one.values['alpha_r2']:.2f})" if name == "alpha" and text != "–" else text


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
