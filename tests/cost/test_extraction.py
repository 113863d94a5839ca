"""A plan's sizes are those of the store that is then made."""

import shutil

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.cost import plan
from iceprobe.machine.disk_speed import READ_BYTES, read_speed
from iceprobe.store import extract
from tests.store.conftest import SMALL, make_backbone, make_dataset


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patches": False},
        {"tokens": "float32", "limit": 13},
        {"tokens": "int8"},
        {"tokens": "int8", "patches": False},
    ],
)
def test_sizes_are_exact(tmp_path, backbone, dataset, options):
    root = tmp_path / "features"
    planned = plan(backbone, dataset, root, measure_seconds=0, **options, **SMALL)
    assert not root.exists()
    store = extract(backbone, dataset, root, **options, **SMALL)
    assert planned.store == store.path
    written = sum(path.stat().st_size for path in store.path.glob("*.safetensors"))
    assert planned.store_bytes == planned.bytes_to_write == written
    assert planned.images == {name: len(store[name]) for name in store.splits}
    if options.get("patches", True):
        held = {name: store[name].patch_bytes for name in store.splits}
        assert planned.patch_bytes == held
    else:
        assert set(planned.patch_bytes.values()) == {0}
    # The convolution reads every pixel of 16 × 16 once for each of 8 channels.
    assert planned.flops_per_image == 2 * 16 * 16 * 8
    assert planned.flops == planned.flops_per_image * sum(planned.images.values())
    assert planned.images_per_second > 0
    assert planned.seconds == pytest.approx(
        sum(planned.images.values()) / planned.images_per_second
    )


def test_what_is_there_costs_nothing(tmp_path, dataset):
    store = extract(make_backbone(), dataset, tmp_path, **SMALL)
    idle = make_backbone()
    finished = plan(idle, dataset, tmp_path, **SMALL)
    assert (finished.bytes_to_write, finished.flops, finished.seconds) == (0, 0, 0)
    assert finished.images_per_second is None
    served = plan(idle, dataset, tmp_path, patches=False, **SMALL)
    assert served.store == store.path


def test_what_is_missing_costs_its_part(tmp_path, dataset):
    def stop(stage, done, total):
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(make_backbone(), dataset, tmp_path, **SMALL, progress=stop)
    complete = len(list(tmp_path.glob("*/train-*.safetensors")))
    planned = plan(make_backbone(), dataset, tmp_path, measure_seconds=0, **SMALL)
    assert planned.flops == planned.flops_per_image * (62 - 10 * complete)
    assert 0 < planned.bytes_to_write < planned.store_bytes


def test_says_what_does_not_fit(tmp_path, backbone, dataset, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    monkeypatch.setattr("iceprobe.cost.extraction.available_memory", lambda: 1000)
    planned = plan(backbone, dataset, tmp_path, measure_seconds=0, **SMALL)
    assert not planned.fits_disk
    assert not planned.fits_memory


def test_bad_images_do_not_stop_a_plan(tmp_path, backbone):
    plan(backbone, make_dataset(bad=(0, 1, 2)), tmp_path, measure_seconds=0, **SMALL)


def test_refuses_what_extract_refuses(tmp_path, backbone, dataset):
    with pytest.raises(IceprobeError, match="unknown tokens 'int4'"):
        plan(backbone, dataset, tmp_path, tokens="int4")


def test_on_paper_by_hand(tmp_path, backbone):
    """N = 16 and P = 2 tokens of D = 8 at two bytes, a float32 mean, label, index and checks."""
    planned = plan(backbone, 100_000, tmp_path / "no" / "such", images_per_second=250, **SMALL)
    assert planned.images == {"train": 100_000}
    assert planned.patch_bytes == {"train": 100_000 * 16 * 8 * 2}
    tensors = 100_000 * ((16 + 2) * 8 * 2 + 8 * 4 + 8 + 8 + 8)
    assert planned.store_bytes == tensors + 10_000 * 4096  # 10,000 shards, a padded header each
    assert (planned.seconds, planned.images_per_second) == (400, 250)
    assert planned.flops == 100_000 * 2 * 16 * 16 * 8
    # Neither disk nor memory are this machine's.
    assert (planned.free_bytes, planned.memory_available) == (None, None)
    assert planned.fits_disk
    assert planned.fits_memory
    assert plan(backbone, 100_000, tmp_path, limit=70, images_per_second=1).seconds == 70


def test_images_that_are_not_there_are_measured_on_noise(tmp_path, backbone):
    planned = plan(backbone, 500, tmp_path, measure_seconds=0, **SMALL)
    assert planned.seconds == pytest.approx(500 / planned.images_per_second)
    assert planned.free_bytes is not None
    assert list(tmp_path.iterdir()) == []


def test_disk_is_read_and_left_as_it_was(tmp_path, monkeypatch):
    times = iter([10.0, 10.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    assert read_speed(tmp_path / "not" / "yet") == READ_BYTES / 0.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "speed", "message"),
    [(0, 1.0, "images=0"), (10, 0.0, "images_per_second=0.0"), (10, float("nan"), "=nan")],
)
def test_refuses_numbers_that_mean_nothing(tmp_path, backbone, images, speed, message):
    with pytest.raises(IceprobeError, match=message):
        plan(backbone, images, tmp_path, images_per_second=speed)
