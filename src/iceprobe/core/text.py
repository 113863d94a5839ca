"""Text from data, escaped for each output: terminal, log, JSON, page, table.

The name of a file or a class may contain any byte but slash and zero: an escape sequence for the
terminal, a spreadsheet formula, bytes that aren't UTF-8 (which Python keeps as lone surrogates).
Data keep them; each output writes them so that they are visible and harmless.
"""

import csv
import hashlib
import io
import logging
import re
import reprlib
from collections.abc import Iterable, Sequence

DAY = 86_400  # seconds

# Control characters except line break and tab, invisible marks of direction and line breaks, and
# lone surrogates.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# What a spreadsheet reads as the start of a formula, after any number of our own quotes.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # spreadsheets take the wide ones
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"a whole number of {x.bit_length():,} bits"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 120


def an(noun: str) -> str:
    """``an image``, ``a clip``."""
    return f"{'an' if noun.startswith(tuple('aeiou')) else 'a'} {noun}"


def visible(text: str) -> str:
    """``text`` with control characters and bytes that aren't UTF-8 escaped, ``\\x1b``."""
    return _UNSEEN.sub(_escaped, text)


def spelled(record: logging.LogRecord) -> bool:
    """A logging filter: messages become :func:`visible`, so that every handler can encode them."""
    record.msg, record.args = visible(record.getMessage()), None
    return True


def clipped(text: str, most: int = 2000) -> str:
    """``text``, with its middle left out where it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    head, tail = most * 3 // 5, most * 2 // 5
    return f"{text[:head]} … ({len(text) - head - tail:,} characters) … {text[-tail:]}"


def short_name(name: str, most: int = 160) -> str:
    """A file name of at most ``most`` bytes; of a longer one both ends and a hash.

    File systems allow 255 bytes, and files beside it have its name plus a suffix.
    """
    content = name.encode("utf-8", "surrogateescape")
    if len(content) <= most:
        return name
    digest = hashlib.sha256(content).hexdigest()[:8]
    half = (most - len(digest) - 2) // 2
    head, tail = (part.decode(errors="ignore") for part in (content[:half], content[-half:]))
    return f"{head}-{digest}-{tail}"


def shown(value: object) -> str:
    """``repr`` of a value from outside, shortened."""
    return clipped(_SHORT.repr(value), 200)


def utf8(text: str) -> bytes:
    """UTF-8 of a page or a table; bytes that aren't UTF-8 are written as ``\\xff``."""
    return _SURROGATE.sub(_escaped, text).encode()


def json_bytes(text: str) -> bytes:
    """JSON and a final line break as UTF-8; lone surrogates are escaped as in JSON."""
    return f"{text}\n".encode("utf-8", "backslashreplace")


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV in which no cell is a formula.

    Text that a spreadsheet would run gets an apostrophe in front, which :func:`csv_cell` removes.
    """
    return "".join(map(_line, rows))


def csv_cell(cell: str) -> str:
    """The text of a cell that :func:`csv_text` wrote."""
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


def counted(number: int, noun: str) -> str:
    """``"1 seed"``, ``"3 seeds"``, ``"1,200 seeds"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _line(row: Sequence[object]) -> str:
    text = io.StringIO(newline="")
    # csv quotes both \r and \n only if both are in the line terminator.
    csv.writer(text, lineterminator="\r\n").writerow([_inert(cell) for cell in row])
    return text.getvalue().removesuffix("\r\n") + "\n"


def _inert(cell: object) -> object:
    formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # the surrogate of a byte that isn't UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def without_credentials(text: str) -> str:
    """``text`` whose addresses have no name and password: ``https://me:key@host/x`` → ``https://host/x``."""
    return re.sub(r"(?<=://)[^/@\s\"'<>]+@", "", text)
