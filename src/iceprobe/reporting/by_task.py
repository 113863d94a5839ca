"""What the page shows of each task, in one table: columns, sections and the words that differ.

A section's function takes a `blocks.Context`, results on the same examples, and gives a `blocks.Block` or None
where there is nothing to show. To add a section is a file with such a function and a line here.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from iceprobe.reporting.blocks import Block, Context, SectionView
from iceprobe.results.fitted import FittedResult
from iceprobe.results.primary import adds_up
from iceprobe.results.tables import ordered_metrics
from iceprobe.tasks.metrics import Metric


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        function: ``"module:name"`` below ``iceprobe.reporting``, imported when it is used.
    """

    key: str
    title: str
    function: str

    def view(self, contexts: Sequence[Context]) -> SectionView | None:
        """What it shows of some groups of results; None where it has nothing to show."""
        module, _, name = self.function.partition(":")
        of: Callable[[Context], Block | None]
        of = getattr(importlib.import_module(f"iceprobe.reporting.{module}"), name)
        blocks = [replace(block, of=one.of) for one in contexts if (block := of(one)) is not None]
        return SectionView(self.key, self.title, blocks) if blocks else None


@dataclass(frozen=True)
class Words:
    """What the page says of the evidence for outputs.

    Attributes:
        output: what a patch adds to.
        total: what the evidence of all tokens adds up to.
        positive, negative: what red and blue do.
        legend: below the colours.
        scale: over which pictures the colours are the same.
        true: whose place on the object is measured.
    """

    output: str = "logit of the output"
    total: str = "logit"
    positive: str = "speaks for it"
    negative: str = "against it"
    legend: str = "against · nothing · for"
    scale: str = "All pictures of {an_example} have one scale"
    true: str = "what speaks for the true class"

    def of(self, an_example: str) -> "Words":
        """The same of ``"a clip"``."""
        named = {one: getattr(self, one).format(an_example=an_example) for one in ("scale", "true")}
        return replace(self, **named)


@dataclass(frozen=True)
class Page:
    """What the page of a task has.

    Attributes:
        outputs: what one of its outputs is called: ``"tag"``.
        columns: metrics of the leaderboard beside the primary one.
        sections: of it.
        classes: whether an example has one class, so that it can be taken for another.
        words: of the evidence.
    """

    outputs: str
    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    classes: bool = False
    words: Words = Words()


_ANY = (
    Section("metrics", "Every metric", "metric_view:every_metric"),
    Section("slices", "Slices", "slice_view:by_slice"),
    Section("folds", "Folds", "fold_view:by_fold"),
)
_CALIBRATION = Section("calibration", "Calibration", "calibration_view:calibration")

PAGES: dict[str, Page] = {
    "classification": Page(
        "class",
        ("top1", "top5", "mean_per_class"),
        (
            *_ANY,
            Section("classes", "Each class", "class_view:by_class"),
            Section("curves", "ROC and precision-recall curves", "curve_view:of_classes"),
            _CALIBRATION,
            Section("published", "Beside published figures", "published_view:beside_published"),
        ),
        classes=True,
    ),
    "multilabel": Page(
        "tag",
        ("map", "auroc", "f1_macro", "f1_macro_best"),
        (
            *_ANY,
            Section("tags", "Each tag", "tag_view:by_tag"),
            Section("curves", "ROC and precision-recall curves", "curve_view:of_tags"),
            Section("together", "Co-occurring tags", "together_view:together"),
            _CALIBRATION,
            Section("disputed", "Where two probes differ", "loss_view:apart"),
        ),
        words=Words(true="what speaks for the tags of {an_example}"),
    ),
    "regression": Page(
        "number",
        ("r2", "mae", "rmse", "pearson"),
        (
            *_ANY,
            Section("numbers", "Each number", "number_view:by_number"),
            Section("predicted", "Predicted against true", "number_view:against_true"),
            Section("disputed", "Where two probes differ", "loss_view:apart"),
        ),
        words=Words(
            "number",
            "prediction",
            "raises it",
            "lowers it",
            "lowers · nothing · raises",
            "Each picture has its own scale",
            "what raises or lowers the numbers",
        ),
    ),
}
_OTHER = Page("output", (), _ANY)


def page_of(results: Sequence[FittedResult]) -> Page:
    """The page of their task; of one that isn't in the table, what any task has."""
    return PAGES.get(results[0].task, _OTHER)


def columns_of(ordered: Sequence[FittedResult]) -> list[Metric]:
    """The metrics that the leaderboard has as columns, the primary one first.

    A mean error over numbers of several units isn't one of them.
    """
    names = page_of(ordered).columns
    primary, *others = ordered_metrics(ordered)
    known = {name for one in ordered for name in one.metrics}
    shown = [one for one in others if one.name in known and (not names or one.name in names)]
    return [primary, *(one for one in shown if all(adds_up(one, r) for r in ordered))]
