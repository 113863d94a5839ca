"""Files of rows and columns: CSV, TSV, JSON lines, Parquet; local or on object storage.

Cells are read as they are: text of CSV and TSV, JSON's and Parquet's own values. A row's number is the
line where an editor shows it; rows of Parquet count from 0.
"""

import codecs
import csv
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.datasets.cells import Rows
from iceprobe.datasets.decoding import one_line
from iceprobe.datasets.walking import is_image
from iceprobe.machine.object_storage import RemotePath, located

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
_WORDS = {"tab": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}
_OTHERS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


class TableFile(ABC):
    """A file of rows and columns.

    Attributes:
        place: where it is.
        columns: their names, in order.
    """

    columns: list[str]

    def __init__(self, place: Path | RemotePath):
        self.place = place

    @property
    def shown(self) -> str:
        return repr(self.place.name)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, names: Sequence[str]) -> Rows:
        """The cells of these columns, and where each row is."""

    def first(self, name: str) -> Any:
        """The first cell of a column."""
        return self.read([name]).values[name][0]


def open_table(name: str | Path | RemotePath, delimiter: str | None = None) -> TableFile:
    """The table in a file, by its ending; ``delimiter`` is of text alone.

    Raises:
        IceprobeError: if it isn't there, has another ending, is empty, has no header, is no UTF-8, or
            names a column twice.
    """
    place = located(name)
    place = place.expanduser() if isinstance(place, Path) else place
    ending = Path(place.name).suffix.lower()
    if not place.is_file():
        raise IceprobeError(f"no table {str(name)!r}: pass table:FILE with a file that is there")
    if ending in PARQUET or ending in LINES:
        if delimiter is not None:
            raise IceprobeError(f"option delimiter={delimiter!r}: {place.name!r} has none, drop it")
        return ParquetTable(place) if ending in PARQUET else LinesTable(place)
    if ending not in DELIMITERS and delimiter is None:
        known = ", ".join([*DELIMITERS, *LINES, *PARQUET])
        raise IceprobeError(
            f"table {str(name)!r} ends in none of {known}: rename it, or pass delimiter= if it is text "
            "with delimiters"
        )
    by = (
        DELIMITERS.get(ending, ",")
        if delimiter is None
        else _WORDS.get(delimiter, delimiter.replace("\\t", "\t"))
    )
    if len(by) != 1 or by in '"\r\n':
        raise IceprobeError(
            f"option delimiter={delimiter!r}: write one character, or {', '.join(sorted(_WORDS))}"
        )
    return DelimitedTable(place, by)


class DelimitedTable(TableFile):
    """Text with a delimiter between cells and quotes around those that hold it."""

    def __init__(self, place: Path | RemotePath, delimiter: str):
        super().__init__(place)
        self.rows: list[list[str]] = []
        self.lines: list[int] = []
        header: list[str] | None = None
        reader = csv.reader(io.StringIO(_text(place), newline=""), delimiter=delimiter, strict=True)
        line = 1
        try:
            for cells in reader:
                first, line = line, reader.line_num + 1
                if not any(cell.strip() for cell in cells):
                    continue  # an empty line
                if header is None:
                    header = self._header(cells, first, delimiter)
                    continue
                self.rows.append(self._whole(cells, len(header), first, delimiter))
                self.lines.append(first)
        except csv.Error as error:
            raise IceprobeError(
                f"row {line} of {self.shown} can't be read ({one_line(error)}): close its quotes, and "
                'write a quote inside them as ""'
            ) from error
        if header is None:
            raise IceprobeError(f"table {str(place)!r} is empty: it needs a header and rows")
        if not self.rows:
            raise IceprobeError(f"table {str(place)!r} has a header and no row: add some")
        self.columns = [name for name in header if name]
        self._place_of = {name: k for k, name in enumerate(header) if name}
        for k, name in enumerate(header):
            if not name and k == len(header) - 1 and any(row[k].strip() for row in self.rows):
                row = next(i for i, cells in enumerate(self.rows) if cells[k].strip())
                raise IceprobeError(
                    f"row {self.lines[row]} of {self.shown} has {shown(self.rows[row][k])} in a last "
                    "column without a name: name it in the header"
                )

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, names: Sequence[str]) -> Rows:
        values = {name: [row[self._place_of[name]].strip() for row in self.rows] for name in names}
        return Rows(values, partial(_at, self.lines, self.place.name))

    def _header(self, cells: Sequence[str], line: int, delimiter: str) -> list[str]:
        names = [cell.strip() for cell in cells]
        for name in names:
            if is_image(name):
                raise IceprobeError(
                    f"table {str(self.place)!r} has no header, its first row holds {shown(name)}: "
                    "write the names of its columns above it, image,label"
                )
        if len(names) == 1:
            other = next((d for d in ",;\t|" if d != delimiter and d in names[0]), None)
            if other is not None:
                spelled = {"\t": "tab"}.get(other, other)
                raise IceprobeError(
                    f"table {str(self.place)!r} has one column by {delimiter!r}, {shown(names[0])}: pass "
                    f"delimiter={spelled}"
                )
        _check_twice(names, f"row {line} of {self.shown}")
        return names

    def _whole(self, cells: list[str], width: int, line: int, delimiter: str) -> list[str]:
        """A row with as many cells as the header; further empty ones are left out."""
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            return cells[:width]
        if len(cells) != width:
            raise IceprobeError(
                f"row {line} of {self.shown} has {len(cells)} cells and the header {width}: write as "
                f"many, and quotes around a cell that holds {delimiter!r}"
            )
        return cells


