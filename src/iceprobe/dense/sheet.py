"""A sheet of reported images: a column each, rows of pictures below each other, and a foot for a legend."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont  # the latter where Pillow lacks FreeType

IMAGES = 10
SIDE, GAP, MARGIN, LABELS, LINE = 112, 8, 16, 104, 22  # pixels
INK, FAINT = (28, 39, 51), (93, 107, 122)


@dataclass(frozen=True)
class Row:
    """A row: its title, a line below that, and a picture of `SIDE` x `SIDE` pixels a column."""

    title: str
    note: str
    pictures: Sequence[Image.Image]


def width_of(columns: int) -> int:
    """Pixels of the sheet's width."""
    return MARGIN * 2 + LABELS + columns * (SIDE + GAP) - GAP


def drawn(headings: Sequence[str], rows: Sequence[Row], foot: int) -> tuple[Image.Image, int]:
    """The sheet, and where the ``foot`` pixels begin that are left free at its bottom.

    Args:
        headings: of the columns, or empty; cut short where they are too wide.
        rows: from top to bottom.
        foot: height of the legend.
    """
    head = LINE if any(headings) else 0
    height = MARGIN * 2 + head + len(rows) * (SIDE + GAP) + foot
    sheet = Image.new("RGB", (width_of(len(headings)), height), "white")
    pen, small, bold = ImageDraw.Draw(sheet), font(13), font(15)
    for column, heading in enumerate(headings):
        left = MARGIN + LABELS + column * (SIDE + GAP)
        shown = fitting(heading, small, SIDE)
        pen.text((left + SIDE / 2, MARGIN), shown, INK, small, anchor="ma")
        for number, row in enumerate(rows):
            sheet.paste(row.pictures[column], (left, MARGIN + head + number * (SIDE + GAP)))
    top = MARGIN + head + SIDE // 2
    for row in rows:
        pen.text((MARGIN, top), row.title, INK, bold, anchor="lm")
        pen.text((MARGIN, top + 19), row.note, FAINT, small, anchor="lm")
        top += SIDE + GAP
    return sheet, height - MARGIN - foot


def enlarged(picture: Image.Image) -> Image.Image:
    """A picture as a row shows it."""
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def fitting(name: str, of: Font, width: int) -> str:
    """``name``, cut short where it is wider than ``width`` pixels."""
    shown = " ".join(name.split())
    while of.getlength(shown) > width:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown


def font(size: int) -> Font:
    return ImageFont.load_default(size)
