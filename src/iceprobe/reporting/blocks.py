"""What a section of the page is made of: text, charts and tables. The template escapes all of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from iceprobe.reporting.charts import Chart
from iceprobe.reporting.confusion_view import class_names
from iceprobe.reporting.finding import display_name
from iceprobe.results.caveats import kept
from iceprobe.results.comparison import best_baseline, reference_ep
from iceprobe.results.examples import an_example_of, example_of, examples_of
from iceprobe.results.fitted import FittedResult
from iceprobe.results.tables import leaderboard

if TYPE_CHECKING:
    from iceprobe.store import Store

FOLDED = 15  # a table of more rows is closed at first


@dataclass(frozen=True)
class Heading:
    """Of a column; ``first`` is the order that a first click gives."""

    text: str
    numeric: bool = True
    first: str = "descending"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: of it.
        value: what it is sorted by; the text by default, and last where it is empty.
        soft: behind the text, in grey.
        dot: colour of a dot before the text.
        image: a picture, as a data URI, in place of the text, which describes it.
        strong: whether it is set in bold.
    """

    text: str
    value: float | str | None = None
    soft: str = ""
    dot: str = ""
    image: str | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows below headings, which sort."""

    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    note: str = ""  # behind the title
    closed: bool = False  # whether it is closed at first, as long ones are
    under: bool = False  # whether what is grey stands below the text, which makes columns narrow

    @property
    def folds(self) -> bool:
        """Whether it can be opened."""
        return self.closed or len(self.rows) > FOLDED


@dataclass(frozen=True)
class Block:
    """What a section shows of one group of results."""

    lead: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    of: str = ""  # which group, where the page has several


@dataclass(frozen=True)
class SectionView:
    """A section with at least one block."""

    key: str
    title: str
    blocks: Sequence[Block]

    @property
    def charts(self) -> list[Chart]:
        return [chart for block in self.blocks for chart in block.charts]


@dataclass(frozen=True)
class Context:
    """Results on the same examples, of which a section is made.

    Attributes:
        results: of one backbone, data set and protocol.
        number: of the group on the page, which keys of charts end in.
        palette: a colour by the label of a probe.
        images: pictures wanted on the page; 0 for none.
        opened: a result → its store.
        trust: whether other hosts may be asked for what results' files name.
        of: how the group differs from the others on the page; ``""`` of a single one.
    """

    results: Sequence[FittedResult]
    number: int
    palette: dict[str, str]
    images: int
    opened: Callable[[FittedResult], "Store"]
    trust: bool = False
    of: str = ""

    @cached_property
    def kept(self) -> list[FittedResult]:
        """Those whose predictions were kept, best first."""
        return [one for one in leaderboard(self.results) if one.predictions() is not None]

    @cached_property
    def best(self) -> FittedResult | None:
        return next(iter(self.kept), None)

    @cached_property
    def leading(self) -> list[FittedResult]:
        """At most four probes that charts compare: the best, the best EP, linear probe and k-NN."""
        wanted = [
            self.best,
            reference_ep(self.kept),
            best_baseline([one for one in self.kept if one.method != "knn"]),
            best_baseline([one for one in self.kept if one.method == "knn"]),
        ]
        found = {id(one): one for one in wanted if one is not None}
        return [one for one in self.kept if id(one) in found]

    @cached_property
    def pair(self) -> list[FittedResult]:
        """The best probe, and the reference EP where it is another."""
        both = (self.best, reference_ep(self.kept))
        return [one for one in self.leading if any(one is other for other in both)]

    @cached_property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return class_names(self.results[0], self.trust)

    @property
    def example(self) -> str:
        """``"image"``, ``"clip"``."""
        return example_of(*self.results)

    @property
    def examples(self) -> str:
        """``"images"``, ``"clips"``."""
        return examples_of(*self.results)

    @property
    def an_example(self) -> str:
        """``"an image"``, ``"a clip"``."""
        return an_example_of(*self.results)

    @property
    def independent(self) -> str:
        """What intervals are over: ``"images"``, or ``"groups"`` where images aren't independent of each other."""
        best = self.best
        grouped = best is not None and best.needed_predictions().groups is not None
        return "groups" if grouped else self.examples

    def key(self, name: str) -> str:
        return f"{name}-{self.number}"

    def colour(self, one: FittedResult) -> str:
        return self.palette[one.label]

    def probe_cell(self, one: FittedResult) -> Cell:
        return Cell(display_name(one.label), one.label, dot=self.colour(one), strong=True)


def over_seeds(one: FittedResult) -> str:
    """``", mean over 3 seeds"``; ``""`` of a single value."""
    return f", mean over {kept(one)}" if len(one.seeds) > 1 else ""


def of_first_seed(one: FittedResult) -> str:
    """``" (seed 0)"``, where charts show the first of several."""
    noun = "replicate" if one.variance == "replicates" else "seed"
    return f" ({noun} {one.seeds[0]})" if len(one.seeds) > 1 else ""
