"""Stores are listed, explained and removed: only those that no run reads, whole, and on request."""

import json
import shutil
from pathlib import Path

import pytest

from iceprobe.cli import prune
from iceprobe.machine.folder_lock import exclusive
from tests.cli.conftest import BACKBONE


@pytest.fixture
def stores(iceprobe, quick, images) -> tuple[Path, Path]:
    """One that a run reads, and one that was only extracted."""
    assert iceprobe("run", *quick, "--probe", "linear", "--output", "runs/r").code == 0
    (read,) = Path("features").iterdir()
    asked = ["--backbone", BACKBONE, "--data", f"folder:{images}", "--limit", "8"]
    ended = iceprobe("extract", *asked)
    return read, Path(ended.out.splitlines()[-1])


def test_stores_are_listed_with_what_they_are_and_who_reads_them(iceprobe, stores, images):
    read, unread = stores
    text = iceprobe("ls", "stores").out
    first, second = (text.split(f"{one}  ")[1] for one in stores)
    size = sum(file.stat().st_size for file in read.iterdir())
    assert first.startswith(f"{size / 1000:.1f} kB, finished\n")
    for words in (
        f"{BACKBONE} on folder:{images}",
        "images: train 36, test 12; mean of the patches and 1 prefix token of width 12 in float16",
        "read by runs/r",
    ):
        assert words in " ".join(first.split())
    assert "4 patch tokens and 1 prefix token of width 12 in float16" in " ".join(second.split())
    assert "images: train 8, test 8" in second
    assert "read by no run in runs: iceprobe prune" in second
    manifest = json.loads((unread / "manifest.json").read_text())
    (unread / "manifest.json").write_text(json.dumps({**manifest, "format_version": 1}))
    assert "has format 1" in iceprobe("ls", "stores").out


def test_only_what_no_run_reads_is_removed_and_only_with_yes(iceprobe, stores):
    read, unread = stores
    seen = iceprobe("prune")
    assert seen.code == 0
    assert f"{unread}  " in seen.out
    assert str(read) not in seen.out
    assert "--yes removes 1 store, " in seen.out
    assert read.exists()
    assert unread.exists()
    assert "removed: 1 store, " in iceprobe("prune", "--yes").out
    assert [path.name for path in Path("features").iterdir()] == [read.name]
    assert "every store is read" in iceprobe("prune", "--yes").out
    # One that a run reads goes where it is named; the run's results stay, and are shown.
    shutil.move("runs", "elsewhere")
    assert str(read) in iceprobe("prune").out
    assert str(read) not in iceprobe("prune", "--runs", "elsewhere").out
    assert "read by elsewhere/r" in iceprobe("prune", read, "--runs", "elsewhere", "--yes").out
    assert list(Path("features").iterdir()) == []
    assert iceprobe("report", "elsewhere/r", "--output", "table.md").code == 0
    refused = iceprobe("prune", read, "--yes")
    assert refused.code == 2
    assert "unknown store in features" in refused.err


def test_an_unfinished_run_keeps_its_store_and_a_damaged_manifest_its_readers(iceprobe, stores):
    read, _ = stores
    (Path("runs/r") / "results.json").unlink()  # request.json is there since the fit began
    assert str(read) not in iceprobe("prune").out
    (read / "manifest.json").write_text("{")
    assert str(read) not in iceprobe("prune").out


def test_a_store_under_work_stays_and_nothing_is_half_removed(iceprobe, stores, monkeypatch):
    _, unread = stores
    with exclusive(unread):
        seen = iceprobe("prune", "--yes").out
        assert "stays: another process is writing to" in seen
        assert "removed" not in seen
    assert unread.exists()

    def killed(path: Path) -> None:
        next(path.glob("*.safetensors")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prune.shutil, "rmtree", killed)
        assert iceprobe("prune", "--yes").code == 130
    assert not unread.exists()
    assert len(list(Path("features").iterdir())) == 2  # with what has no name of a store any more
    assert str(unread) not in iceprobe("ls", "stores").out
    assert iceprobe("prune", "--yes").code == 0
    assert len(list(Path("features").iterdir())) == 1
