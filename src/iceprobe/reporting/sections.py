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


@dataclass(frozen=True)
class AnalysisView:
    """What the page shows of the analyses of one group."""

    probes: list[Analysed]
    charts: list[Chart]
    tables: list[PredictorTable]
    parts: PartsView | None
    remarks: list[str]


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
    group: SourceResults, palette: dict[str, str], images: int, number: int, opened: Opened
) -> AnalysisView:
    """Tables, charts and pictures of one group's analyses."""
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
    return AnalysisView(probes, made, tables, parts, remarks)


def galleries_of(
    results: Sequence[FittedResult], images: int, opened: Opened
) -> tuple[list["Gallery"], list[str]]:
    """Attention of the reference EP first, then of the others, best first, until the page is full."""
    attentive = _attentive(results)
    if images < 1 or not attentive:
        return [], []
    from iceprobe.reporting.attention import Album, draw_gallery  # torch: only where maps are drawn

    albums: dict[str, Album | IceprobeError] = {}
    galleries: list[Gallery] = []
    remarks: list[str] = []
    spent = 0
    for result in attentive:
        name = display_name(result.label)
        if result.adaptation is not None:
            remarks.append(f"{name}: no maps, its backbone was adapted.")
            continue
        if spent > _PICTURE_BYTES:
            remarks.append(f"{name}: left out to keep the page under 6 MB.")
            continue
        key = f"{result.store.identity} {result.split}"
        try:
            if key not in albums:
                if layout_of(store := opened(result)) == "bag":
                    continue  # as bag_galleries_of draws them
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
    return galleries, remarks


def bag_galleries_of(
    results: Sequence[FittedResult], images: int, opened: Opened
) -> tuple[list["BagGallery"], list[str]]:
    """The same of results on bags, whose tokens lie on no grid: a gallery a probe, and why some are missing."""
    on_bags: dict[str, tuple[Store, list[FittedResult]]] = {}
    attentive = _attentive(results) if images > 0 else []
    if attentive:
        from iceprobe.reporting.bag_view import draw_bags
    for result in attentive:
        try:
            if (
                result.adaptation is None
                and result.split != FOLDS
                and layout_of(store := opened(result)) == "bag"
            ):
                key = f"{result.store.identity} {result.split}"
                on_bags.setdefault(key, (store, []))[1].append(result)
        except IceprobeError:  # as galleries_of says
            continue
    galleries: list[BagGallery] = []
    remarks: list[str] = []
    spent = 0
    for store, of_store in on_bags.values():
        try:
            drawn = draw_bags(of_store, store, images)
        except IceprobeError as error:
            remarks.append(f"No pictures of bags, {error}.")
            continue
        for gallery in drawn:
            spent += sum(len(row.attention) + len(row.evidence) for row in gallery.rows)
            if spent > _PICTURE_BYTES:
                name = display_name(gallery.result.label)
                remarks.append(f"{name}: left out to keep the page under 6 MB.")
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
