"""The page: everything the template shows, computed from results, and the file written."""

import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import duration, utf8
from iceprobe.core.trust import REMEDY, elsewhere
from iceprobe.machine.files import write_atomically
from iceprobe.reporting import charts, sweep_charts
from iceprobe.reporting.analysis_view import (
    Analysed,
    PartsView,
    PredictorTable,
    analysed,
    importance_charts,
    parts_view,
    predictor_tables,
)
from iceprobe.reporting.confusion_view import ConfusionView, confusion_view
from iceprobe.reporting.disagreement_view import DisagreementView, disagreement_view
from iceprobe.reporting.finding import Finding, display_name, find, find_across
from iceprobe.results.caveats import covered, few_rows, kept, lost_note
from iceprobe.results.comparison import (
    Comparison,
    best_baseline,
    compare_pair,
    corrected,
    probe_name,
    reference_ep,
)
from iceprobe.results.curves import FILE_NAME as CURVES_FILE
from iceprobe.results.curves import CurveRow, read_curves
from iceprobe.results.schema import Result
from iceprobe.results.stores import store_of
from iceprobe.results.sweeps import (
    Ranking,
    Sweep,
    by_layer,
    by_training_images,
    rankings,
)
from iceprobe.results.tables import (
    TRAIN_LONGER,
    leaderboard,
    percent,
    short,
    signed_points,
    span,
    tenths,
)
from iceprobe.results.varying import draw_of, told, varying

if TYPE_CHECKING:
    from iceprobe.reporting.attention import Gallery
    from iceprobe.store import Store

log = logging.getLogger("iceprobe")

Opened = Callable[[Result], "Store"]

MAX_BYTES = 6_000_000
FEW = 3  # groups whose cost, learning curves and maps a page across several still draws
# Of which the attention maps may take; what else is drawn takes 1.2 MB, the charts' engine 0.9 MB.
_PICTURE_BYTES = 3_200_000


@dataclass(frozen=True)
class Contest:
    """Every other probe of one group against one of them."""

    against: Result
    rows: list[Comparison]
    reach: float  # half the width of the drawing, as a fraction


@dataclass(frozen=True)
class Group:
    """Results that may be compared image by image: one backbone, data set and protocol."""

    results: list[Result]  # in the order they were asked for
    finding: Finding
    contests: list[Contest]


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification and its heading."""

    key: str
    title: str
    remark: str
    spec: charts.Spec


@dataclass(frozen=True)
class AnalysisView:
    """What the page shows of the analyses of one group."""

    probes: list[Analysed]
    charts: list[Chart]
    tables: list[PredictorTable]
    parts: PartsView | None
    remarks: list[str]


def write_report(
    results: Sequence[Result], path: Path, *, title: str | None, images: int, trust: bool = False
) -> Path:
    """See :func:`iceprobe.report.report`."""
    if not results:
        raise IceprobeError("a report needs at least one result: run a probe first")
    unasked = _unasked(results, trust)
    for place in unasked:
        log.warning(
            "%s is on another host, which wasn't asked: the report is without its "
            "pictures; %s", place, REMEDY,
        )  # fmt: skip
    write_atomically(path, utf8(render(results, title=title, images=images, trust=trust)))
    return path


def render(
    results: Sequence[Result],
    *,
    title: str | None = None,
    images: int = 8,
    trust: bool = False,
) -> str:
    """The page as text.

    Raises:
        IceprobeError: if the page would weigh more than 6 MB.
    """
    ordered = leaderboard(results)
    groups = grouped(results)
    opened = partial(store_of, trust=trust)
    galleries, remarks = _galleries(results, images, opened) if len(groups) <= FEW else ([], [])
    if not remarks:
        remarks = [
            f"{place} wasn't asked, {REMEDY}: its pictures are left out."
            for place in _unasked(results, trust)
        ]
    palette = charts.colours(results)
    ranked, layers, draws = rankings(results), by_layer(results), by_training_images(results)
    across = find_across(ranked, layers, draws)
    differing = varying(ordered)
    figures = _figures(ordered, palette) if len(groups) <= FEW and "draw" not in differing else []
    figures += _sweeps(ranked, layers, draws, palette)
    shown = groups if len(groups) <= FEW else []
    confused = [view for group in shown if (view := confusion_view(group.results, trust))]
    figures += _matrices(confused)
    disputes, undisputed = _disputes(shown, opened) if images else ([], [])
    analyses = [_analysis(group, palette, images, i, opened) for i, group in enumerate(shown)]
    analyses = [one for one in analyses if one.probes]
    figures += [chart for one in analyses for chart in one.charts]
    scripts = [_engine(), asset("page.js")] if figures else [asset("page.js")]
    first = ordered[0]
    page = environment().get_template("page.html.j2").render(
        headed=_headed(ordered),
        title=title or _across(ordered),
        first=first,
        ordered=ordered,
        weak=[one for one in ordered if one.undertrained],
        groups=groups,
        headline=across or groups[0].finding,
        tiles=[] if across else _tiles(groups[0]),
        varying=differing,
        rankings=ranked,
        moved=any(one.moved() for one in ranked),
        scale=_scale(ordered),
        palette=palette,
        charts=figures,
        specs=[(figure.key, _inert_json(figure.spec)) for figure in figures],
        galleries=galleries,
        remarks=remarks,
        confused=confused,
        disputes=disputes,
        undisputed=undisputed,
        analyses=analyses,
        runs=sorted({str(one.run) for one in results if one.run is not None}),
        style=Markup(asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=policy(scripts),
    )  # fmt: skip
    if len(utf8(page)) > MAX_BYTES:
        raise IceprobeError(
            f"the report of {len(results)} results would weigh {len(utf8(page)) / 1e6:.1f} MB: "
            "report fewer results at a time, or fewer images"
        )
    return page


def _unasked(results: Sequence[Result], trust: bool) -> list[str]:
    """Stores on other hosts that only the results' files name."""
    named = [one.store.path or "" for one in results if one.open_store is None]
    return [] if trust else [place for place in dict.fromkeys(named) if elsewhere(place)]


