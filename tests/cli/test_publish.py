"""``iceprobe publish RUN --to ep``: the row, the table that it is appended to, and what is refused."""

import csv

import pytest

from iceprobe.cli import main
from iceprobe.published.authors_row import COLUMNS
from iceprobe.results.files import write_results
from iceprobe.results.fitted import FittedResult
from tests.published.test_authors_row import run as results_of


def iceprobe(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    return int(stopped.value.code or 0)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    made = results_of(paradigm="masked image modelling")
    write_results(folder, [FittedResult(**dict(one)) for one in made])
    return folder


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_is_published_as_a_row_of_the_authors_table(run, tmp_path, capsys):
    assert iceprobe("publish", run, "--to", "ep") == 0
    assert str(run / "ep.csv") in capsys.readouterr().out
    (row,) = rows(run / "ep.csv")
    assert tuple(row) == COLUMNS
    assert (row["ep"], row["lp"], row["knn"]) == ("75.46", "67.78", "35.57")

    # Appended to their table, whose other rows stay as they are.
    table = tmp_path / "results.csv"
    other = {**row, "method": "Other", "notes": 'a, "b"'}
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerow(other)
    before = table.read_bytes()
    assert iceprobe("publish", run, "--to", f"ep:{table}", "--dry-run") == 0
    assert table.read_bytes() == before
    assert iceprobe("publish", run, "--to", f"ep:{table}") == 0
    assert rows(table) == [other, row]
    assert table.read_bytes().startswith(before)

    # Once; and again where it is meant.
    assert iceprobe("publish", run, "--to", f"ep:{table}") == 2
    assert (
        "has a row of MAE, ViT-B/16, IN-1K, 224: take it out, or put this one in its place with --update"
        in (capsys.readouterr().err)
    )
    assert iceprobe("publish", run, "--to", f"ep:{table}?pretrain=IN-21K") == 0
    assert iceprobe("publish", run, "--to", f"ep:{table}", "--update") == 0
    assert [one["pretrain"] for one in rows(table)] == ["IN-1K", "IN-1K", "IN-21K"]


def test_another_table_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("probe,top1\nep32,0.7\n")
    assert iceprobe("publish", run, "--to", f"ep:{tmp_path / 'a.csv'}") == 2
    assert "doesn't have the columns of the authors' results.csv" in capsys.readouterr().err
    assert (tmp_path / "a.csv").read_text() == "probe,top1\nep32,0.7\n"


def test_destinations_are_listed_where_none_is_named(run, capsys):
    assert iceprobe("publish", run) == 2
    shown = capsys.readouterr().err
    assert "hub:OWNER/NAME" in shown
    assert "ep:results.csv" in shown
