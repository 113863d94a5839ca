"""Which probe to report, from the results: one paragraph for each set of test images.

That is the cheapest (fewest trainable parameters, of equals fewest FLOPs) of the probes that are shown to
lose less than a margin to every other (`results/choice.py`), one point of the primary metric by default.
Where none is shown, the paragraph names the undecided probes, and how many test images, or replicates,
would probably decide.

An undertrained probe (`results/undertrained.py`) is named and left out of all comparisons. While there is
one, no probe is recommended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import counted
from iceprobe.results.advice_text import paragraph
from iceprobe.results.encoders import Encoder, Order, encoder_of, orders_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.html import html_table, text
from iceprobe.results.primary import shared_metric
from iceprobe.results.sweeps import same_images, split_by
from iceprobe.results.tables import heading_of, leaderboard, percent, short, span
from iceprobe.results.terminal import Column

MARGIN = 0.01  # of the primary metric: what a cheaper probe may lose


@dataclass(frozen=True)
class Question:
    """One set of test images: what was found on it, and the paragraph about it."""

    title: str
    encoders: list[Encoder]
    orders: list[Order]
    paragraph: str


@dataclass(frozen=True)
class Advice:
    """What `advise` returns; ``str(advice)`` is its text.

    Attributes:
        questions: one for each data set, draw, protocol and split.
        remark: which results were left out, and why.
    """

    questions: list[Question] = field(default_factory=list)
    remark: str = ""

    def __str__(self) -> str:
        return "\n\n".join(filter(None, [*(q.paragraph for q in self.questions), self.remark]))

    def _repr_html_(self) -> str:
        """For a notebook: each paragraph above a table of the probes that it names."""
        parts = [f"<p>{text(q.paragraph)}</p>{_table(q)}" for q in self.questions]
        return "".join([*parts, f"<p>{text(self.remark)}</p>" if self.remark else ""])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For a notebook without HTML, and the file that it is saved to."""
        printer.text(str(self))


def _table(question: Question) -> str:
    """The probes of each encoder, best first, with what is said of them."""
    results = [one for encoder in question.encoders for one in encoder.ran]
    metric = shared_metric(*results)
    columns = [Column("encoder", numeric=False), Column("probe", numeric=False)]
    columns += [Column(heading_of(metric, results)), Column("95% interval")]
    columns += [Column("parameters"), Column("FLOPs"), Column("", numeric=False)]
    rows = [
        [
            encoder.backbone, one.label, percent(one.score, one.metric),
            span(one.score.interval, one.metric), short(one.parameters.total),
            short(one.flops.per_image), _said(encoder, one),
        ]
        for encoder in question.encoders
        for one in leaderboard(encoder.ran)
    ]  # fmt: skip
    return html_table(columns, rows)


def _said(encoder: Encoder, one: FittedResult) -> str:
    if any(one is other for other in encoder.undertrained):
        return "undertrained"
    if encoder.shown and not encoder.undertrained and one is encoder.cheapest:
        return "report"
    undecided = any(one is other.comparison.probe for other in encoder.undecided)
    return "undecided" if undecided else "best" if one is encoder.best else ""


def advise(results: Sequence[FittedResult], margin: float = MARGIN) -> Advice:
    """Which probe to report, how much aggregation matters, and how linear probing would have ranked.

    Everything is computed from the results and the predictions kept with them; the rule is at
    the head of this file.

    Args:
        results: of a run, a campaign, or several runs, on frozen backbones.
        margin: what a cheaper probe may lose of the primary metric, in its own unit: of an accuracy
            0.005 is half a point.

    Raises:
        IceprobeError: for a negative margin, without a result on a frozen backbone, or where a
            probe appears twice for one backbone and set of test images.
    """
    if not margin >= 0:
        raise IceprobeError(f"margin={margin:g}: give a number from 0 up")
    frozen = [one for one in results if one.adaptation is None]
    if not frozen:
        raise IceprobeError(
            "no result on a frozen backbone: advise is about those, give it such a run"
        )
    questions = [
        _question(title, members, margin)
        for (title, *_), members in split_by(frozen, same_images).items()
    ]
    adapted = len(results) - len(frozen)
    many = counted(adapted, "result")
    remark = f"Left out: {many} on an adapted backbone (see iceprobe compare)."
    return Advice(questions, remark if adapted else "")


def _question(title: str, results: Sequence[FittedResult], margin: float) -> Question:
    by_backbone = split_by(results, lambda one: (one.backbone,))
    for (backbone,), members in by_backbone.items():
        labels = [one.label for one in members]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise IceprobeError(
                f"{twice} on {backbone} appears twice for {title}: give one of the two runs"
            )
    encoders = [encoder_of(name, members, margin) for (name,), members in by_backbone.items()]
    orders = orders_of(list(by_backbone.values())) if len(encoders) > 1 else []
    return Question(title, encoders, orders, paragraph(title, results, encoders, orders, margin))