def grouped(results: Sequence[Result]) -> list[Group]:
    """Results by backbone, data set, protocol, split and draw, in the order they were given."""
    found: dict[tuple[str, ...], list[Result]] = {}
    for one in results:
        draw = draw_of(one)
        key = (one.backbone, one.store.identity, one.dataset, one.protocol, one.split, draw)
        found.setdefault(key, []).append(one)
    return [Group(members, find(members), _contests(members)) for members in found.values()]


def _contests(results: Sequence[Result]) -> list[Contest]:
    """Each probe against the best baseline and against EP, where predictions were kept."""
    opponents = [best_baseline(results), reference_ep(results)]
    contests = []
    for opponent in opponents:
        if opponent is None or opponent.predictions() is None:
            continue
        rows = corrected(
            [
                compare_pair(result, opponent)
                for result in leaderboard(results)
                if result is not opponent and result.predictions() is not None
            ]
        )
        if rows:
            ends = [abs(end) for row in rows for end in row.difference.interval]
            contests.append(Contest(opponent, rows, max(max(ends) * 1.06, 0.002)))
    return contests


def _headed(results: Sequence[Result]) -> str:
    """What was done to the backbone: "frozen", or how it was adapted."""
    how = dict.fromkeys(one.adaptation or "frozen" for one in results)
    adapted = [name for name in how if name != "frozen"]
    if not adapted:
        return "frozen"
    return ("frozen and adapted: " if "frozen" in how else "adapted: ") + ", ".join(adapted)


def _tiles(group: Group) -> list[Result]:
    """What stands large under the headline: k-NN, the best linear probe, EP."""
    linear = best_baseline([one for one in group.results if probe_name(one) == "linear"])
    knn = best_baseline([one for one in group.results if probe_name(one) == "knn"])
    chosen = [knn, linear, reference_ep(group.results)]
    shown = [one for one in chosen if one is not None]
    return shown or group.results[:1]


def _figures(ordered: Sequence[Result], palette: dict[str, str]) -> list[Chart]:
    tables: dict[Path | None, list[CurveRow]] = {None: []}
    for result in ordered:
        if result.run is not None and result.run not in tables:
            digest = result.files.digests.get(CURVES_FILE)
            tables[result.run] = read_curves(result.run, digest)
    curves = [tables[result.run] for result in ordered]
    front = "Bars: 95% intervals. Dashed: the Pareto front."
    chosen = "At the chosen setting: mean over seeds, band: their range; the dot is the epoch kept."
    look = "Best" if any(one.selected_on_reported for one in ordered) else "Last"
    grid = f"{look} epoch, mean over seeds; the large dot is the rate chosen."
    made = [
        ("parameters", "Accuracy against parameters", front,
         charts.scatter(ordered, "parameters", palette)),
        ("flops", "Accuracy against FLOPs", front,
         charts.scatter(ordered, "flops", palette)),
        ("accuracy", "Learning curves", chosen,
         charts.learning_curves(ordered, curves, palette)),
        ("rates", "Learning rates tried", grid,
         charts.learning_rates(ordered, curves, palette)),
    ]  # fmt: skip
    return [Chart(key, title, remark, spec) for key, title, remark, spec in made if spec]


def _sweeps(
    ranked: Sequence[Ranking],
    layers: Sequence[Sweep],
    draws: Sequence[Sweep],
    palette: dict[str, str],
) -> list[Chart]:
    """Charts across backbones, layers and numbers of training images."""
    made = [
        Chart(
            f"rank-{i}",
            one.title,
            "≈: not clearly different from the one a rank better (all pairs, Holm, 5%).",
            sweep_charts.rank_lines(one),
        )
        for i, one in enumerate(ranked)
    ]
    for key, axis, log, sweeps in (
        ("layer", "Layer, from 0", False, layers),
        ("images", "Training images (log scale)", True, draws),
    ):
        for i, one in enumerate(sweeps):
            spec = sweep_charts.sweep_lines(one, axis, palette, log=log)
            made.append(
                Chart(f"{key}-{i}", one.title, "Bars: one standard deviation either way.", spec)
            )
    return made


