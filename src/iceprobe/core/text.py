"""Names that come from data on their way out: to a terminal, a log, JSON, a page, a table.

A file's name may hold any byte but the slash and zero, and a class has the name of a folder: an
escape sequence that repaints the terminal, a formula, bytes that are no UTF-8 (which Python keeps
as lone surrogates). Data keep them; each outlet writes them so that they are seen and do nothing.
"""

import csv
import hashlib
import io
import logging
import re
import reprlib
from collections.abc import Iterable, Sequence

DAY = 86_400  # seconds

# Controls but the line break and the tab, what turns the order of letters or breaks a line unseen,
# and bytes that are no UTF-8.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# What a spreadsheet takes for the start of a formula, behind any number of our own quotes.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # spreadsheets take the wide ones
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"a whole number of {x.bit_length():,} bits"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 120


def visible(text: str) -> str:
    """``text`` with control characters, and bytes that are no UTF-8, spelled as ``\\x1b``."""
    return _UNSEEN.sub(_spelled, text)


def spelled(record: logging.LogRecord) -> bool:
    """A filter of a logger: whoever's handler takes a record can print and encode its message."""
    record.msg, record.args = visible(record.getMessage()), None
    return True


def clipped(text: str, most: int = 2000) -> str:
    """``text``, or its beginning and its end where it is longer: what it is of, and the remedy."""
    if len(text) <= most:
        return text
    head, tail = most * 3 // 5, most * 2 // 5
    return f"{text[:head]} … ({len(text) - head - tail:,} characters) … {text[-tail:]}"


def short_name(name: str, most: int = 160) -> str:
    """A file's name of at most ``most`` bytes: of a longer one both ends, and a hash of it all.

    File systems take 255 bytes, and what is written beside it has its name with an ending.
    """
    content = name.encode("utf-8", "surrogateescape")
    if len(content) <= most:
        return name
    digest = hashlib.sha256(content).hexdigest()[:8]
    half = (most - len(digest) - 2) // 2
    head, tail = (part.decode(errors="ignore") for part in (content[:half], content[-half:]))
    return f"{head}-{digest}-{tail}"


def shown(value: object) -> str:
    """``repr`` of a value that came from outside, so long that it is known again and no longer."""
    return clipped(_SHORT.repr(value), 200)


def utf8(text: str) -> bytes:
    """UTF-8 of a page or a table; bytes that are none are spelled as ``\\xff``."""
    return _SURROGATE.sub(_spelled, text).encode()


def json_bytes(text: str) -> bytes:
    """JSON and the last line break as UTF-8; a lone surrogate is spelled as JSON does, and read back."""
    return f"{text}\n".encode("utf-8", "backslashreplace")


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV in which no cell is a formula.

    A text that a spreadsheet would run gets an apostrophe in front, which :func:`csv_cell` takes
    off again. Numbers stay numbers.
    """
    return "".join(map(_line, rows))


def csv_cell(cell: str) -> str:
    """What stood in a cell before :func:`csv_text` wrote it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def duration(seconds: float) -> str:
    """``"3.2 s"``, ``"4 min 10 s"`` or ``"2 h 05 min"``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def in_days(seconds: float) -> str:
    """``"3.5 days"``, ``"1,027 years"``."""
    days = seconds / DAY
    return f"{days:,.1f} days" if days < 730 else f"{days / 365.25:,.0f} years"


def _line(row: Sequence[object]) -> str:
    text = io.StringIO(newline="")
    # Both characters of a line's end are quoted by name of it alone.
    csv.writer(text, lineterminator="\r\n").writerow([_inert(cell) for cell in row])
    return text.getvalue().removesuffix("\r\n") + "\n"


def _inert(cell: object) -> object:
    formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
