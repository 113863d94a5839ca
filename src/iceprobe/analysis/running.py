"""All measures of all attentive probes of a run, over the reported images of its store."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from iceprobe.analysis.background import OtherBackgrounds
from iceprobe.analysis.bags import BagMeasurements
from iceprobe.analysis.files import write_analyses
from iceprobe.analysis.measurements import Measurements
from iceprobe.analysis.places import attention_folder, write_all
from iceprobe.analysis.schema import HEADS, Analysis
from iceprobe.analysis.summary import analysis_of, shortcut_of
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.fitting.fitted import load_fitted
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.results.fitted import FittedResult
from iceprobe.results.stores import store_of
from iceprobe.settings import AnalyzeCall
from iceprobe.store import Store
from iceprobe.store.examples import example_noun, without_grid
from iceprobe.store.format import FOLDS
from iceprobe.store.recorded import recorded_backbone
from iceprobe.store.request import choose_device
from iceprobe.tasks.records import Record


@shows_progress
@takes(AnalyzeCall)
def analyze(results: Sequence[FittedResult], *, call: AnalyzeCall) -> list[Analysis]:
    """Measure where every probe with attention looks.

    Args:
        results: of a run, with its fitted probes and its store of patch tokens.
        settings: an :class:`iceprobe.settings.Analysis`, or its options as keywords; with
            ``output``, a folder for ``analysis.json`` and ``analysis.csv`` (nothing is written without),
            ``trust``, whether code may run, and other hosts be asked, that the results' files name, and
            ``progress``, called with ``(probe, images done, images)``. ``background`` exchanges everything
            outside the objects' boxes (see `OtherBackgrounds`); it and ``heads``, which adds the backbone's
            own attention (`Backbone.attention`) as an entry `HEADS` a store, need the backbone and the images.
            ``attention`` is a new folder for the weights of each bag (`iceprobe.analysis.places`).

    Returns:
        One entry a probe with attention, in the order of the results.

    Raises:
        IceprobeError: if no probe has attention, tokens or fitted weights are missing, an option
            is wrong; with ``background`` or ``heads`` also if the backbone has changed or can't be
            loaded, or lacks such attention, or the data set has no boxes.
    """
    where = choose_device(call.device)
    stores: dict[str, Store] = {}
    found: list[Measurements] = []
    for result in results:
        if result.method == "knn" or result.adaptation is not None:
            continue
        if result.split == FOLDS:
            raise IceprobeError(
                f"{result.label!r} was tested by folds, whose probes aren't kept, so nothing tells where they "
                "look: fit it without --folds, on a data set with a test split"
            )
        store = _opened(result, stores, call.trust)
        seeds: list[int | None] = [*result.seeds] or [None]
        fits = [load_fitted(result, store.shape, seed) for seed in seeds]
        if not fits[0].pooling.num_predictors:
            continue
        if not store.has_patches:
            raise IceprobeError(
                f"store {store.path} of {result.label!r} has no patch tokens, so there "
                "are no maps: extract with patches, from a backbone that has some"
            )
        steps = [t / call.thresholds for t in range(call.thresholds)]
        measuring = BagMeasurements if without_grid(store.manifest) else Measurements
        found.append(measuring(result, store, where, call.batch_size, steps, fits))
    if not found:
        probes = ", ".join(result.label for result in results) or "nothing"
        raise IceprobeError(
            f"no probe on a frozen backbone with attention among {probes}: run one that has, such "
            "as --probe ep12"
        )
    groups = _by_store(found) if call.background or call.heads else []
    for first, *_ in groups:
        if (example := example_noun(first.store.manifest)) != "image":
            raise IceprobeError(
                f"{first.result.label} was fitted on {example}s, and --background and --heads are of single "
                "images: leave them out"
            )
        if first.store.layers:
            raise IceprobeError(
                f"{first.result.label} reads several layers, and --background and --heads are of one: "
                "leave them out, or analyze a run of one layer"
            )
    # A backbone or data set that lacks something is refused before the first pass.
    backbones = [
        recorded_backbone(store.manifest.backbone, store.path, trust=call.trust).to(where)
        for store in (group[0].store for group in groups)
    ]
    others = [
        OtherBackgrounds(g[0].store, g[0].result.split, backbone)
        for g, backbone in zip(groups, backbones, strict=True)
        if call.background
    ]
    report = callback(call.progress)
    with nullcontext() if call.attention is None else attention_folder(call.attention, found) as to:
        for one in found:
            for number, fit in enumerate(one.probes):
                one.over(fit, report and _counted(report, one, number))
        written = write_all(found, to, report)
    draws = call.draws
    analyses = [
        analysis_of(one, draws, notes=notes) for one, notes in zip(found, written, strict=True)
    ]
    if call.background:
        for group, exchanged in zip(groups, others, strict=True):
            _exchange(group, exchanged, report)
        analyses = [
            replace(analysis, shortcut=shortcut_of(one, draws))
            for analysis, one in zip(analyses, found, strict=True)
        ]
    if call.heads:
        for (first, *_), backbone in zip(groups, backbones, strict=True):
            of_heads = Measurements(
                first.result, first.store, where, call.batch_size, first.thresholds
            )
            of_heads.over(backbone, report and partial(report, HEADS))
            analyses.append(analysis_of(of_heads, draws, heads=True))
    if call.output is not None:
        write_analyses(call.output, analyses)
    return analyses


def _by_store(found: Sequence[Measurements]) -> list[list[Measurements]]:
    """Those over the same images together."""
    groups: dict[tuple[str, str], list[Measurements]] = defaultdict(list)
    for one in found:
        groups[one.store.identity, one.result.split].append(one)
    return list(groups.values())


def _exchange(
    found: Sequence[Measurements], others: OtherBackgrounds, progress: ProgressCallback | None
) -> None:
    """What each fit makes of images with other backgrounds: one pass of the backbone for all."""
    first = found[0]
    records: list[list[list[Record]]] = [[[] for _ in one.probes] for one in found]
    for start in range(0, len(others.rows), first.batch):
        rows = others.rows[start : start + first.batch]
        tokens, targets = others.tokens(rows), first.labels[rows].to(first.device)
        for one, of_fits in zip(found, records, strict=True):
            for fit, parts in zip(one.probes, of_fits, strict=True):
                with torch.no_grad():
                    logits = fit.to(one.device)(tokens)
                parts.append(one.scoring.record(logits[None], targets))
        if progress is not None:
            progress("other backgrounds", start + len(rows), len(others.rows))
    for one, of_fits in zip(found, records, strict=True):
        one.exchanged = others, of_fits


def _opened(result: FittedResult, stores: dict[str, Store], trust: bool) -> Store:
    key = result.store.path or result.store.identity
    if result.open_store is not None or (result.store.path is None and not result.store.layers):
        return store_of(result, trust=trust)
    if key not in stores:
        stores[key] = store_of(result, trust=trust)
    return stores[key].asked_as(result.backbone, result.dataset, result.group)


def _counted(
    progress: ProgressCallback, one: Measurements, number: int
) -> Callable[[int, int], None]:
    """Images of all fits of a probe in one count."""
    return lambda done, of: progress(one.result.label, number * of + done, of * len(one.probes))