def _matrices(confused: Sequence[ConfusionView]) -> list[Chart]:
    return [
        Chart(
            f"confusion-{i}",
            "Confusion matrix",
            "Percent of each true class; blue: right, red: wrong, each on its own scale.",
            view.chart,
        )
        for i, view in enumerate(confused)
        if view.chart is not None
    ]


def _disputes(groups: Sequence[Group], opened: Opened) -> tuple[list[DisagreementView], list[str]]:
    """Of each group where its images can be found, and what is missing otherwise."""
    found: list[DisagreementView] = []
    remarks: list[str] = []
    for group in groups:
        try:
            view = disagreement_view(group.results, opened)
        except IceprobeError as error:
            remarks.append(f"Not shown, {error}.")
            continue
        found += [view] if view is not None else []
    return found, remarks


def _analysis(
    group: Group, palette: dict[str, str], images: int, number: int, opened: Opened
) -> AnalysisView:
    """Tables, charts and pictures of what was analysed."""
    probes = analysed(group.results)
    made = [
        Chart(f"importance-{number}-{i}", *one)
        for i, one in enumerate(importance_charts(probes, palette))
    ]
    tables, remarks = predictor_tables(probes, opened, images)
    parts = None
    if images and probes and not remarks:
        try:
            parts = parts_view(probes, opened)
        except IceprobeError as error:
            remarks.append(f"No parts, {error}.")
    return AnalysisView(probes, made, tables, parts, remarks)


def _galleries(
    results: Sequence[Result], images: int, opened: Opened
) -> tuple[list["Gallery"], list[str]]:
    """Attention of the reference EP first, then the rest by accuracy, until the page is full."""
    ranked = leaderboard(results)
    attentive = [
        one for one in ranked if one.method == "trained" and not one.probe.startswith("linear")
    ]
    if images < 1 or not attentive:
        return [], []
    from iceprobe.reporting.attention import Album, draw_gallery  # torch: only where maps are drawn

    reference = reference_ep(results)
    attentive.sort(key=lambda one: one is not reference)
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
                albums[key] = Album.spread(opened(result), result.split, images)
            album = albums[key]
            if isinstance(album, IceprobeError):
                continue  # told once
            gallery = draw_gallery(result, album)
        except IceprobeError as error:
            remarks.append(f"{name}: no maps, {error}.")
            albums.setdefault(key, error)
            continue
        if gallery is not None:
            galleries.append(gallery)
            spent += sum(len(uri) for row in gallery.rows for uri in (row.image, *row.maps))
    return galleries, remarks


def _scale(ordered: Sequence[Result]) -> tuple[float, float]:
    """Left and right end of the leaderboard's drawing, as fractions."""
    ends = [end for one in ordered for end in (one.score.interval or (one.score.mean,) * 2)]
    margin = max(0.04 * (max(ends) - min(ends)), 0.002)
    return max(0.0, min(ends) - margin), min(1.0, max(ends) + margin)


def _inert_json(value: object) -> Markup:
    """JSON for a ``<script type="application/json">``: no character of it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def policy(scripts: Sequence[str]) -> str:
    """A content security policy under which only our scripts run and nothing is fetched.

    ``unsafe-eval`` because Vega compiles its expressions; they come from our charts, in which
    names from data are values and never expressions.
    """
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def _engine() -> str:
    """Vega, Vega-Lite and vega-embed in one script that sets ``window.vegaEmbed``."""
    import vl_convert

    return vl_convert.javascript_bundle().replace("</script", "<\\/script")  # type: ignore[call-arg]  # its stub forgets a default


def parted(spec: str) -> Markup:
    """A spec that may be broken behind its separators, and is copied whole."""
    return Markup("<wbr>").join(re.split(r"(?<=[:/?&._-])(?=[^:/?&._-])", spec))


def asset(name: str) -> str:
    return (files("iceprobe.reporting") / "assets" / name).read_text(encoding="utf-8")


def _across(results: Sequence[Result]) -> str:
    """All backbones on all data sets; of more than three the number."""

    def together(names: Sequence[str], noun: str) -> str:
        return " · ".join(names) if len(names) <= FEW else f"{len(names)} {noun}"

    backbones, datasets = (
        list(dict.fromkeys(getattr(result, name) for result in results))
        for name in ("backbone", "dataset")
    )
    return f"{together(backbones, 'backbones')} on {together(datasets, 'data sets')}"


@cache
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "told": told, "remedy": TRAIN_LONGER, "metric_of": charts.metric_of,
        "kept": kept, "covered": covered, "lost_note": lost_note, "few_rows": few_rows,
    }  # fmt: skip
    made.tests["match_start"] = str.startswith
    made.filters.update(
        display=display_name, percent=percent, span=span, short=short, duration=duration,
        points=signed_points, tenths=tenths, signed=partial(span, signed=True), parted=parted,
    )  # fmt: skip
    return made