class LinesTable(TableFile):
    """One JSON object a line; a key that a row lacks is null."""

    def __init__(self, place: Path | RemotePath):
        super().__init__(place)
        self.rows: list[dict[str, Any]] = []
        self.lines: list[int] = []
        for line, text in enumerate(_text(place).split("\n"), 1):
            if not text.strip():
                continue
            try:
                row = parse_json(text, ours=False)
            except ValueError as error:
                raise IceprobeError(
                    f"row {line} of {self.shown} is no JSON ({one_line(error)}): write one object a line"
                ) from error
            if not isinstance(row, dict):
                raise IceprobeError(
                    f"row {line} of {self.shown} is {shown(row)}, no object: write one object a line, "
                    '{"image": "a.jpg", "label": "robin"}'
                )
            self.rows.append(row)
            self.lines.append(line)
        if not self.rows:
            raise IceprobeError(f"table {str(place)!r} is empty: it needs one JSON object a line")
        self.columns = list(dict.fromkeys(key for row in self.rows for key in row))

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, names: Sequence[str]) -> Rows:
        values = {name: [row.get(name) for row in self.rows] for name in names}
        return Rows(values, partial(_at, self.lines, self.place.name))


class ParquetTable(TableFile):
    """A Parquet file; needs the package pyarrow."""

    def __init__(self, place: Path | RemotePath):
        super().__init__(place)
        self.file = open_parquet(place)
        self.columns = list(self.file.schema_arrow.names)
        _check_twice(self.columns, self.shown)
        if not len(self):
            raise IceprobeError(f"table {str(place)!r} has no row: add some")

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    def read(self, names: Sequence[str]) -> Rows:
        try:
            table = self.file.read(columns=list(names))
            values = {name: table.column(name).to_pylist() for name in names}
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
            raise IceprobeError(
                f"table {str(self.place)!r} can't be read ({one_line(error)}): write it again"
            ) from error
        return Rows(values, partial(_at_from_0, self.place.name))

    def holds_bytes(self, name: str) -> bool:
        """Whether a column holds files in place of paths."""
        return are_files(self.file.schema_arrow.field(name).type)

    def first(self, name: str) -> Any:
        batch = next(self.file.iter_batches(1, columns=[name]))
        return batch.column(0)[0].as_py()


def are_files(kind: Any) -> bool:
    """Whether Arrow values of this type hold files: bytes, or bytes and path as other tools write them."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        kind = fields.get("bytes") if set(fields) == {"bytes", "path"} else pa.null()
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def open_parquet(place: Path | RemotePath) -> Any:
    """The file, opened by pyarrow."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise IceprobeError(
            f"table {str(place)!r} needs the package pyarrow: pip install 'iceprobe[parquet]'"
        ) from error
    try:
        return pq.ParquetFile(place.open("rb") if isinstance(place, RemotePath) else place)
    except (OSError, ValueError) as error:
        raise IceprobeError(
            f"table {str(place)!r} can't be read as Parquet ({one_line(error)}): write it again"
        ) from error


def _text(place: Path | RemotePath) -> str:
    try:
        content = place.read_bytes()
    except OSError as error:
        raise IceprobeError(
            f"table {str(place)!r} can't be read ({one_line(error)}): make it readable"
        ) from error
    other = next((name for mark, name in _OTHERS.items() if content.startswith(mark)), None)
    try:
        if other is None:
            text = content.decode("utf-8-sig")
            if "\0" not in text:
                return text
            line, what = text[: text.index("\0")].count("\n") + 1, "a zero byte"
        else:
            line, what = 1, f"{other}"
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        what = f"the byte 0x{content[error.start]:02x}, no UTF-8"
    raise IceprobeError(
        f"row {line} of {place.name!r} has {what}: save the table as UTF-8 (iconv -f "
        f"{other or 'latin1'} -t utf-8)"
    )


def _check_twice(names: Sequence[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise IceprobeError(f"{where} names column {twice[0]!r} twice: give each a name of its own")


def _at(lines: Sequence[int], name: str, row: int) -> str:
    return f"row {lines[row]} of {name!r}"


def _at_from_0(name: str, row: int) -> str:
    return f"row {row} (from 0) of {name!r}"
