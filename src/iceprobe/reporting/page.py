"""The page: everything that the template shows, computed from results."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from markupsafe import Markup

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import utf8
from iceprobe.core.trust import REMEDY, elsewhere
from iceprobe.machine.files import write_atomically
from iceprobe.reporting.blocks import Context
from iceprobe.reporting.by_task import Page, columns_of, page_of
from iceprobe.reporting.charts import colours
from iceprobe.reporting.confusion_view import confusion_view
from iceprobe.reporting.figures import across_results, cost_and_training, matrices
from iceprobe.reporting.finding import find_across
from iceprobe.reporting.groups import FEW, grouped, tiles_of
from iceprobe.reporting.number_view import named
from iceprobe.reporting.sections import analysis_of, disputes_of, galleries_of
from iceprobe.reporting.template import (
    Anchors,
    environment,
    inert_json,
    policy,
    scripts_of,
    style,
)
from iceprobe.results.caveats import enumerated
from iceprobe.results.examples import an_example_of, example_of, examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import clipped, noun_of, shared_metric
from iceprobe.results.stores import store_of
from iceprobe.results.sweeps import by_layer, by_training_images, rankings
from iceprobe.results.tables import leaderboard
from iceprobe.results.varying import value_of, varying
from iceprobe.tasks.registry import get_task

log = logging.getLogger("iceprobe")

MAX_BYTES = 6_000_000


def write_report(
    results: Sequence[FittedResult],
    path: Path,
    *,
    title: str | None,
    images: int,
    trust: bool = False,
) -> Path:
    """See :func:`iceprobe.reporting.report`."""
    if not results:
        raise IceprobeError("a report needs at least one result: run a probe first")
    for place in _unasked(results, trust):
        log.warning(
            "%s is on another host, which wasn't asked: the report is without its "
            "pictures; %s", place, REMEDY,
        )  # fmt: skip
    write_atomically(path, utf8(render(results, title=title, images=images, trust=trust)))
    return path


def render(
    results: Sequence[FittedResult],
    *,
    title: str | None = None,
    images: int = 8,
    trust: bool = False,
) -> str:
    """The page as text.

    Raises:
        IceprobeError: if the page would weigh more than 6 MB.
    """
    if len(tasks := dict.fromkeys(one.task for one in results)) > 1:
        raise IceprobeError(
            f"results of the tasks {enumerated([*tasks])} in one report: report those of one at a time"
        )
    ordered = leaderboard(results)
    groups = grouped(results)
    shown = groups if len(groups) <= FEW else []
    opened = partial(store_of, trust=trust)
    layout = page_of(ordered)
    galleries, bags, remarks = galleries_of(results, images, opened) if shown else ([], [], [])
    if not remarks:
        remarks = [
            f"{place} wasn't asked, {REMEDY}: its pictures are left out."
            for place in _unasked(results, trust)
        ]
    palette = colours(results)
    ranked, layers, draws = rankings(results), by_layer(results), by_training_images(results)
    across = find_across(ranked, layers, draws)
    differing = varying(ordered)
    figures = cost_and_training(ordered, palette) if shown and "draw" not in differing else []
    figures += across_results(ranked, layers, draws, palette)
    confused = [
        view for one in shown if layout.classes and (view := confusion_view(one.results, trust))
    ]
    figures += matrices(confused)
    whose = [" · ".join(value_of(group.results[0], name) for name in differing) for group in shown]
    contexts = [
        Context(group.results, i, palette, images, opened, trust, of)
        for i, (group, of) in enumerate(zip(shown, whose, strict=True))
    ]
    sections = [made for one in layout.sections if (made := one.view(contexts))]
    figures += [chart for one in sections for chart in one.charts]
    disputed = images and layout.classes
    disputes, undisputed = disputes_of(shown, opened) if disputed else ([], [])
    analyses = [
        analysis_of(group, palette, images, i, opened, of)
        for i, (group, of) in enumerate(zip(shown, whose, strict=True))
    ]
    analyses = [one for one in analyses if one.probes]
    figures += [chart for one in analyses for chart in one.charts]
    scripts = scripts_of(charts=bool(figures))
    page = environment().get_template("page.html.j2").render(
        headed=_headed(ordered),
        title=title or _across(ordered),
        first=ordered[0],
        ordered=ordered,
        weak=[one for one in ordered if one.undertrained],
        groups=groups,
        headline=across or groups[0].finding,
        tiles=[] if across else tiles_of(groups[0]),
        varying=differing,
        noun=noun_of(ordered),
        leading=shared_metric(*ordered),
        metrics=columns_of(ordered),
        sections=sections,
        outputs=_outputs(ordered[0], layout),
        words=layout.words.of(an_example_of(*ordered)),
        example=example_of(*ordered),
        examples=examples_of(*ordered),
        units=units_of(ordered[0]),
        rankings=ranked,
        moved=any(one.moved() for one in ranked),
        scale=_scale(ordered),
        palette=palette,
        charts=figures,
        anchor=Anchors(),
        specs=[(figure.key, inert_json(figure.spec)) for figure in figures],
        galleries=galleries,
        bags=bags,
        remarks=remarks,
        confused=confused,
        disputes=disputes,
        undisputed=undisputed,
        analyses=analyses,
        runs=sorted({str(one.run) for one in results if one.run is not None}),
        style=style(),
        scripts=[Markup(script) for script in scripts],
        policy=policy(scripts),
    )  # fmt: skip
    if len(utf8(page)) > MAX_BYTES:
        raise IceprobeError(
            f"the report of {len(results)} results would weigh {len(utf8(page)) / 1e6:.1f} MB: "
            "report fewer results at a time, or fewer images"
        )
    return page


def _unasked(results: Sequence[FittedResult], trust: bool) -> list[str]:
    """Stores on other hosts that only the results' files name, and that aren't trusted."""
    named = [
        store.path or ""
        for one in results
        if one.open_store is None
        for store in (one.store, *one.store.layers)
    ]
    return [] if trust else [place for place in dict.fromkeys(named) if elsewhere(place)]


def _headed(results: Sequence[FittedResult]) -> str:
    """What was done to the backbone: "frozen", or how it was adapted."""
    adapted = ", ".join(dict.fromkeys(one.adaptation for one in results if one.adaptation))
    frozen = "frozen" if any(one.adaptation is None for one in results) else ""
    return " and ".join(filter(None, [frozen, adapted and f"adapted: {adapted}"]))


def _outputs(first: FittedResult, layout: Page) -> str:
    """``"10 classes"``, ``"age, years"``: what is predicted of an example."""
    if first.units and first.class_names and first.classes <= 3:
        return " · ".join(named(name, first, k) for k, name in enumerate(first.class_names))
    return (
        f"{first.classes} {get_task(first.task).outputs if first.classes > 1 else layout.outputs}"
    )


def units_of(one: FittedResult) -> str:
    """How many groups intervals are over; ``""`` where examples are independent."""
    predictions = one.predictions()
    if predictions is None or predictions.groups is None:
        return ""
    return f"{len(np.unique(predictions.groups)):,}"


def _scale(ordered: Sequence[FittedResult]) -> list[float]:
    """Left and right end of the leaderboard's drawing."""
    ends = [end for one in ordered for end in (one.score.interval or (one.score.mean,) * 2)]
    margin = max(0.04 * (max(ends) - min(ends)), 0.002)
    return clipped(shared_metric(*ordered), min(ends) - margin, max(ends) + margin)


def _across(results: Sequence[FittedResult]) -> str:
    """All backbones on all data sets by name, or by number if there are more than three."""

    def together(names: Sequence[str], noun: str) -> str:
        return " · ".join(names) if len(names) <= FEW else f"{len(names)} {noun}"

    backbones, datasets = (
        list(dict.fromkeys(getattr(result, name) for result in results))
        for name in ("backbone", "dataset")
    )
    return f"{together(backbones, 'backbones')} on {together(datasets, 'data sets')}"
