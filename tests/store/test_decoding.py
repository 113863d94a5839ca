"""Decoders that hang, and decoders that take their process with them."""

import concurrent.futures
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset
from iceprobe.store import decoding, extract
from iceprobe.store.decoding import _Crew, _Reader
from tests.store.conftest import SMALL, Images, content, make_backbone, make_dataset

NAME, ROW = "train/00023.png", 23
MINUTE = 60  # after which a test that still waits has failed


class Weather(Images):
    """Images at one of which something happens, every time or the first time only."""

    def image(self, index: int):
        if self.names[index] == NAME and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            self.happens()
        return super().image(index)


def hang() -> None:
    with open(os.environ["HANGS"], "ab") as file:
        file.write(b"!")
    threading.Event().wait()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stormy(happens, once: Path | None = None) -> Dataset:
    dataset = make_dataset()
    split = dataset.splits["train"]
    split.__class__ = Weather
    split.happens, split.once = happens, once
    return dataset


class Crew:
    """What the crew of the running extraction has: its readers, and the jobs that they were given."""

    def __init__(self, monkeypatch):
        self.readers: list[_Reader] = []
        self.rows: dict[concurrent.futures.Future, np.ndarray] = {}
        self.replaced = 0
        for owner, name in ((_Reader, "__init__"), (_Crew, "submit"), (_Crew, "_replace")):
            monkeypatch.setattr(owner, name, self._watched(name, getattr(owner, name)))

    def _watched(self, name, call):
        def watched(owner, *arguments):
            result = call(owner, *arguments)
            if name == "submit":
                self.rows[result.future] = arguments[1].rows
            elif name == "_replace":
                self.replaced += 1
            else:
                self.readers.append(owner)
            return result

        return watched


@pytest.fixture(autouse=True)
def crew(monkeypatch, tmp_path_factory) -> Crew:
    """Time passes for the job at which a reader hangs now, and for no other: no machine is too slow."""
    hangs = tmp_path_factory.mktemp("hangs") / "hangs"
    hangs.touch()
    monkeypatch.setenv("HANGS", str(hangs))
    crew = Crew(monkeypatch)

    passed = {"ticks": 0}

    def ticks(futures, _seconds):
        while True:
            hangs_now = ROW in crew.rows[futures[0]] and hangs.stat().st_size > crew.replaced
            passed["ticks"] += hangs_now
            assert passed["ticks"] * decoding.TICK <= 3 * decoding.SECONDS_AN_IMAGE
            found = concurrent.futures.wait(futures, 0 if hangs_now else 0.01)
            if hangs_now or found.done:
                return found

    monkeypatch.setattr(decoding, "wait", ticks)
    return crew


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("whole")
    extract(make_backbone(), make_dataset(), root, **SMALL)
    return content(root)


@pytest.mark.parametrize(
    ("happens", "workers", "why"),
    [
        (hang, 0, "stood still for 120 seconds"),
        (hang, 2, "stood still for 120 seconds"),
        (die, 1, "was killed by SIGKILL, if memory ran short take fewer workers"),
        (die, 2, "was killed by SIGKILL"),
    ],
)
def test_the_image_is_named_and_complete_shards_stay(tmp_path, whole, happens, workers, why):
    with pytest.raises(IceprobeError, match="--on-bad-image skip") as error:
        extract(make_backbone(), stormy(happens), tmp_path, workers=workers, **SMALL)
    assert f"image {NAME!r} can't be read, its reader {why}" in str(error.value)
    assert "\n" not in str(error.value)
    left = content(tmp_path)
    finished = {name for name in left if name.endswith(".safetensors")}
    assert "train-00000.safetensors" in {Path(name).name for name in finished}
    assert not any("00002" in name for name in finished)
    assert {name for name in left if "manifest" not in name} == finished  # nothing half-written
    extract(make_backbone(), make_dataset(), tmp_path, **SMALL)
    assert content(tmp_path) == whole


@pytest.mark.parametrize(("happens", "workers"), [(hang, 0), (hang, 1), (die, 2)])
def test_the_image_is_skipped_on_request(tmp_path, happens, workers):
    wanted = extract(
        make_backbone(), make_dataset(bad=(23,)), tmp_path / "bad", on_bad_image="skip", **SMALL
    )
    store = extract(
        make_backbone(),
        stormy(happens),
        tmp_path / "storm",
        workers=workers,
        on_bad_image="skip",
        **SMALL,
    )
    assert store.manifest.skipped == wanted.manifest.skipped == [NAME]
    for name in store.splits:
        rows = np.arange(len(store[name]))
        assert store[name].patches(rows).equal(wanted[name].patches(rows))
    assert len(store["train"]) == 49


@pytest.mark.parametrize(("happens", "workers"), [(hang, 0), (hang, 2), (die, 2)])
def test_what_happens_once_costs_no_image(tmp_path, whole, caplog, happens, workers):
    """As a worker that the system killed for want of memory, or a disk that hiccupped."""
    dataset = stormy(happens, once=tmp_path / "happened")
    extract(make_backbone(), dataset, tmp_path / "root", workers=workers, **SMALL)
    assert (tmp_path / "happened").exists()
    assert content(tmp_path / "root") == whole
    assert f"at image {NAME!r}: once more" in caplog.text


def test_workers_killed_from_outside_while_they_rest(tmp_path, whole, crew):
    killed: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if done >= 20 and not killed:
            assert not concurrent.futures.wait(crew.rows, MINUTE).not_done  # all ahead is decoded
            killed.extend(reader._process.pid for reader in crew.readers)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    extract(make_backbone(), make_dataset(), tmp_path, workers=2, progress=progress, **SMALL)
    assert len(killed) == 2
    assert crew.replaced >= 1
    assert content(tmp_path) == whole


def test_a_process_that_never_comes_to_an_image_is_no_bad_image(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "note_row", lambda row: die())
    monkeypatch.setattr("iceprobe.store.decoded_images.note_row", lambda row: die())
    with pytest.raises(
        IceprobeError, match=r"killed by SIGKILL.* before it came to an example, twice"
    ):
        extract(make_backbone(), make_dataset(), tmp_path, workers=1, on_bad_image="skip", **SMALL)


def test_no_reader_is_left_behind(tmp_path, crew):
    for workers in (0, 2):
        extract(make_backbone(), make_dataset(), tmp_path / str(workers), workers=workers, **SMALL)
    assert len(crew.readers) >= 3
    for reader in crew.readers:
        reader.thread.join(MINUTE)
        assert not reader.thread.is_alive()
        assert reader._process is None or reader._process.exitcode is not None


def test_what_a_process_raises_is_reported(tmp_path):
    def odd() -> None:
        raise ZeroDivisionError("odd image")

    with pytest.raises(RuntimeError, match="ZeroDivisionError: odd image"):
        extract(make_backbone(), stormy(odd), tmp_path, workers=1, **SMALL)
