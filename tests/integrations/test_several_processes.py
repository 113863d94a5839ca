"""Two processes joined by gloo: the first takes the look, the other waits, and weights in pieces are refused."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from iceprobe import IceprobeError
from iceprobe.integrations.loop import Probe
from iceprobe.integrations.whole import check_whole
from tests.integrations.training import (
    PROBES,
    QUICK,
    Encoder,
    Model,
    assert_same,
    labelled,
    loader,
    loss_of,
    seed,
)


def joined(rank: int, folder: str, work) -> None:
    """``work(rank)`` in one of two processes; what it returns is saved."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(work(rank), Path(folder) / str(rank))
    dist.destroy_process_group()


def in_two(work, folder) -> list:
    multiprocessing.spawn(joined, (str(folder), work), nprocs=2)
    return [torch.load(folder / str(rank), weights_only=True) for rank in (0, 1)]


def trained(rank: int, every: str | None, at_most=None):
    seed()
    model = DistributedDataParallel(Model().train())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    look = scores = None
    data = labelled()
    if every:
        look = Probe(model.module.backbone, data, PROBES, every=every, at_most=at_most, **QUICK)
    torch.manual_seed(rank)  # each has batches of its own
    logged = []
    for step, batch in enumerate(loader(), 1):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        if look and (scores := look(step)):
            logged.append(scores)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    reads = data["train"].reads
    results = sum(len(one.results) for one in look.history) if look else 0
    return [state, torch.rand(3), logged, reads, results]


def all_three(rank: int) -> list:
    """Without looks, with looks, and hurried: the second process's clock would let it look at any time."""
    from iceprobe.integrations import schedule

    found = [trained(rank, None), trained(rank, "2 steps")]
    if rank:
        schedule.Budget.fits = lambda self, now: True
    return [*found, trained(rank, "1 step", at_most="0.01%")]


@pytest.mark.slow
def test_training_with_looks_is_training_without_bit_by_bit(tmp_path):
    expected, found, slow = zip(*in_two(all_three, tmp_path), strict=True)
    for one, other in zip(expected, found, strict=True):
        assert_same(one[:2], other[:2])
    (_, _, first, reads, results), (_, _, second, idle, none) = found
    assert first == second  # of all processes, so that what monitors one does the same
    assert len(first) == 3
    assert results == 9
    assert reads > 60
    assert (idle, none) == (0, 0)
    assert [len(one[2]) for one in slow] == [1, 1]  # the first process's clock counts


class Failing(Encoder):
    fails = False

    def forward(self, images):
        if self.fails:
            raise ValueError("no luck")
        return super().forward(images)


def failing(rank: int):
    found = []
    model = Failing()
    try:
        Probe(torch.nn.Linear(2, 2) if rank == 0 else model, labelled(), ["knn"], **QUICK)
    except IceprobeError as error:
        found.append(str(error))
    look = Probe(model, labelled(), ["knn"], every="1 step", on_error="raise", **QUICK)
    model.fails = rank == 0
    try:
        look(1)
    except (IceprobeError, ValueError) as error:
        found.append(str(error))
    return found


@pytest.mark.slow
def test_an_error_of_the_first_process_is_all_processes(tmp_path):
    first, second = in_two(failing, tmp_path)
    assert [("image_size" in one[0]) for one in (first, second)] == [True, True]
    assert [("no luck" in one[1]) for one in (first, second)] == [True, True]


def in_pieces(rank: int):
    """FSDP and fully_shard, the module itself and one inside."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    found = []

    def said(module, outer=None):
        try:
            check_whole(module, outer)
        except IceprobeError as error:
            found.append(str(error))
        else:
            found.append("")

    for original in (True, False):
        model = Model().requires_grad_()
        inner = model.backbone
        said(inner)
        wrapped = FullyShardedDataParallel(
            model, use_orig_params=original, device_id=torch.device("cpu")
        )
        said(wrapped)
        said(inner, wrapped)
        if original:
            said(inner)
    model = Model()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    said(model)
    said(model.backbone)
    try:
        Probe(model.backbone, labelled(), ["knn"], **QUICK)
    except IceprobeError as error:
        found.append(str(error))
    return found


@pytest.mark.slow
def test_weights_in_pieces_are_refused(tmp_path):
    for found in in_two(in_pieces, tmp_path):
        assert [bool(line) for line in found] == [
            *[False, True, True, True],
            *[False, True, True],
            *[True, True, True],
        ]
        assert all("under DDP" in line for line in found if line)
        assert all("FSDP" in line for line in found if line)


def test_partitions_of_zero_3_are_refused():
    model = Encoder()
    model.patch.weight.ds_id = 0
    with pytest.raises(IceprobeError, match=r"ZeRO 3 \(patch\.weight is in pieces\)"):
        check_whole(model)
