"""Rows come in the order asked for, from whichever shard, held or not."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from iceprobe.core.errors import IceprobeError
from iceprobe.store import Store, extract, reader
from tests.store.conftest import SMALL, make_backbone, make_dataset


@pytest.fixture(scope="module", params=["float16", "bfloat16", "float32", "int8"])
def store(request, tmp_path_factory) -> Store:
    root = tmp_path_factory.mktemp("features")
    dataset = make_dataset(bad=(4, 31))
    options = dict(tokens=request.param, on_bad_image="skip") | SMALL
    return Store.open(extract(make_backbone(), dataset, root, **options).path)


@pytest.fixture(scope="module")
def everything(store) -> torch.Tensor:
    parts = []
    for path in sorted(store.path.glob("train-*")):
        shard = load_file(path)
        part = shard["patches"]
        parts.append(part * shard["scales"][..., None] if "scales" in shard else part)
    return torch.cat(parts)


def selections():
    rng = np.random.default_rng(0)
    yield "all", np.arange(48)
    yield "backwards", np.arange(48)[::-1].copy()
    yield "shuffled", rng.permutation(48)
    yield "with repeats", rng.integers(0, 48, 200)
    yield "one", np.array([9])
    yield "none", np.array([], np.int64)
    yield "runs over a border", np.array([7, 8, 9, 10, 11, 30, 31, 3])


# Descriptors are the same for all, and each of these tests starts processes.
of_one_dtype = pytest.mark.parametrize("store", ["float16"], indirect=True, scope="module")


@pytest.mark.parametrize("rows", [pytest.param(rows, id=name) for name, rows in selections()])
@pytest.mark.parametrize("held", [False, True])
def test_rows(store, everything, rows, held):
    split = store["train"]
    if held:
        split = split.hold(10**9)
        assert split.held
        assert (split.labels == store["train"].labels).all()
        assert torch.equal(split.mean, store["train"].mean)
    got = split.patches(torch.from_numpy(rows))
    assert got.dtype == everything.dtype
    assert torch.equal(got, everything[rows])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(split.patches(rows, "cpu", dtype), everything[rows].to(dtype))


@pytest.mark.parametrize("held", [False, True])
def test_part_of_a_split(store, everything, held):
    split = store["train"].hold(10**9) if held else store["train"]
    part = split.take(np.array([40, 3, 3, 17]))
    assert part.held == held
    assert part.patch_bytes == split.patch_bytes // 12
    assert torch.equal(part.patches([3, 1, 0]), everything[[17, 3, 40]])


def test_held_as_stored_and_not_read_again(store, everything, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("not now")

    with monkeypatch.context() as patch:
        patch.setattr("iceprobe.store.split.dequantise", refuse)
        split = store["train"].hold(10**9)
    monkeypatch.setattr(reader.Shard, "read_rows", refuse)
    assert torch.equal(split.patches(np.arange(48)), everything)
    with pytest.raises(AssertionError, match="not now"):
        store["train"].patches([0])


def test_hold_keeps_within_its_memory(store):
    split = store["train"]
    shards = [load_file(path) for path in store.path.glob("train-*")]
    needed = sum(one[key].nbytes for one in shards for key in ("patches", "scales") if key in one)
    assert split.patch_bytes == needed
    held = split.hold(needed)
    assert held.held
    assert held.hold(0) is held
    assert (held.bytes_held, held.resident.all()) == (needed, True)
    almost = split.hold(needed - 1)
    assert (almost.held, almost.resident.sum(), almost.bytes_held) == (
        False,
        47,
        needed - needed // 48,
    )
    assert split.hold(needed // 48 - 1) is split


def test_what_does_not_fit_is_read_from_disk(store, everything, monkeypatch):
    """Vectors come first in the budget; of one batch some rows are held and some aren't."""
    split = store["train"]
    means = 48 * 8 * 4
    some = split.hold(means + split.patch_bytes // 48 * 20, ["mean", "patches"])
    assert some.resident.tolist() == [True] * 20 + [False] * 28
    assert (some.take([30, 4]).resident == [False, True]).all()
    rows = np.random.default_rng(3).permutation(48)
    assert torch.equal(some.patches(rows), everything[rows])
    read = []
    read_rows = reader.Shard.read_rows

    def count(self, name, wanted, *rest):
        read.extend([name] * len(wanted))
        return read_rows(self, name, wanted, *rest)

    monkeypatch.setattr(reader.Shard, "read_rows", count)
    assert torch.equal(some.patches(rows), everything[rows])
    assert torch.equal(some.rows("mean", rows), split.mean[rows])
    assert (read.count("patches"), read.count("mean")) == (28, 0)


FEW = """
import resource, sys
import numpy as np
from iceprobe.store import Store

store = Store.open(sys.argv[1])
splits = [Store.open(sys.argv[1])["train"] for _ in range(3)]  # as of three backbones
splits[0].patches([0])  # what is imported late is imported
rows = np.random.default_rng(1).permutation(48)
free = int(sys.argv[2]) + len(__import__("os").listdir("/proc/self/fd")) - 1
hard = free if sys.argv[3] == "hard" else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
for split in splits:
    split.mean
    print(split.patches(rows).double().sum().item())
"""


def with_few_files(store: Store, free: int, limit: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", FEW, str(store.path), str(free), limit]
    return subprocess.run(command, capture_output=True, text=True)


@of_one_dtype
def test_more_shards_than_open_files(store, everything):
    """15 maps of shards, and room for 2 files."""
    done = with_few_files(store, 2, "hard")
    assert done.stdout.split() == [str(everything.double().sum().item())] * 3, done.stderr


@of_one_dtype
def test_no_file_can_be_opened(store, everything):
    """The limit is lifted where it may be; else it is named, and no shard is called corrupt."""
    assert len(with_few_files(store, 0, "soft").stdout.split()) == 3
    done = with_few_files(store, 0, "hard")
    said = done.stderr.splitlines()[-1]
    assert "files open as it may" in said
    assert "ulimit -n" in said
    assert "corrupt" not in said
    assert "repair" not in said


def test_wrong_rows_and_splits(store):
    for rows in ([48], [-1], [0, 99]):
        with pytest.raises(IndexError, match="of a split of 48"):
            store["train"].patches(rows)
    with pytest.raises(IceprobeError, match="unknown split of images 'val'"):
        store["val"]


def test_many_readers_at_once(store, everything):
    """The engine gathers ahead in a thread while another reads."""
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(2)
    wanted = [rng.permutation(48) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for rows, got in zip(wanted, pool.map(store["train"].patches, wanted), strict=True):
            assert torch.equal(got, everything[rows])
