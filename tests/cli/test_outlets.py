"""What leaves iceprobe: names from data are seen and do nothing, outputs replace nothing but files."""

import copy
import csv
import errno
import io
import json
import os
import shutil
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import iceprobe as api
from iceprobe.cli.folder import RunFolder, RunLog
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import csv_cell, csv_text, json_bytes, visible
from iceprobe.machine.files import write_atomically
from iceprobe.machine.temporary import new_folder
from iceprobe.results import read_results
from iceprobe.settings import Run
from iceprobe.store import shard_records
from tests.cli.conftest import BACKBONE, write_images

ESCAPE = "\x1b[31m\x1b]0;owned\x07"
BYTES = os.fsdecode(b"caf\xe9")  # Latin-1, as old archives have it


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Three classes: a formula that repaints the terminal, bytes that are no UTF-8, a plain one."""
    names = (f"=cmd|' C calc'!A0{ESCAPE}", BYTES, "plain")
    return write_images(tmp_path / "hostile", {"train": 6, "test": 3}, names)


def test_hostile_names_from_images_to_predictions(iceprobe, hostile, tmp_path):
    run = ["run", "--backbone", BACKBONE, "--data", f"folder:{hostile}", "--probe", "knn"]
    ended = iceprobe(*run, "--probe", "ep4", "--seeds", 1, "--epochs", 1, "--output", "r")
    assert (ended.code, ended.err) == (0, "")
    page = (tmp_path / "r/report.html").read_bytes().decode()
    assert r"caf\xe9" in page
    assert iceprobe("export", "r", "--probe", "ep4", "--output", "e").code == 0
    assert BYTES in api.load_probe(tmp_path / "e").classes
    ended = iceprobe("predict", "e", "--images", hostile / "test")
    assert (ended.code, ended.err) == (0, "")
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        heading, *rows = csv.reader(file)
    assert heading[:3] == ["file", "class", "probability"]
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    read = {csv_cell(row[1]) for row in rows} | {csv_cell(row[3]) for row in rows}
    assert f"=cmd|' C calc'!A0{ESCAPE}" in read
    assert all(0 <= float(row[2]) <= 1 for row in rows)


def test_a_data_folder_that_is_no_utf8(iceprobe, images, tmp_path, caplog):
    """Its name is in config.yaml, results.json, the log and the page's title, and is read back."""
    shutil.copytree(images, tmp_path / BYTES)
    data = f"folder:{tmp_path / BYTES}"
    run = ["run", "--backbone", BACKBONE, "--data", data, "--probe", "knn", "--output", "r"]
    ended = iceprobe(*run)
    assert (ended.code, ended.err) == (0, "")
    assert r"caf\xe9" in ended.out
    (result,) = read_results(tmp_path / "r")
    assert result.dataset == data
    assert r"caf\xe9" in (tmp_path / "r/log.txt").read_text(encoding="utf-8")
    assert "complete already" in iceprobe(*run).out
    assert r"caf\xe9" in caplog.text  # the caller's own handlers get what they can encode
    caplog.text.encode()


def test_no_escape_sequence_reaches_the_terminal(iceprobe, tmp_path):
    (tmp_path / ESCAPE).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / ESCAPE / "a.png")
    for command in (
        ["run", "--backbone", BACKBONE, "--data", f"folder:{tmp_path / ESCAPE}"],
        ["report", ESCAPE],
        ["ls", ESCAPE],
        ["run", f"--{ESCAPE}"],
        ["report", ESCAPE, "--debug"],
    ):
        ended = iceprobe(*command)
        assert ended.code == 2
        assert not set(ended.out + ended.err) & {"\x1b", "\x07"}
        assert "x1b" in ended.err
    assert r"\x1b[31m\x1b]0;owned\x07" in iceprobe("report", ESCAPE).err


def test_a_warning_and_a_table_spell_escapes(capsys):
    from rich.table import Table

    from iceprobe.cli.console import console

    table = Table("name")
    table.add_row(ESCAPE)
    console.print(ESCAPE, markup=False)
    console.print(table)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count(r"\x1b[31m") == 2


def test_a_log_line_stays_one(tmp_path, caplog):
    import logging

    with RunLog() as log:
        logging.getLogger("iceprobe").info("image %s", "a\n2026-01-01 INFO forged\x1b[2J")
        log.write_to(tmp_path / "log.txt")
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert first.endswith("INFO image a")
    assert second == r"    2026-01-01 INFO forged\x1b[2J"


def test_the_log_follows_no_link(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "log.txt").symlink_to(tmp_path / "victim")
    with RunLog() as log, pytest.raises(IceprobeError, match=r"log\.txt is not a file of this run"):
        log.write_to(tmp_path / "log.txt")
    assert (tmp_path / "victim").read_text() == "mine"


def test_visible_keeps_what_people_write():
    text = "naïve 鳥\u200d👩\u200d🔬 نمی\u200cخواهم\tends\n"
    assert visible(text) == text
    assert visible("a\u202eb\x9bc\udcff") == r"a\u202eb\x9bc\xff"


