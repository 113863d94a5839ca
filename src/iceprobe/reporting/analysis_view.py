"""What ``iceprobe analyze`` found, as the page shows it: probes, predictors, parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt

from iceprobe.analysis.files import read_analyses
from iceprobe.analysis.schema import HEADS, Analysis, Predictor
from iceprobe.core.errors import IceprobeError
from iceprobe.reporting.charts import OTHERS, Spec, by_colour, finish
from iceprobe.reporting.finding import display_name
from iceprobe.results.comparison import reference_ep
from iceprobe.results.fitted import FittedResult
from iceprobe.results.tables import span

if TYPE_CHECKING:
    from iceprobe.reporting.attention import Album
    from iceprobe.store import Store

DETAILED = 4  # probes whose predictors are shown one by one
BEST, LEAST = 10, 3  # predictors of a table, from its top and from its end
EXAMPLES = 6  # images beside a predictor
PARTS = 6  # colours
PART_IMAGES = 27  # three rows of the page
_MEASURES = {
    "mass_in_mask": "Attention on the object’s mask, %",
    "mass_in_box": "Attention in the object’s box, %",
    "centroid_in_box": "Images with the centroid in the box, %",
    "entropy": "Entropy of the map, % of uniform",
}


@dataclass(frozen=True)
class Analysed:
    """An analysis and the result it is of; None for the backbone's own heads."""

    result: FittedResult | None
    analysis: Analysis

    @property
    def name(self) -> str:
        return "backbone’s heads" if self.result is None else display_name(self.result.label)


@dataclass(frozen=True)
class PredictorRow:
    """A predictor with its example maps."""

    predictor: Predictor
    maps: list[str]


@dataclass(frozen=True)
class PredictorTable:
    """The predictors of one probe, by importance."""

    of: Analysed
    images: list[str]  # the example images
    names: list[str]  # of the images
    top: list[PredictorRow]  # the first ones
    bottom: list[PredictorRow]  # the last ones
    left_out: int  # how many are between them


@dataclass(frozen=True)
class PartsView:
    """A grid of images in the colours of a probe's parts."""

    result: FittedResult  # whose first seed
    pictures: list[tuple[str, str]]  # data URIs, with the names of their images
    legend: list[tuple[str, list[int]]]  # a colour and the predictors of its part


def analysed(results: Sequence[FittedResult]) -> list[Analysed]:
    """Analyses of the results of one group, the reference EP's first; stale ones are left out.

    Raises:
        IceprobeError: if a run's analysis can't be read.
    """
    found: list[Analysed] = []
    for run in dict.fromkeys(one.run for one in results if one.run is not None):
        here = {(r.label, r.store.identity, r.split): r for r in results if r.run == run}
        stores = {store for _, store, _ in here}
        for one in read_analyses(run):
            result = here.get((one.probe, one.store, one.split))
            if result is not None and result.seeds == one.seeds:
                found.append(Analysed(result, one))
            elif one.probe == HEADS and one.store in stores:
                found.append(Analysed(None, one))
    first = reference_ep([one.result for one in found if one.result is not None])
    found.sort(key=lambda one: (one.result is None, one.result is not first))
    return found


def importance_charts(
    shown: Sequence[Analysed], palette: dict[str, str]
) -> list[tuple[str, str, Spec]]:
    """Importance against where predictors look, a point a predictor: title, remark, chart.

    At most two measures: attention on the object and the centroid, or entropy without ground truth.
    """
    important = [
        one
        for one in shown
        if one.result is not None and one.analysis.predictors[0].importance is not None
    ][:DETAILED]
    if not important:
        return []
    first = important[0].analysis.predictors[0]
    known = [name for name in _MEASURES if getattr(first, name) is not None]
    object_first = [name for name in known if name != "entropy"] or known
    if "mass_in_mask" in object_first:
        object_first.remove("mass_in_box")
    made = []
    for name in object_first[:2]:
        rows = [
            {
                "probe": one.name,
                "colour": palette[one.result.label],
                "predictor": f"{each.predictor} of seed {each.seed}",
                "x": 100 * getattr(each, name).mean,
                "y": one.result.metric.scale * each.importance.mean,
                "interval": span(each.importance.interval, one.result.metric, signed=True),
            }
            for one in important
            for each in one.analysis.predictors
            if one.result is not None and each.importance is not None
        ]
        remark = "; ".join(_correlation(one, name) for one in important)
        title = f"Importance against {name.replace('_', ' ')}"
        made.append((title, f"Spearman: {remark}.", _importance_chart(rows, important[0], name)))
    return made


def _correlation(one: Analysed, measure: str) -> str:
    found = one.analysis.correlation.get(measure)
    if found is None:
        return f"{one.name} – ({len(one.analysis.predictors)} predictors are too few or all alike)"
    low, high = found.interval
    text = f"{one.name} {found.rho:+.2f} [{low:+.2f}, {high:+.2f}] over {found.predictors}"
    return text.replace("-", "−")


