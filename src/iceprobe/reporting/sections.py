"""The page's pictures: attention maps, disputed images, analyses; and why some of them are missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iceprobe.analysis.layouts import layout_of
from iceprobe.core.errors import IceprobeError
from iceprobe.reporting.analysis_view import (
    Analysed,
    PartsView,
    PredictorTable,
    analysed,
    importance_charts,
    parts_view,
    predictor_tables,
)
from iceprobe.reporting.charts import Chart
from iceprobe.reporting.disagreement_view import DisagreementView, disagreement_view
from iceprobe.reporting.finding import display_name
from iceprobe.reporting.groups import SourceResults
from iceprobe.results.comparison import BASELINES, probe_name, reference_ep
from iceprobe.results.fitted import FittedResult
from iceprobe.results.tables import leaderboard
from iceprobe.store.format import FOLDS

if TYPE_CHECKING:
    from iceprobe.reporting.attention import Gallery
    from iceprobe.reporting.bag_view import BagGallery
    from iceprobe.store import Store

Opened = Callable[[FittedResult], "Store"]

# Bytes of the page that attention maps may take; what else is drawn takes 1.2 MB, the charts' engine 0.9 MB.
_PICTURE_BYTES = 3_200_000
_LEFT_OUT = "left out to keep the page under 6 MB."


@dataclass(frozen=True)
class AnalysisView:
    """What the page shows of the analyses of one group."""

    probes: list[Analysed]
    charts: list[Chart]
    tables: list[PredictorTable]
    parts: PartsView | None
    remarks: list[str]
    of: str  # which group, where the page has several


def disputes_of(
    groups: Sequence[SourceResults], opened: Opened
) -> tuple[list[DisagreementView], list[str]]:
    """Disputed images of each group, and why some are missing."""
    found: list[DisagreementView] = []
    remarks: list[str] = []
    for group in groups:
        try:
            found += filter(None, [disagreement_view(group.results, opened)])
        except IceprobeError as error:
            remarks.append(f"Not shown, {error}.")
    return found, remarks


def analysis_of(
    group: SourceResults,
    palette: dict[str, str],
    images: int,
    number: int,
    opened: Opened,
    of: str = "",
) -> AnalysisView:
    """Tables, charts and pictures of one group's analyses; ``of`` names it where there are several."""
    probes = analysed(group.results)
    made = [
        Chart(f"importance-{number}-{i}", *one)
        for i, one in enumerate(importance_charts(probes, palette))
    ]
    if any(one.analysis.concentration for one in probes):
        images = 0  # bags have no pictures
    tables, remarks = predictor_tables(probes, opened, images)
    parts = None
    if images and probes and not remarks:
        try:
            parts = parts_view(probes, opened)
        except IceprobeError as error:
            remarks.append(f"No parts, {error}.")
    return AnalysisView(probes, made, tables, parts, remarks, of)


def galleries_of(
    results: Sequence[FittedResult], images: int, opened: Opened
) -> tuple[list["Gallery"], list["BagGallery"], list[str]]:
    """Attention of the reference EP first, then of the others, best first, until the page is full.

    Of results on bags, whose tokens lie on no grid, there are galleries of their own. Then why some are missing.
    """
    attentive = _attentive(results)
    if images < 1 or not attentive:
        return [], [], []
    from iceprobe.reporting.attention import Album, draw_gallery  # torch: only where maps are drawn

    albums: dict[str, Album | IceprobeError] = {}
    on_bags: dict[str, tuple[Store, list[FittedResult]]] = {}
    galleries: list[Gallery] = []
    remarks: list[str] = []
    spent = 0
    for result in attentive:
        name = display_name(result.label)
        if result.adaptation is not None:
            remarks.append(f"{name}: no maps, its backbone was adapted.")
            continue
        if spent > _PICTURE_BYTES:
            remarks.append(f"{name}: {_LEFT_OUT}")
            continue
        key = f"{result.store.identity} {result.split}"
        if key in on_bags:
            on_bags[key][1].append(result)
            continue
        try:
            if key not in albums:
                store = opened(result)
                if layout_of(store) == "bag" and result.split != FOLDS:
                    on_bags[key] = (store, [result])
                    continue
                albums[key] = Album.spread(store, result.split, images)
            album = albums[key]
            if isinstance(album, IceprobeError):
                continue  # reported once
            gallery = draw_gallery(result, album)
        except IceprobeError as error:
            remarks.append(f"{name}: no maps, {error}.")
            albums.setdefault(key, error)
            continue
        if gallery is not None:
            galleries.append(gallery)
            spent += sum(len(uri) for row in gallery.rows for uri in (row.image, *row.maps))
    bags, why = _bag_galleries(list(on_bags.values()), images, spent)
    return galleries, bags, [*remarks, *why]


def _bag_galleries(
    on_bags: Sequence[tuple["Store", list[FittedResult]]], images: int, spent: int
) -> tuple[list["BagGallery"], list[str]]:
    """A gallery a probe, of the results on each store, and why some are missing; ``spent`` bytes are drawn."""
    galleries: list[BagGallery] = []
    remarks: list[str] = []
    for store, of_store in on_bags:
        from iceprobe.reporting.bag_view import draw_bags

        try:
            drawn = draw_bags(of_store, store, images)
        except IceprobeError as error:
            remarks.append(f"No pictures of bags, {error}.")
            continue
        for gallery in drawn:
            spent += sum(len(row.attention) + len(row.evidence) for row in gallery.rows)
            if spent > _PICTURE_BYTES:
                remarks.append(f"{display_name(gallery.result.label)}: {_LEFT_OUT}")
            else:
                galleries.append(gallery)
    return galleries, remarks


def _attentive(results: Sequence[FittedResult]) -> list[FittedResult]:
    """Trained probes that may have attention, the reference EP first, then the best."""
    found = [
        one
        for one in leaderboard(results)
        if one.method == "trained" and probe_name(one) not in BASELINES
    ]
    reference = reference_ep(results)
    return sorted(found, key=lambda one: one is not reference)
