"""Decoders that hang, and decoders that take their process with them."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Dataset
from iceprobe.store import decoding, extract
from tests.store.conftest import SMALL, Images, content, make_backbone, make_dataset

NAME = "train/00023.png"


class Weather(Images):
    """Images at one of which something happens, every time or the first time only."""

    def image(self, index: int):
        if self.names[index] == NAME and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            self.happens()
        return super().image(index)


def hang() -> None:
    threading.Event().wait()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stormy(happens, once: Path | None = None) -> Dataset:
    dataset = make_dataset()
    split = dataset.splits["train"]
    split.__class__ = Weather
    split.happens, split.once = happens, once
    return dataset


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(decoding, "SECONDS_AN_IMAGE", 0.6)
    monkeypatch.setattr(decoding, "TICK", 0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("whole")
    extract(make_backbone(), make_dataset(), root, **SMALL)
    return content(root)


@pytest.mark.parametrize(
    ("happens", "workers", "why"),
    [
        (hang, 0, "stood still for 0.6 seconds"),
        (hang, 2, "stood still for 0.6 seconds"),
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


def test_workers_killed_from_outside_while_they_rest(tmp_path, whole):
    killed: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if done >= 20 and not killed:
            time.sleep(0.2)  # by now they have decoded ahead and wait
            me = Path(f"/proc/{os.getpid()}/task").glob("*/children")
            killed.extend(int(pid) for one in me for pid in one.read_text().split())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    extract(make_backbone(), make_dataset(), tmp_path, workers=2, progress=progress, **SMALL)
    assert len(killed) >= 2
    assert content(tmp_path) == whole


def test_a_process_that_never_comes_to_an_image_is_no_bad_image(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "note_row", lambda row: die())
    monkeypatch.setattr("iceprobe.store.decoded_images.note_row", lambda row: die())
    with pytest.raises(
        IceprobeError, match=r"killed by SIGKILL.* before it came to an image, twice"
    ):
        extract(make_backbone(), make_dataset(), tmp_path, workers=1, on_bad_image="skip", **SMALL)


def test_no_reader_is_left_behind(tmp_path):
    before = threading.active_count()
    for workers in (0, 2):
        extract(make_backbone(), make_dataset(), tmp_path / str(workers), workers=workers, **SMALL)
    assert threading.active_count() == before


def test_what_a_process_raises_is_reported(tmp_path):
    def odd() -> None:
        raise ZeroDivisionError("odd image")

    with pytest.raises(RuntimeError, match="ZeroDivisionError: odd image"):
        extract(make_backbone(), stormy(odd), tmp_path, workers=1, **SMALL)
