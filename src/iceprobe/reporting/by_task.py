"""What the page shows of each task, in one table: columns, sections and the words that differ.

A section's function takes a `blocks.Context`, results on the same examples, and gives a `blocks.Block` or None
where there is nothing to show. To add a section is a file with such a function and a line here.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        blocks = [block for one in contexts if (block := of(one)) is not None]
        return SectionView(self.key, self.title, blocks) if blocks else None


@dataclass(frozen=True)
class Page:
    """What the page of a task has.

    Attributes:
        outputs: what one of its outputs is called: ``"tag"``.
        columns: metrics of the leaderboard beside the primary one.
        sections: of it.
        classes: whether an example has one class, which maps and mistakes are shown with.
    """

    outputs: str
    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    classes: bool = False


_ANY = (
    Section("metrics", "Every metric", "metric_view:every_metric"),
    Section("slices", "Slice by slice", "slice_view:by_slice"),
    Section("folds", "Fold by fold", "fold_view:by_fold"),
)
_CALIBRATION = Section(
    "calibration", "Whether its probabilities are right", "calibration_view:calibration"
)

PAGES: dict[str, Page] = {
    "classification": Page(
        "class",
        ("top1", "top5", "mean_per_class"),
        (
            *_ANY,
            Section("classes", "Class by class", "class_view:by_class"),
            Section("curves", "Errors at every threshold", "curve_view:of_classes"),
            _CALIBRATION,
        ),
        classes=True,
    ),
    "multilabel": Page(
        "tag",
        ("map", "auroc", "f1_macro", "f1_macro_best"),
        (
            *_ANY,
            Section("tags", "Tag by tag", "tag_view:by_tag"),
            Section("curves", "Errors at every threshold", "curve_view:of_tags"),
            Section("together", "Tags that come together", "together_view:together"),
            _CALIBRATION,
            Section("disputed", "Where two probes differ", "loss_view:apart"),
        ),
    ),
    "regression": Page(
        "number",
        ("r2", "mae", "rmse", "pearson"),
        (
            *_ANY,
            Section("numbers", "Number by number", "number_view:by_number"),
            Section("predicted", "Predicted against true", "number_view:against_true"),
            Section("disputed", "Where two probes differ", "loss_view:apart"),
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
