"""A run beside published figures of the same encoder, data set and probe."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from iceprobe.core.errors import IceprobeError
from iceprobe.published.differences import Differs, differences, protocol_of_figure
from iceprobe.published.matching import (
    check_data,
    data_of,
    encoder_of,
    figures_for,
    named_encoder,
)
from iceprobe.published.rows import Figure
from iceprobe.published.sources import HELD_OUT, REPORTED, SOURCES, UNSTATED, Source
from iceprobe.results.schema import Result, Score

#: Marks of figures whose settings weren't selected on a held-out part.
MARKS = {HELD_OUT: "", REPORTED: "‡", UNSTATED: "?"}
MEANINGS = {
    "‡": "selected on the reported split itself: over 90 published logs the best epoch reads 0.57 points more "
    "than the last on average, 2.40 at most",
    "?": "the source doesn't state what selected the settings",
}


@dataclass(frozen=True)
class Beside:
    """A result and one published figure.

    Attributes:
        result: of the run.
        figure: of the same probe on the same encoder and data set.
        differences: in protocol.
        assumed: what was assumed to lay the two side by side, a line each.
    """

    result: Result
    figure: Figure
    differences: list[Differs]
    assumed: list[str] = field(default_factory=list)

    @property
    def source(self) -> Source:
        """Where the figure comes from."""
        return SOURCES[self.figure.source]

    @property
    def score(self) -> Score:
        """Top-1 accuracy of the result, which is what figures are."""
        return self.result.metrics["top1"]

    @property
    def mark(self) -> str:
        """Of the result: ``"‡"`` if its settings were selected on the reported split."""
        return MARKS[REPORTED if self.result.selected_on_reported else HELD_OUT]

    @property
    def published_mark(self) -> str:
        """Of the figure."""
        return MARKS[protocol_of_figure(self.figure).selected]

    @property
    def published_as(self) -> str:
        """``"ep32 of patches"``."""
        return (
            f"{self.figure.probe} of {self.figure.reads}"
            if self.figure.reads
            else self.figure.probe
        )

    @property
    def difference(self) -> float:
        """The result's top-1 accuracy − the published one, a fraction."""
        return self.score.mean - self.figure.top1

    @property
    def shown_difference(self) -> str:
        """In points, with the marks of whichever of the two has some: ``"-3.7‡"``."""
        marks = "".join(dict.fromkeys(self.mark + self.published_mark))
        return f"{100 * self.difference:+.1f}{marks}".replace("-", "−")


def marks_used(pairs: Sequence[Beside]) -> dict[str, str]:
    """The marks that some pairs have, and what they mean."""
    used = {mark for one in pairs for mark in (one.mark, one.published_mark)}
    return {mark: meaning for mark, meaning in MEANINGS.items() if mark in used}


def beside(
    results: Sequence[Result], *, encoder: str | None = None, data: str | None = None
) -> list[Beside]:
    """Lay results beside the published figures that are of the same probe, encoder and data set.

    Args:
        results: of a run.
        encoder: name of the encoder that they are of, where the backbone's spec doesn't tell: a checkpoint of
            your own.
        data: name of the data set, where its spec doesn't tell.

    Returns:
        A pair for each result and figure, in the order of ``results``; empty if there is none.

    Raises:
        IceprobeError: for a name that no figure has, or a data set with another number of classes.
    """
    named = named_encoder(encoder) if encoder is not None else None
    if data is not None:
        check_data(data, results)
    pairs = []
    for result in results:
        found, (on, assumed) = named or encoder_of(result.backbone), data_of(result)
        if data is not None and on != data:
            on, assumed = data, f"{result.dataset} is taken for {data}: you named it"
        if found is None or not on:
            continue
        known = encoder_of(result.backbone)
        if named is not None and known != named:
            said = f", which is {known.name}," if known else ""
            assumed = "; ".join(
                filter(
                    None,
                    [f"{result.backbone}{said} is taken for {named.name}: you named it", assumed],
                )
            )
        pairs += [
            Beside(result, one, differences(result, one, found), [assumed] if assumed else [])
            for one in figures_for(result, found, on)
        ]
    return pairs


def grouped(pairs: Sequence[Beside]) -> dict[Differs, list[str]]:
    """Each thing that differs, with the labels of the results that it differs for."""
    found: dict[Differs, list[str]] = {}
    for one in pairs:
        for differs in one.differences:
            found.setdefault(differs, []).append(one.result.label)
    return found


def nothing_beside(results: Sequence[Result]) -> IceprobeError:
    """Why no figure was found, with what there is to name."""
    backbones = ", ".join(dict.fromkeys(one.backbone for one in results))
    sets = ", ".join(dict.fromkeys(one.dataset for one in results))
    return IceprobeError(
        f"no published figure is of {backbones} on {sets}: name the encoder and the data set that they are with "
        "--as and --on (iceprobe ls published)"
    )
