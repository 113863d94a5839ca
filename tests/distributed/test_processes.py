"""Two processes give what one gives: stores, neighbours, weights, results, errors."""

import json
import re
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.checks import check_norms, check_parts
from iceprobe.machine import processes, shared_batches
from iceprobe.machine.processes import World, first, join, world
from iceprobe.machine.shared_batches import (
    BatchShare,
    Moments,
    learning_from,
    moments_of_all,
    part_of_batch,
)
from iceprobe.probes import build_pooling
from iceprobe.probes.pooling import Pooling
from iceprobe.store import extract
from tests.cli.conftest import BACKBONE, iceprobe, images  # noqa: F401
from tests.distributed import work
from tests.distributed.processes import torchrun
from tests.store.conftest import SMALL, content, make_backbone, make_dataset


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything of `work`, by this process."""
    folder = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for what in (work.extraction, work.search, work.training, work.clips, work.tasks, work.lengths):
        what(folder)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by two."""
    folder = tmp_path_factory.mktemp("together")
    ended = torchrun(
        folder,
        "-m",
        "tests.distributed.work",
        folder,
        "extraction",
        "search",
        "training",
        "clips",
        "tasks",
        "lengths",
    )
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.slow
def test_the_store_is_the_same_to_the_byte(alone, together):
    one, two = content(alone / "features"), content(together / "features")
    assert len([name for name in one if name.endswith(".safetensors")]) == 7
    assert two == one  # no lock, no record of a shard, nothing else left either


@pytest.mark.slow
@pytest.mark.parametrize("queries", ["many", "few"])
def test_neighbours_answer_the_same(alone, together, queries):
    one, two = (np.load(folder / f"{queries}.npy") for folder in (alone, together))
    assert one.shape[1] == {"many": 7 * 128, "few": 7}[queries]
    np.testing.assert_array_equal(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trained", "clips", "tasks", "lengths"])
def test_members_end_with_the_same_weights(alone, together, name):
    """All of them, statistics of batch norms included; the two processes agree to the bit."""
    one = load_file(alone / f"{name}-0.safetensors")
    two, other = (load_file(together / f"{name}-{rank}.safetensors") for rank in (0, 1))
    assert one.keys() == two.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.equal(two[key], other[key]), key
        off = 1e-9 if tensor.dtype == torch.float64 else 1e-6  # records are kept in float32
        torch.testing.assert_close(
            two[key], tensor, rtol=off, atol=off, msg=lambda m, n=key: f"{n}: {m}"
        )


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_killed(alone, tmp_path):
    ended = torchrun(tmp_path, "-m", "tests.distributed.work", tmp_path, "extraction_cut_short")
    assert ended.returncode != 0
    assert str(-signal.SIGKILL) in ended.stderr
    backbone = make_backbone()
    extract(backbone, make_dataset(), tmp_path / "features", **SMALL)
    assert 0 < backbone.reader.images <= 62 - 10  # process 1's shard was kept
    assert content(tmp_path / "features") == content(alone / "features")


OPTIONS = ["--probe", "knn", "--probe", "ep2", "--probe", "aim2", "--probe", "linear",
           "--seeds", "2", "--epochs", "2", "--output", "run"]  # fmt: skip


@pytest.mark.slow
def test_a_run_from_images_to_report(images, tmp_path, iceprobe):  # noqa: F811
    """The same by two processes and by this one: store, weights, results."""
    asked = ["run", "--backbone", BACKBONE, "--data", f"folder:{images}", *OPTIONS]
    one, two = tmp_path, tmp_path / "two"
    two.mkdir()
    ended = torchrun(two, "-m", "iceprobe", *asked)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("report.html") == 1  # one of them prints
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert iceprobe(*asked).code == 0
    torch.set_num_threads(threads)

    assert content(two / "features") == content(one / "features")
    assert content(two / "run").keys() == content(one / "run").keys()
    files = sorted((one / "run" / "probes").iterdir())
    assert len(files) == 5  # linear's is the same for both seeds
    for file in files:
        expected, got = load_file(file), load_file(two / "run" / "probes" / file.name)
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name], tensor, rtol=1e-3, atol=1e-4)
    of_one, of_two = (
        json.loads((folder / "run" / "results.json").read_text()) for folder in (one, two)
    )
    trained = [result for result in of_two["results"] if result["method"] == "trained"]
    assert [result["training"].pop("processes") for result in trained] == [2, 2, 2]
    assert strip(of_two, two) == strip(of_one, one)
    assert len(re.findall("results of 4 probes", (two / "run" / "log.txt").read_text())) == 1


def strip(node, folder: Path):
    """Without what two runs of the same differ in: times, and checksums of them and of rounding."""
    differing = ("seconds", "created", "sha256", "digests")
    if isinstance(node, dict):
        return {k: strip(v, folder) for k, v in node.items() if k not in differing}
    if isinstance(node, list):
        return [strip(item, folder) for item in node]
    return node.replace(str(folder), "") if isinstance(node, str) else node