@given(st.text(alphabet="'=+-@\t\r\n1.e,\"aＡ＝", max_size=6))
def test_cells_read_back_and_are_no_formulas(text):
    ((cell, _),) = csv.reader(io.StringIO(csv_text([[text, "b"]]), newline=""), strict=True)
    assert csv_cell(cell) == text
    if cell[:1] in tuple("=+-@\t\r\n＝"):
        float(cell)


def test_numbers_stay_numbers():
    assert csv_text([["-0.5", "+1e-3", "-inf", -2, "=1", "-a"]]) == "-0.5,+1e-3,-inf,-2,'=1,'-a\n"


def test_json_of_names_that_are_no_utf8_reads_back():
    text = json.dumps([BYTES, "é"], ensure_ascii=False)
    assert json.loads(json_bytes(text)) == [BYTES, "é"]
    json_bytes(text).decode()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """What ``/dev/full`` is: neither file nor folder. A pipe needs no rights to be made."""
    os.mkfifo(tmp_path / "device")
    return tmp_path / "device"


def test_no_output_replaces_a_device(iceprobe, hostile, quick, device, tmp_path):
    """Refused before the work, by every command that writes."""
    assert iceprobe("run", *quick, "--probe", "ep4", "--output", "r").code == 0
    assert iceprobe("export", "r", "--output", "e").code == 0
    (tmp_path / "link").symlink_to(device)
    commands = [
        ["run", *quick, "--probe", "knn", "--output"],
        ["fit", next((tmp_path / "features").iterdir()), "--probe", "knn", "--output"],
        ["run", *quick, "--probe", "knn", "--output", "other", "--features"],
        ["extract", "--backbone", BACKBONE, "--data", quick[3], "--output"],
        ["adapt", *quick[:4], "--output"],
        ["segment", *quick[:4], "--output"],
        ["report", "r", "--output"],
        ["export", "r", "--output"],
        ["analyze", "r", "--figure"],
        ["predict", "e", "--images", hostile, "--output"],
        ["predict", "e", "--images", hostile, "--maps"],
    ]
    for command in commands:
        for place in (device, tmp_path / "link"):
            ended = iceprobe(*command, place)
            assert (ended.code, len(ended.err.splitlines())) == (2, 1), command
            assert place.name in ended.err
            assert stat.S_ISFIFO(place.stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(IceprobeError, match="is no file: name another"):
        api.report(read_results(tmp_path / "r"), device)
    with pytest.raises(IceprobeError, match="is no file: name another"):
        write_atomically(device, b"")


def test_a_finished_store_on_a_read_only_disk_is_used(iceprobe, quick, monkeypatch, tmp_path):
    run = ["run", *quick, "--probe", "knn"]
    assert iceprobe(*run, "--output", "one").code == 0
    (store,) = (tmp_path / "features").iterdir()

    def refusing(name):
        before = getattr(os, name)

        def call(path, *rest, **options):
            if Path(os.fspath(path)).is_relative_to(store):
                raise OSError(errno.EROFS, "Read-only file system", os.fspath(path))
            return before(path, *rest, **options)

        return call

    for name in ("rmdir", "unlink", "mkdir", "replace"):
        monkeypatch.setattr(os, name, refusing(name))
    ended = iceprobe(*run, "--output", "two")
    assert (ended.code, ended.err) == (0, "")
    first, second = (read_results(tmp_path / name)[0] for name in ("one", "two"))
    assert first.top1 == second.top1
    assert shard_records.FOLDER not in os.listdir(store)


def test_two_starts_of_one_run_leave_each_other_alone(tmp_path, monkeypatch):
    """The second begins while the first is about to put its config.yaml in place."""
    config = Run(backbone=["b"], data=["d"], probe=["knn"], output=tmp_path / "run")
    one, two = RunFolder(config), RunFolder(config)
    assert (one.state, two.state) == ("new", "new")
    replace, seen = os.replace, []

    def then_another(*paths):
        monkeypatch.setattr(os, "replace", replace)
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        replace(*paths)

    def start():
        try:
            RunFolder(config)
            two.create()
        except IceprobeError as error:
            seen.append(str(error))

    monkeypatch.setattr(os, "replace", then_another)
    one.create()
    assert len(seen) == 1
    assert "another process is writing to" in seen[0]
    two.create()  # goes on with what is there
    two.abandon()  # and removes nothing that isn't its own
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]
    other = config.model_copy(update={"seeds": 7})
    late = copy.copy(one)
    late.config, late._made, late.state = other, False, "new"
    with pytest.raises(IceprobeError, match="another configuration"):
        late.create()
    one.abandon()
    assert not (tmp_path / "run").exists()


def test_two_writers_of_one_folder(tmp_path):
    """The one that ends later says so, and the first one's files are as they were."""

    def write(text: str, meanwhile=lambda: None) -> None:
        with new_folder(tmp_path / "maps", "--maps") as folder:
            (folder / "a.png").write_text(text)
            meanwhile()

    with pytest.raises(IceprobeError, match="by another process meanwhile"):
        write("later", lambda: write("first"))
    assert (tmp_path / "maps/a.png").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
