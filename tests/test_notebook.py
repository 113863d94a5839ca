"""The notebook runs as it lies there, and what it shows is what it makes."""

import re
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "examples" / "first_look.ipynb"
nbformat = pytest.importorskip("nbformat")


def text_of(notebook: Any) -> str:
    """All text that its cells have put out."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def table(notebook: Any) -> dict[str, list[str]]:
    """Its table of results: the other cells of a row by the probe."""
    rows = re.findall(r"^\| ([a-z]\S*) \| (.*) \|$", text_of(notebook), re.MULTILINE)
    return {probe: cells.split(" | ") for probe, cells in rows if probe != "probe"}


def number(text: str) -> float:
    return float(text.split(" ")[0])


def test_what_is_committed_is_small_and_of_no_machine():
    text = FILE.read_text()
    assert len(text) < 1_000_000
    assert not re.search(r"/(tmp|home|work|root|usr|Users)/", text)
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.outputs for cell in code)
    kinds = {kind for cell in code for o in cell.outputs for kind in o.get("data", ())}
    assert {"text/html", "image/png"} <= kinds
    assert "error" not in {o.output_type for cell in code for o in cell.outputs}


@pytest.mark.slow
def test_it_runs_and_its_numbers_are_those_that_are_committed(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where its features go
    committed, fresh = (nbformat.reads(FILE.read_text(), 4) for _ in range(2))
    for cell in fresh.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbclient.NotebookClient(
        fresh, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert (tmp_path / "first_look_report.html").stat().st_size > 100_000
    found, shown = table(fresh), table(committed)
    assert (
        found.keys()
        == shown.keys()
        == {"knn", "linear?input=class", "linear?input=mean", "ep12", "aim12"}
    )
    assert found["knn"][:3] == shown["knn"][:3]  # nothing is learned
    for probe, cells in found.items():
        assert cells[3:5] == shown[probe][3:5]  # parameters and FLOPs
        # Of a fit the last digits hang on the machine, and with them single images.
        assert number(cells[0]) == pytest.approx(number(shown[probe][0]), abs=3)
    ours, theirs = (
        re.findall(r"(\S+) +(\d+)% of its attention", text_of(one)) for one in (fresh, committed)
    )
    assert dict(ours).keys() == dict(theirs).keys() == {"ep12", "aim12"}
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        assert int(one) == pytest.approx(int(other), abs=8)
