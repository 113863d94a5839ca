"""What probes scored against measures without labels: a panel a measure, a point a store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import visible
from iceprobe.machine.files import write_atomically
from iceprobe.measures.registry import MEASURES
from iceprobe.measures.schema import Correlation, Measured
from iceprobe.reporting.charts import CATEGORIES, Spec, by_colour, by_condition, styled
from iceprobe.reporting.finding import display_name
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import axis_title, shared_metric
from iceprobe.results.sweeps import same_images, without_layer
from iceprobe.tasks.metrics import Metric

FORMATS = (".svg", ".pdf", ".png")
_SIDE, _ACROSS = 250, 3  # pixels of a panel; panels side by side


def write_measure_chart(
    path: str | Path,
    measured: Sequence[Measured],
    results: Sequence[FittedResult],
    correlations: Sequence[Correlation],
) -> Path:
    """Draw what probes scored on each store against its measures, as .svg, .pdf or .png.

    Args:
        path: replaced atomically if it is there.
        measured: of the stores.
        results: of probes on them.
        correlations: of both, of :func:`iceprobe.measures.correlate`.

    Raises:
        IceprobeError: for another format, or if no two stores have a score of one probe.
    """
    path = Path(path)
    check_format(path)
    if not correlations:
        raise IceprobeError(
            f"figure {str(path)!r}: no two of the stores were read by one probe: name a run of several layers or "
            "backbones"
        )
    import vl_convert

    spec = measure_chart(measured, results, correlations)
    if path.suffix == ".svg":
        content = vl_convert.vegalite_to_svg(spec).encode()
    elif path.suffix == ".pdf":
        content = vl_convert.vegalite_to_pdf(spec)
    else:
        content = vl_convert.vegalite_to_png(spec, scale=2)
    write_atomically(path, content)
    return path


def check_format(path: Path) -> None:
    """Raise an `IceprobeError` for a file that no figure can be written to."""
    if path.suffix not in FORMATS:
        raise IceprobeError(f"figure {str(path)!r}: it ends in {', '.join(FORMATS)}")


def measure_chart(
    measured: Sequence[Measured],
    results: Sequence[FittedResult],
    correlations: Sequence[Correlation],
) -> Spec:
    """The figure as a Vega-Lite specification: for each set of test images the panels of all measures."""
    stores = {one.store: one for one in measured}
    probes = list(dict.fromkeys(one.probe for one in correlations))
    palette = {probe: CATEGORIES[at % len(CATEGORIES)] for at, probe in enumerate(probes)}
    parts: list[Any] = []
    for on in dict.fromkeys(one.on for one in correlations):
        of_set = [one for one in correlations if one.on == on]
        read = [one for one in results if same_images(one)[0] == on]
        panels: list[Any] = []
        for name in dict.fromkeys(one.measure for one in of_set):
            here = [one for one in of_set if one.measure == name]
            y_title = axis_title(read) if len(panels) % _ACROSS == 0 else None
            panels.append(_panel(here, stores, shared_metric(*read), y_title, palette))
        title = alt.TitleParams(visible(on), anchor="start", fontSize=13, offset=14)
        parts.append(alt.concat(*panels, columns=_ACROSS, spacing=28, title=title))
    chart = alt.vconcat(*parts, spacing=40) if len(parts) > 1 else parts[0]
    return styled(chart, background="white")


def _panel(
    correlations: Sequence[Correlation],
    stores: Mapping[str, Measured],
    metric: Metric,
    y_title: str | None,
    palette: Mapping[str, str],
) -> Any:
    measure = MEASURES[correlations[0].measure]
    rows: list[dict[str, Any]] = []
    for one in correlations:
        for point in one.points:
            store = stores[point.store]
            rows.append(
                {
                    "probe": display_name(one.probe),
                    "colour": palette[one.probe],
                    "condition": visible(without_layer(store.backbone)),
                    "layer": "" if store.layer is None else str(store.layer),
                    "at": -1 if store.layer is None else store.layer,
                    "x": point.x,
                    "y": metric.scale * point.y,
                }
            )
    x = alt.X("x:Q", title=f"{measure.better} is usually better")
    x = x.scale(zero=False, nice=False, padding=14)
    x = x.axis(grid=False, tickCount=4, titleFontWeight="normal", titleFontSize=11)
    y = alt.Y("y:Q", title=y_title).scale(zero=False, nice=False, padding=14)
    legend = alt.Legend(
        title=None, orient="bottom", columns=4, columnPadding=24, labelLimit=2 * _SIDE, symbolOpacity=1,
    )  # fmt: skip
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=by_colour(rows, "probe", legend))
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("probe", "condition", "layer")]
    layers: list[Any] = [
        base.mark_line(strokeWidth=1.2, opacity=0.35).encode(
            detail=["condition:N", "probe:N"], order="at:Q"
        ),
        base.mark_point(filled=True, size=70, opacity=0.9, stroke="white", strokeWidth=1).encode(
            shape=by_condition([row["condition"] for row in rows]), tooltip=tooltip
        ),
        base.mark_text(dx=9, dy=-6, fontSize=10).encode(text="layer:N"),
    ]
    said = [f"{display_name(one.probe)}: {in_words(one)}" for one in correlations]
    title = alt.TitleParams(
        measure.title, subtitle=said, anchor="start", fontSize=13, subtitleFontSize=11, subtitleColor="#5d6b7a",
    )  # fmt: skip
    return alt.layer(*layers).properties(width=_SIDE, height=_SIDE, title=title)


def in_words(one: Correlation) -> str:
    """``"ρ +0.81 [+0.20, +1.00]"``, or why there is none."""
    return f"ρ {one.spearman}" if one.spearman else one.why
