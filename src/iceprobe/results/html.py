"""Tables for notebooks: plain HTML without scripts or files; all text in it is escaped."""

from collections.abc import Sequence
from html import escape

from iceprobe.core.text import visible
from iceprobe.results.terminal import Column


def html_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    """Rows of text under columns, and notes below."""
    sides = ["right" if column.numeric else "left" for column in columns]
    head = _cells("th", [column.title for column in columns], sides)
    body = "".join(f"<tr>{_cells('td', row, sides)}</tr>" for row in rows)
    below = "".join(f"<p>{text(note)}</p>" for note in notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def text(given: str) -> str:
    """Text from data as HTML."""
    return escape(visible(given))


def _cells(kind: str, texts: Sequence[str], sides: Sequence[str]) -> str:
    return "".join(
        f'<{kind} style="text-align: {side}">{text(one)}</{kind}>'
        for one, side in zip(texts, sides, strict=True)
    )
