"""A table for terminals of any width, in which no name and no heading is ever broken.

Where it is too wide, its least important columns are left out and named below. Where that isn't enough,
it is turned: a block a row, a line a column.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_BETWEEN = 3  # of rich's SIMPLE box: a space on either side of the place of a rule


@dataclass(frozen=True)
class Column:
    """A column of the tables that people read."""

    title: str
    numeric: bool = True  # set to the right
    # where the table is too wide columns are left out in this order, from 1; 0: never
    goes: int = 0
    wraps: bool = False  # whether its text may be broken between words; one column at most


@dataclass
class TerminalTable:
    """Rows under columns, as wide as there is room; for programs, what the rows were made of."""

    columns: Sequence[Column]  # the first one names the row
    rows: Sequence[Sequence[str]]  # a text a column
    title: str | None = None  # above the table, never broken
    notes: Sequence[str] = ()  # below it
    lead: bool = False  # whether the first row is the best, and set in bold
    heads: bool = True  # whether headings are shown; a turned table always has them
    name: str = "rows"  # of its entries in the document of --json
    # Records that the rows show; none: another table's already. None: the cells, by heading.
    made_of: Sequence[object] | None = None

    @property
    def entries(self) -> Sequence[object]:
        """An entry a row, for programs."""
        if self.made_of is not None:
            return self.made_of
        headings = [column.title for column in self.columns]
        return [dict(zip(headings, row, strict=True)) for row in self.rows]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        if self.title:
            yield _whole(self.title, "italic")
        chosen, notes = self._chosen(options.max_width), [*self.notes]
        if chosen is None:
            yield from self._turned()
        else:
            yield self._table(chosen, options.max_width)
            if gone := [c.title for i, c in enumerate(self.columns) if i not in chosen]:
                notes = [f"Too narrow for: {', '.join(gone)}.", *notes]
        for note in notes:
            yield Text(note, style="dim italic", overflow="ignore")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def _chosen(self, width: int) -> list[int] | None:
        """Indices of the columns that fit; None where the necessary ones don't."""
        chosen = list(range(len(self.columns)))
        going = sorted(
            (i for i in chosen if self.columns[i].goes), key=lambda i: self.columns[i].goes
        )
        while self._least(chosen) > width:
            if not going:
                return None
            chosen.remove(going.pop(0))
        return chosen

    def _cells(self, index: int) -> list[str]:
        head = [self.columns[index].title] if self.heads else []
        return [*head, *(row[index] for row in self.rows)]

    def _widest(self, index: int) -> int:
        return max(map(cell_len, self._cells(index)), default=0)

    def _least(self, chosen: Sequence[int]) -> int:
        """Characters that the columns need, with those between them."""
        widths = [
            max((cell_len(word) for cell in self._cells(i) for word in cell.split()), default=0)
            if self.columns[i].wraps
            else self._widest(i)
            for i in chosen
        ]
        return sum(widths) + _BETWEEN * (len(chosen) - 1)

    def _table(self, chosen: Sequence[int], width: int) -> Table:
        table = Table(
            header_style="bold", box=SIMPLE, pad_edge=False, show_edge=False, show_header=self.heads
        )
        taken = sum(self._widest(i) for i in chosen if not self.columns[i].wraps)
        room = width - taken - _BETWEEN * (len(chosen) - 1)
        for i in chosen:
            column = self.columns[i]
            table.add_column(
                Text(column.title),
                justify="right" if column.numeric else "left",
                no_wrap=not column.wraps,
                width=min(self._widest(i), room) if column.wraps else self._widest(i),
            )
        for number, row in enumerate(self.rows):
            style = "bold" if self.lead and number == 0 else None
            table.add_row(*(Text(row[i]) for i in chosen), style=style)
        return table

    def _turned(self) -> Iterator[RenderableType]:
        first, *others = self.columns
        widest = max((cell_len(column.title) for column in others), default=0)
        for number, (name, *cells) in enumerate(self.rows):
            if number:
                yield Text()
            yield _whole(name if others else f"{first.title} {name}", "bold")
            for column, cell in zip(others, cells, strict=True):
                space = " " * (widest - cell_len(column.title) + 2)
                yield _whole(f"  {column.title}{space}{cell}")


def _whole(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ignore")