def _importance_chart(rows: list[dict[str, Any]], first: Analysed, measure: str) -> Spec:
    assert first.result is not None
    metric = first.result.metric
    noun = "accuracy" if metric.accuracy else metric.title
    unit = f"points of {noun}" if metric.percent else noun
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("x:Q", title=_MEASURES[measure]).scale(zero=False, padding=10).axis(grid=False),
        y=alt.Y("y:Q", title=f"Importance, {unit}").scale(padding=10),
    )
    points = base.mark_circle(size=64, opacity=0.75, stroke="white", strokeWidth=0.8).encode(
        color=by_colour(
            rows, "probe", alt.Legend(title=None, orient="bottom", columns=4, labelLimit=220)
        ),
        tooltip=[
            alt.Tooltip("probe:N"),
            alt.Tooltip("predictor:N"),
            alt.Tooltip("y:Q", title="importance", format="+.2f" if metric.percent else "+.3f"),
            alt.Tooltip("interval:N", title="95% interval"),
            alt.Tooltip("x:Q", title=measure.replace("_", " ") + ", %", format=".1f"),
        ],
    )
    layers = [points]
    if (uniform := first.analysis.uniform.get(measure)) is not None:
        mark = alt.Chart(alt.Data(values=[{"x": 100 * uniform, "text": "uniform attention"}]))
        layers = [
            mark.mark_rule(color="#a9b3bd", strokeDash=[3, 3]).encode(x="x:Q"),
            mark.mark_text(
                align="left", baseline="top", dx=5, dy=2, y=0, fontSize=12, color="#5d6b7a"
            ).encode(x="x:Q", text="text:N"),
            points,
        ]
    return finish(alt.layer(*layers))


def predictor_tables(
    shown: Sequence[Analysed], opened: Callable[[FittedResult], "Store"], images: int
) -> tuple[list[PredictorTable], list[str]]:
    """The predictors of the first few probes, with example maps, and why maps are missing."""
    tables: list[PredictorTable] = []
    remarks: list[str] = []
    albums: dict[str, Album] = {}
    for one in [one for one in shown if one.result is not None][:DETAILED]:
        assert one.result is not None
        everyone = one.analysis.predictors
        cut = len(everyone) if len(everyone) <= BEST + LEAST else BEST
        kept = [*everyone[:cut], *everyone[cut:][-LEAST:]]
        maps: dict[tuple[int, int], list[str]] = {}
        pictures: list[str] = []
        names: list[str] = []
        try:
            if images:
                album = _album(one.result, albums, opened, min(images, EXAMPLES))
                maps = _example_maps(one.result, album, kept)
                pictures, names = (album.pictures, album.names) if maps else ([], [])
        except IceprobeError as error:
            remarks.append(f"{one.name}: no maps, {error}.")
        rows = [PredictorRow(each, maps.get((each.seed, each.predictor), [])) for each in kept]
        left_out = len(everyone) - len(kept)
        tables.append(PredictorTable(one, pictures, names, rows[:cut], rows[cut:], left_out))
    return tables, remarks


def _album(
    result: FittedResult,
    albums: dict[str, "Album"],
    opened: Callable[[FittedResult], "Store"],
    count: int,
) -> "Album":
    from iceprobe.reporting.attention import Album  # torch: only where maps are drawn

    key = f"{result.store.identity} {result.split}"
    if key not in albums:
        albums[key] = Album.spread(opened(result), result.split, count)
    return albums[key]


def _example_maps(
    result: FittedResult, album: "Album", wanted: Sequence[Predictor]
) -> dict[tuple[int, int], list[str]]:
    """By seed and predictor, its map on each image of the album."""
    made: dict[tuple[int, int], list[str]] = {}
    for seed in dict.fromkeys(each.seed for each in wanted):
        if (found := album.maps(album.probe(result, seed))) is not None:
            mine = [each.predictor for each in wanted if each.seed == seed]
            overlays = album.overlays(found[:, [j - 1 for j in mine]])
            made |= {
                (seed, j): [*maps]
                for j, maps in zip(mine, zip(*overlays, strict=True), strict=True)
            }
    return made


def parts_view(
    shown: Sequence[Analysed], opened: Callable[[FittedResult], "Store"]
) -> PartsView | None:
    """Parts of the first probe that has several predictors. Raises as `Album`."""
    from iceprobe.analysis.parts import part_maps
    from iceprobe.reporting.pictures import part_uris

    for one in shown:
        if one.result is None or len(one.analysis.predictors) <= max(1, len(one.analysis.seeds)):
            continue
        album = _album(one.result, {}, opened, PART_IMAGES)
        if album.moments is not None:  # parts are regions of one image
            continue
        if (found := album.maps(album.probe(one.result))) is None:
            continue
        parts, assigned = part_maps(found, PARTS)
        uris = part_uris(album.images, album.gridded(parts), OTHERS)
        members = [
            (OTHERS[k], [j + 1 for j, of in enumerate(assigned.tolist()) if of == k])
            for k in range(parts.shape[1])
        ]
        members.sort(key=lambda part: -len(part[1]))
        return PartsView(one.result, list(zip(uris, album.names, strict=True)), members)
    return None
