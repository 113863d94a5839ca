"""`iceprobe ls datasets` and the table behind it."""

import subprocess
import sys

import pytest

from iceprobe.cli import main
from iceprobe.datasets import CATALOGUE, DATASETS


def listed(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["ls", "datasets", *words])
    assert not stop.value.code
    return capsys.readouterr().out


def test_every_source_and_set_is_listed(capsys):
    text = listed(capsys)
    for name in DATASETS:
        assert f"{name}:" in text
    for name in CATALOGUE:
        assert f"{name}?root=DIR" in text


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("aircraft", ["100 classes", "6,667 + 3,333", "mean per class", "non-commercial"]),
        ("cub200", ["200 classes", "5,994 + 5,794", "top-1", "caltech.edu"]),
        ("imagenet-a", ["200 classes", "7,500 test images", "top-1", "MIT"]),
        ("PLACES", ["365 classes", "1,803,460 + 36,500", "places2.csail.mit.edu"]),
    ],
)
def test_a_set_is_found_by_a_word(capsys, word, shown):
    # Cells fold at the column's width: compare without the folds.
    text = "".join(listed(capsys, word).split())
    for part in shown:
        assert part.replace(" ", "") in text
    assert "food101" not in text


def test_listing_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from iceprobe.cli import main\n"
        "try:\n"
        "    main(['ls', 'datasets'])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "found = [n for n in ('torch', 'numpy', 'PIL', 'datasets') if n in sys.modules]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_an_entry_says_all_there_is_to_say(name):
    entry = CATALOGUE[name]
    assert callable(entry.load())
    assert entry.classes > 1
    train, test = entry.images
    assert test >= entry.classes
    assert train == 0 or train >= entry.classes
    assert entry.licence
    assert entry.where.startswith("http")
    assert entry.files
    assert all(len(parts) == 2 and parts[1] for parts in entry.splits.values())
    assert all(bool(parts[0]) == bool(train) for parts in entry.splits.values())
