"""Tables in terminals of 60, 80 and 120 columns: names and headings whole, what is left out named."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from iceprobe.results.tables import to_rich, to_rich_matrix
from iceprobe.results.terminal import Column, TerminalTable
from tests.results.test_files import result

LABELS = [
    "ep12?value=identity",
    "linear?input=class",
    "mhca4?input=patches",
    "knn",
]
HEADINGS = ["top-1 %", "95% interval", "per class %", "parameters", "FLOPs", "time"]
GOING = ["time", "FLOPs", "per class %", "parameters"]  # least important first


def rendered(table: TerminalTable, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(table, crop=False)
    return file.getvalue()


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_names_are_whole_and_what_is_left_out_is_said(width):
    spec = "timm:vit_small_patch16_dinov3.lvd1689m?layer=3 on folder:/data/birds-of-the-north"
    text = rendered(to_rich([result(label) for label in LABELS], title=spec), width)
    assert all(name in text for name in [*LABELS, *HEADINGS, spec])
    text = text.partition("Two seeds, or")[0]  # a note, in one piece
    table, _, gone = text.partition("Too narrow for: ")
    turned = "  95% interval  65.0 to 85.0" in table
    assert turned == (width == 30)
    for heading in HEADINGS:
        assert (heading in table) != (heading in gone)
    if not turned:
        assert all(cell_len(line) <= width for line in table.replace(spec, "").splitlines())
        left_out = {60: 3, 80: 2, 120: 0}[width]
        assert [name for name in GOING if name in gone] == GOING[:left_out]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_campaign_turns_where_its_columns_do_not_fit(width):
    backbones = ["timm:vit_base_patch16_224.mae?norm=false", "transformers:/models/dinov2-base"]
    results = [result(label, backbone=one) for one in backbones for label in LABELS]
    text = rendered(to_rich_matrix(results), width)
    assert all(name in text for name in [*LABELS, *backbones])
    turned = width < 120
    for label in LABELS:
        lines = [line for line in text.splitlines() if label in line]
        assert ["74.0 ± 1.4" in line for line in lines] == ([True, True] if turned else [False])
    assert max(map(cell_len, text.splitlines())) <= width


def test_a_column_of_prose_wraps_between_words_alone():
    path = "/a/folder/with/a/long/name"
    columns = [Column("what", numeric=False), Column("how", numeric=False, wraps=True)]
    rows = [("disk", f"the disk of {path} lacks 3 GB"), ("memory", "enough")]
    text = rendered(TerminalTable(columns, rows, heads=False), 40)
    assert path in text
    assert "disk" in text.splitlines()[0]
    assert max(map(len, text.splitlines())) <= 40
    assert path in rendered(TerminalTable(columns, rows, heads=False), 20)  # turned
