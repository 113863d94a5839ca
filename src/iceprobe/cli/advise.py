"""``iceprobe advise``: which probe to report, in a paragraph with the numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import iceprobe
from iceprobe.cli.console import answers, console, note
from iceprobe.core.errors import IceprobeError
from iceprobe.results import read_results
from iceprobe.results.files import is_segmented
from iceprobe.results.segmentation_files import read_segmentations

if TYPE_CHECKING:
    from iceprobe.results.advice import Question


def advise(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    margin: Annotated[
        float, typer.Option(help="Points of accuracy that a cheaper probe may lose.")
    ] = 1.0,
) -> None:
    """Say which probe to report: what aggregation is worth, and what linear probing would have said.

    To report is the cheapest probe (fewest parameters) that is shown to lose less than the margin to
    the best. Of a cheaper one that may do, it says how many test images, or replicates, would show it.
    Of several backbones or layers the
    ranking under linear probing stands beside that under EP, with Kendall's τ. Of a run of segment
    its best probe is laid beside the first.

    \b
    Examples:
      iceprobe advise runs/demo
      iceprobe advise runs/demo --margin 0.5
      iceprobe advise runs/mae runs/dino
    """
    if not margin >= 0:
        raise IceprobeError(f"--margin {margin:g}: give a number of points from 0 up, such as 0.5")
    if len(runs) == 1 and is_segmented(runs[0]):
        from iceprobe.reporting.segment_page import headline

        said = headline(read_segmentations(runs[0]))
        text = f"{said.sentence} {said.detail}."
        if not answers("advice", [{"title": None, "paragraph": text, "encoders": []}]):
            console.print(text, markup=False)
        return
    results = [result for run in runs for result in read_results(run)]
    advice = iceprobe.advise(results, margin / 100)
    if answers("advice", map(_entry, advice.questions)):
        if advice.remark:
            note(advice.remark)
    else:
        console.print(str(advice), markup=False)


def _entry(question: "Question") -> dict[str, Any]:
    """A set of test images for programs: what is said of each encoder's probes."""
    return {
        "title": question.title,
        "paragraph": question.paragraph,
        "encoders": [
            {
                "backbone": one.backbone,
                "best": one.best.label,
                "report": one.cheapest.label if one.shown and not one.undertrained else None,
                "undecided": [each.comparison.probe.label for each in one.undecided],
                "undertrained": [each.label for each in one.undertrained],
                "probes": [
                    {"label": each.label, "score": each.score, "parameters": each.parameters}
                    for each in one.ran
                ],
            }
            for one in question.encoders
        ],
        "orders": [
            {
                **{
                    kind: [{"backbone": each.result.backbone, "rank": each.rank} for each in ranked]
                    for kind, ranked in (("linear", one.linear), ("attentive", one.attentive))
                },
                "agreement": one.agreement,
                "changes": one.changes,
                "holds": one.holds,
            }
            for one in question.orders
        ],
    }
