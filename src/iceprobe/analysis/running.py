"""All measures of all attentive probes of a run, over the reported images of its store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np
import torch

from iceprobe.analysis.association import DRAWS
from iceprobe.analysis.background import OtherBackgrounds
from iceprobe.analysis.files import write_analyses
from iceprobe.analysis.measurements import Measurements, Values
from iceprobe.analysis.schema import HEADS, Analysis
from iceprobe.analysis.summary import analysis_of, shortcut_of
from iceprobe.core.arguments import checked
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.fitted import load_fitted
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.results.fitted import FittedResult
from iceprobe.results.stores import store_of
from iceprobe.store import Store
from iceprobe.store.recorded import recorded_backbone
from iceprobe.store.request import choose_device

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe


class Options(TypedDict, total=False):
    """What :func:`analyze` takes besides, see there."""

    thresholds: int
    draws: int
    batch_size: int
    device: str | None


@dataclass(frozen=True)
class Measuring:
    """How it is measured."""

    thresholds: int
    draws: int
    batch_size: int
    device: str | None


@checked
@shows_progress
def analyze(
    results: Sequence[FittedResult],
    *,
    output: str | Path | None = None,
    background: bool = False,
    heads: bool = False,
    trust: bool = False,
    progress: ProgressCallback | bool | None = None,
    **how: Unpack[Options],
) -> list[Analysis]:
    """Measure where every probe with attention looks.

    Args:
        results: of a run, with its fitted probes and its store of patch tokens.
        output: a folder for ``analysis.json`` and ``analysis.csv``; nothing is written without.
        background: whether to test what each probe loses when everything outside the objects'
            boxes is exchanged (see `OtherBackgrounds`); needs the backbone and the images.
        heads: whether to add the backbone's own attention (`Backbone.attention`), an entry `HEADS`
            a store; needs the same.
        trust: whether code may run, and other hosts be asked, that the results' files name.
        progress: called with ``(probe, images done, images)``; by default a bar
            in a terminal or a notebook, and ``False`` shows nothing.
        how: ``thresholds`` of MaxBoxAccV2, at even distances in [0, 1) (100); ``draws`` of the
            bootstrap over images (2,000); ``batch_size``, images at a time (64); ``device``,
            ``"cpu"`` or ``"cuda"`` (CUDA where there is one).

    Returns:
        One entry a probe with attention, in the order of the results.

    Raises:
        IceprobeError: if no probe has attention, tokens or fitted weights are missing, an option
            is wrong; with ``background`` or ``heads`` also if the backbone has changed or can't be
            loaded, or lacks such attention, or the data set has no boxes.
    """
    measuring = _measuring(**how)
    where = choose_device(measuring.device)
    stores: dict[str, Store] = {}
    found: list[Measurements] = []
    for result in results:
        if result.method == "knn" or result.adaptation is not None:
            continue
        store = _opened(result, stores, trust)
        fits = _fits(result, store)
        if not fits[0].pooling.num_predictors:
            continue
        if store.grid is None or not store.has_patches:
            raise IceprobeError(
                f"store {store.path} of {result.label!r} has no patch tokens on a grid, so there "
                "are no maps: extract with patches, from a backbone that has some"
            )
        steps = [t / measuring.thresholds for t in range(measuring.thresholds)]
        found.append(Measurements(result, store, where, measuring.batch_size, steps, fits))
    groups = _by_store(found) if background or heads else []
    # What a backbone or a data set hasn't is said before the first pass, not after it.
    backbones = [
        recorded_backbone(store.manifest.backbone, store.path, trust=trust).to(where)
        for store in (group[0].store for group in groups)
    ]
    others = [
        OtherBackgrounds(g[0].store, g[0].result.split, backbone)
        for g, backbone in zip(groups, backbones, strict=True)
        if background
    ]
    report = callback(progress)
    for one in found:
        for number, fit in enumerate(one.probes):
            one.over(fit, report and _counted(report, one.result, number, one.probes))
    draws = measuring.draws
    analyses = [analysis_of(one, draws) for one in found]
    if background:
        for group, exchanged in zip(groups, others, strict=True):
            _exchange(group, exchanged, report)
        analyses = [
            replace(analysis, shortcut=shortcut_of(one, draws))
            for analysis, one in zip(analyses, found, strict=True)
        ]
    if heads:
        for (first, *_), backbone in zip(groups, backbones, strict=True):
            of_heads = Measurements(
                first.result, first.store, where, measuring.batch_size, first.thresholds
            )
            of_heads.over(backbone, report and partial(report, HEADS))
            analyses.append(analysis_of(of_heads, draws, heads=True))
    if not analyses:
        probes = ", ".join(result.label for result in results) or "nothing"
        raise IceprobeError(
            f"no probe on a frozen backbone with attention among {probes}: run one that has, such "
            "as --probe ep12"
        )
    if output is not None:
        write_analyses(output, analyses)
    return analyses


def _checked_options(
    thresholds: int = 100, draws: int = DRAWS, batch_size: int = 64, device: str | None = None
) -> Measuring:
    for name, number in (("thresholds", thresholds), ("draws", draws), ("batch_size", batch_size)):
        if number < 1:
            raise IceprobeError(f"{name}={number}: give a number of at least 1")
    return Measuring(thresholds, draws, batch_size, device)


_checked_options.__name__ = "analyze"  # which errors name
_measuring = checked(_checked_options)


def _by_store(found: Sequence[Measurements]) -> list[list[Measurements]]:
    """Those over the same images together."""
    groups: dict[tuple[str, str], list[Measurements]] = {}
    for one in found:
        groups.setdefault((one.store.identity, one.result.split), []).append(one)
    return list(groups.values())


def _exchange(
    found: Sequence[Measurements], others: OtherBackgrounds, progress: ProgressCallback | None
) -> None:
    """What every fit answers on the images with other backgrounds: one pass of the backbone for all."""
    first = found[0]
    right: list[list[Values]] = [[] for _ in found]
    for start in range(0, len(others.rows), first.batch):
        rows = others.rows[start : start + first.batch]
        tokens, labels = others.tokens(rows), first.labels[rows]
        for one, parts in zip(found, right, strict=True):
            with torch.no_grad():
                answers = [fit.to(one.device)(tokens).argmax(1).cpu() for fit in one.probes]
            parts.append((torch.stack(answers) == labels).double().numpy())
        if progress is not None:
            progress("other backgrounds", start + len(rows), len(others.rows))
    for one, parts in zip(found, right, strict=True):
        one.exchanged = others, np.concatenate(parts, 1)


def _opened(result: FittedResult, stores: dict[str, Store], trust: bool) -> Store:
    if result.open_store is not None or result.store.path is None:
        return store_of(result, trust=trust)
    if result.store.path not in stores:
        stores[result.store.path] = store_of(result, trust=trust)
    return stores[result.store.path].asked_as(result.backbone, result.dataset)


def _fits(result: FittedResult, store: Store) -> list["Probe"]:
    seeds: list[int | None] = [*result.seeds] or [None]
    return [load_fitted(result, store.shape, seed) for seed in seeds]


def _counted(
    progress: ProgressCallback, result: FittedResult, number: int, fits: Sequence["Probe"]
) -> Callable[[int, int], None]:
    """Images of all fits of a probe in one count."""
    return lambda done, of: progress(result.label, number * of + done, of * len(fits))