@pytest.mark.slow
def test_an_error_of_one_is_reported_once_and_ends_all(images, tmp_path):  # noqa: F811
    """The image that can't be read is in test, whose only shard is process 1's.

    Process 0 ends after torchrun has seen that process 1 has, and has sent it a signal.
    """
    data = tmp_path / "data"
    shutil.copytree(images, data)
    bad = data / "test" / "grey" / "02.png"
    bad.write_bytes(bad.read_bytes()[:60])
    asked = ["extract", "--backbone", BACKBONE, "--data", f"folder:{data}"]
    ended = torchrun(
        tmp_path, "-m", "tests.distributed.slow_end", *asked,
        launcher="tests.distributed.launcher", ASKED=str(tmp_path / "asked"),
    )  # fmt: skip
    assert ended.returncode != 0
    said, _, summary = ended.stderr.partition("ChildFailedError")  # torchrun's own
    lines = [line for line in said.splitlines() if line.startswith("iceprobe: error")]
    assert len(lines) == 1
    assert "grey/02.png" in lines[0]
    assert re.findall(r"exitcode +: (-?\d+)", summary) == ["2", "2"]
    assert ended.stdout.count("features") == 0  # nothing that looks like an end


def test_alone_there_is_nothing_to_wait_for():
    assert world().size == 1
    assert world().main
    assert first(lambda: 5) == 5
    assert world().gather("x") == ["x"]
    with join() as here:
        assert here is world()
    assert not torch.distributed.is_initialized()
    with learning_from(8, 8) as weight:
        assert part_of_batch() is None
        assert weight == 1


@pytest.mark.parametrize("end", [SystemExit(0), SystemExit(2), KeyboardInterrupt(), None])
def test_connections_are_closed_however_a_command_ends(monkeypatch, end):
    """Gloo's threads must be gone before the interpreter is: a command ends by `sys.exit`."""

    def connect(size):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return World(0, size, _steps=dist.new_group(backend="gloo"))

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "_connect", connect)
    with pytest.raises(type(end)) if end else nullcontext(), join() as here:
        assert dist.is_initialized()
        if end:
            raise end
    assert not dist.is_initialized()
    assert here._steps is None
    assert world().size == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_cover_everything_once(size):
    for count in (0, 1, 5, 64):
        places = [World(rank, size).part(count) for rank in range(size)]
        covered = [i for place in places for i in range(place.start, place.stop)]
        assert covered == list(range(count))
        assert max(p.stop - p.start for p in places) - min(p.stop - p.start for p in places) <= 1


def test_moments_of_parts_are_those_of_the_batch(monkeypatch):
    """Two uneven parts whose sums are exchanged by hand."""
    x = torch.randn(11, 3, dtype=torch.float64) * torch.tensor([1.0, 5, 0.1]) + 40
    parts = [x[:4], x[4:]]
    shares = [len(p) / 11 for p in parts]
    variance, mean = torch.var_mean(x, 0, correction=0)
    sums = [
        sum(s * p.mean(0) for s, p in zip(shares, parts, strict=True)),
        sum(
            s * (p.var(0, correction=0) + (p.mean(0) - mean).square())
            for s, p in zip(shares, parts, strict=True)
        ),
    ]
    monkeypatch.setattr("iceprobe.machine.shared_batches._total", lambda part: sums.pop(0))
    own = torch.var_mean(parts[0], 0, correction=0)
    found = BatchShare(4, 11).moments(own[1], own[0])
    torch.testing.assert_close(found[0], mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], variance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("counts", [(4, 7), (1, 1, 30), (5,)])
def test_moments_of_uneven_parts_take_one_exchange(monkeypatch, counts):
    """Rows of all processes, put together by hand; each finds what the whole batch has."""
    x = torch.randn(sum(counts), 3) * torch.tensor([1.0, 5, 0.1]) + 40
    parts = []
    for part in x.split(list(counts)):
        variance, mean = torch.var_mean(part, 0, correction=0)
        parts.append(Moments(len(part), mean, variance))
    rows: list[torch.Tensor] = []
    monkeypatch.setattr(shared_batches, "_total", lambda row: rows.append(row) or row)
    for rank, part in enumerate(parts):
        monkeypatch.setattr(shared_batches, "world", lambda r=rank: World(r, len(counts)))
        moments_of_all(part)
    assert len(rows) == len(counts)
    monkeypatch.setattr(shared_batches, "_total", lambda row: sum(rows))
    found = moments_of_all(parts[-1])
    variance, mean = torch.var_mean(x.double(), 0, correction=0)
    assert found.number == len(x)
    assert found.mean.dtype == torch.float32
    torch.testing.assert_close(found.mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.variance.double(), variance, rtol=1e-5, atol=0)


def test_what_is_missing_of_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(IceprobeError, match=r"WORLD_SIZE=2 and no RANK: start .* torchrun"), join():
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(IceprobeError, match=r"WORLD_SIZE='two' is no number"), join():
        pass


def test_a_step_has_an_image_for_each_process(monkeypatch):
    check_parts([64, 2])
    monkeypatch.setattr("iceprobe.fitting.checks.world", lambda: World(0, 4))
    check_parts([64, 4])
    with pytest.raises(
        IceprobeError, match=r"4 processes share steps of 64 examples, .* has 3: take"
    ):
        check_parts([64, 3])


def test_a_batch_norm_that_sees_a_part_only_is_refused(monkeypatch):
    class Own(Pooling):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(4)

    check_norms({"own": Own()})
    monkeypatch.setattr("iceprobe.fitting.checks.world", lambda: World(0, 2))
    check_norms({"delf": build_pooling("delf", dim=4, grid=(1, 1)), "ep2": build_pooling("ep2", 4)})
    with pytest.raises(
        IceprobeError, match=r"own has a BatchNorm .* by 2 processes: fit it in one"
    ):
        check_norms({"own": Own()})
