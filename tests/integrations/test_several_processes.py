"""Two processes joined by gloo: the first takes the look, or both, of weights that are whole or in pieces."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import iceprobe
from iceprobe import IceprobeError
from iceprobe.integrations.looks import scores_of
from iceprobe.integrations.loop import Probe
from iceprobe.integrations.whole import check_whole
from tests.distributed.processes import joined
from tests.integrations.training import (
    PROBES,
    QUICK,
    Encoder,
    Labelled,
    Model,
    assert_same,
    labelled,
    loader,
    loss_of,
    seed,
)


def hard() -> dict[str, Labelled]:
    """Batches of 64: 5 and 2. A mistake in the tokens would change the scores."""
    return {"train": Labelled(290, shift=2), "test": Labelled(100, shift=2)}


def train(rank: int, model, look) -> list[dict[str, float]]:
    """Six steps, in each process on batches of its own; the scores of all looks."""
    optimizer, logged = torch.optim.AdamW(model.parameters(), 1e-2), []
    torch.manual_seed(rank)
    for step, batch in enumerate(loader(), 1):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        if look and (scores := look(step)):
            logged.append(scores)
    return logged


def trained(rank: int, every: str | None, **options):
    seed()
    model = DistributedDataParallel(Model().train())
    look, data = None, hard()
    if every:
        look = Probe(model.module.backbone, data, PROBES, every=every, keep=0, **QUICK, **options)
        data["train"].reads = 0
    logged = train(rank, model, look)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    reads = data["train"].reads
    results = sum(len(one.results) for one in look.history) if look else 0
    return [state, torch.rand(3), logged, reads, results]


def all_four(rank: int) -> list:
    """Without looks, with looks of one and of both, and hurried: the second's clock allows a look at any time."""
    from iceprobe.integrations import schedule

    found = [trained(rank, None), trained(rank, "2 steps")]
    found.append(trained(rank, "2 steps", processes="all"))
    if rank:
        schedule.Budget.fits = lambda self, now: True
    return [*found, trained(rank, "1 step", at_most="0.01%")]


def no_seconds(logged: list[dict]) -> list[dict]:
    return [{k: v for k, v in one.items() if k != "iceprobe/seconds"} for one in logged]


@pytest.mark.slow
def test_training_with_looks_is_training_without_bit_by_bit(tmp_path):
    expected, found, joint, slow = zip(*joined(all_four, tmp_path), strict=True)
    for one, other in zip(expected, found, strict=True):
        assert_same(one[:2], other[:2])
    for one, other in zip(expected, joint, strict=True):
        assert_same(one[:2], other[:2])
    (_, _, first, reads, results), (_, _, second, idle, none) = found
    assert first == second  # of all processes, so that what monitors one does the same
    assert len(first) == 3
    assert (reads, results) == (3 * 290, 9)
    assert (idle, none) == (0, 0)
    # Of 5 batches the first process reads 2; batch statistics are those of the first, as before.
    assert [one[3:] for one in joint] == [[3 * 128, 9], [3 * 162, 0]]
    assert no_seconds(joint[0][2]) == no_seconds(joint[1][2]) == no_seconds(first)
    assert all(one["iceprobe/ep2/top1"] < 0.9 for one in first)
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
    first, second = joined(failing, tmp_path)
    assert [("image_size" in one[0]) for one in (first, second)] == [True, True]
    assert [("no luck" in one[1]) for one in (first, second)] == [True, True]


def failing_apart(rank: int):
    """What goes wrong in the second process alone, when both make tokens."""
    found = []

    def said(model, data, fails=False):
        try:
            look = Probe(model, data, ["knn"], processes="all", on_error="raise", **QUICK)
            model.fails = fails
            look(epoch=1)
        except (IceprobeError, ValueError) as error:
            found.append(str(error))
        else:
            found.append("")

    seed()
    model, same, other = Failing(), Encoder(), labelled()
    said(model, labelled())
    said(model, labelled(), fails=rank == 1)
    model.fails = False
    if rank:
        with torch.no_grad():
            model.patch.weight.copy_(model.patch.weight.flip(0))
        other["test"] = Labelled(31)
    said(model, labelled())
    said(same, other)
    return found


@pytest.mark.slow
def test_an_error_of_either_process_is_both_ones(tmp_path):
    for found in joined(failing_apart, tmp_path):
        assert found[0] == ""
        assert "no luck" in found[1]
        assert "process 1 of 2 has other weights than process 0 (patch.weight)" in found[2]
        assert "process 1 of 2 has other" in found[3]


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
    for found in joined(in_pieces, tmp_path):
        assert [bool(line) for line in found] == [
            *[False, True, True, True],
            *[False, True, True],
            *[True, True, True],
        ]
        assert all("whole=" in line for line in found if line)
        assert all("FSDP" in line for line in found if line)


def test_partitions_of_zero_3_are_refused():
    model = Encoder()
    model.patch.weight.ds_id = 0
    with pytest.raises(IceprobeError, match=r"ZeRO 3 \(patch\.weight is in pieces\)"):
        check_whole(model)
    with pytest.raises(IceprobeError, match="look at checkpoints"):
        Probe(model, labelled(), ["knn"], whole=Encoder, **QUICK)


SHARDED = ["flat", "flat, original", "by parameter"]


def sharded(how: str) -> torch.nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    model = Model().requires_grad_().train()
    if how == "by parameter":
        mesh = init_device_mesh("cpu", (2,))
        fully_shard(model.backbone, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    cpu = torch.device("cpu")
    return FullyShardedDataParallel(model, use_orig_params="original" in how, device_id=cpu)


def trained_in_pieces(rank: int, how: str, **options):
    """The whole state at the end, random numbers, and the scores of looks; of the last one without a look too."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    seed()
    model = sharded(how)
    look, data = None, hard()
    if options:
        look = Probe(
            model, data, PROBES, every="3 steps", select=lambda one: one.backbone, whole=Encoder,
            **QUICK, **options,
        )  # fmt: skip
    logged = train(rank, model, look)
    drawn = torch.rand(3)
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    here = [state, drawn, data["train"].reads]
    if rank == 0 and not options:  # what a whole module of these weights gives
        encoder = Encoder()
        names = "backbone."
        encoder.load_state_dict(
            {k.removeprefix(names): v for k, v in state.items() if k.startswith(names)}
        )
        logged = [scores_of(iceprobe.probe(encoder, data, PROBES, progress=False, **QUICK))]
    return [*here, no_seconds(logged)]


def all_ways(rank: int) -> list:
    ways = [{}, {"processes": "first"}, {"processes": "all"}]
    return [[trained_in_pieces(rank, how, **one) for one in ways] for how in SHARDED]


@pytest.mark.slow
def test_weights_in_pieces_are_gathered_into_a_module_and_training_is_as_before(tmp_path):
    for first, second in zip(*joined(all_ways, tmp_path), strict=True):
        without, alone, both = first
        for one, other in [(without, alone), (without, both)]:
            assert_same(one[:2], other[:2])
        for one in second[1:]:
            assert_same(one[:2], second[0][:2])
            assert one[3] == alone[3]
        (expected,) = without[3]
        assert len(alone[3]) == 2
        assert expected["iceprobe/ep2/top1"] < 0.9
        assert alone[3][-1] == both[3][-1] == expected
        assert (second[1][2], second[2][2] > 0) == (0, True)


class Scaled(Encoder):
    """With a buffer that no ``state_dict`` has, and a state of its own that isn't a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, images):
        return super().forward(images) * self.scale

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}


class Averaged(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.average = Scaled(), AveragedModel(Encoder())

    def forward(self, images):
        return self.backbone(images).mean((2, 3))


def parts_of_a_state(rank: int) -> list:
    """Of what is trained by parameter: buffers of no state, an average, modules in wrappers, buffers in pieces."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_module

    mesh, found = init_device_mesh("cpu", (2,)), []
    seed()
    model = fully_shard(Averaged().requires_grad_(), mesh=mesh)
    model.backbone.scale.fill_(0)
    for select, whole in [
        (lambda one: one.backbone, Scaled),
        (lambda one: one.average, Encoder),
        (lambda one: one.average.module, Encoder),
    ]:
        look = Probe(
            model, labelled(), ["knn"], every="1 step", select=select, whole=whole, **QUICK
        )
        scores = look(1)
        model.backbone.scale.fill_(1)
        found.append([scores["iceprobe/knn/top1"], (look(2) or {})["iceprobe/knn/top1"]])
    pieces = distribute_module(Encoder(), mesh)
    before = [one.to_local().clone() for one in pieces.buffers()]
    Probe(pieces, hard(), ["knn"], whole=Encoder, processes="all", **QUICK)(epoch=1)
    for one, other in zip(before, pieces.buffers(), strict=True):
        assert torch.equal(one, other.to_local())
    return found


@pytest.mark.slow
def test_a_gathered_module_has_all_that_the_trained_one_has(tmp_path):
    first, second = joined(parts_of_a_state, tmp_path)
    assert first == second
    (blank, seeing), *average = first
    assert blank == 0.5  # all tokens are 0
    assert seeing > 0.9
    assert average[0] == average[1]


def made_within(rank: int) -> list:
    """The module inside FSDP's outermost one, given alone: it is told, or trained on."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Flat

    cpu, found = torch.device("cpu"), []
    for original in (True, False):
        model = Flat(Model().requires_grad_(), use_orig_params=original, device_id=cpu)
        try:
            Probe(model.backbone, labelled(), ["knn"], whole=Encoder, **QUICK)
        except IceprobeError as error:
            found.append(str(error))
    model = Model().requires_grad_()
    model.backbone = Flat(model.backbone, use_orig_params=True, device_id=cpu)
    model = Flat(model, use_orig_params=True, device_id=cpu)
    look = Probe(model.backbone, labelled(), ["knn"], every="1 step", whole=Encoder, **QUICK)
    loss_of(model, next(iter(loader()))).backward()
    return [*found, look(1)["iceprobe/knn/top1"]]


@pytest.mark.slow
def test_a_look_before_the_first_pass_leaves_the_outermost_module_outermost(tmp_path):
    for found in joined(made_within, tmp_path):
        assert all("give that one, and select=" in one for one in found[:2])
        assert found[2] == 1.0


def test_a_forward_pass_that_waits_for_others_is_refused():
    class Inner(torch.nn.Module):
        pass

    Inner.__name__ = "DistributedDataParallel"
    model = Encoder()
    model.norm = Inner()
    with pytest.raises(IceprobeError, match=r"norm of Encoder is wrapped by Dist.*select="):
        check_whole(model)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (
            lambda: torch.nn.Linear(2, 2),
            r"another Linear than .*bias: made float32 \(2,\), trained none",
        ),
        (lambda: Encoder().bfloat16(), r"norm.bias: made bfloat16 \(8,\), trained float32 \(8,\)"),
        (lambda: None, "whole= made None"),
    ],
)
def test_a_module_that_isnt_the_one_trained_is_refused(whole, said):
    with pytest.raises(IceprobeError, match=said):
        Probe(Encoder(), labelled(), ["knn"], whole=whole, **QUICK)


def test_the_trained_module_is_no_copy():
    model = Model()
    with pytest.raises(IceprobeError, match="the trained module itself"):
        Probe(
            model,
            labelled(),
            ["knn"],
            select=lambda one: one.backbone,
            whole=lambda: model.backbone,
            **QUICK,
        )


def test_a_copy_of_a_whole_module_gives_the_same():
    model = torch.compile(Model(), backend="eager")
    looks = [
        Probe(model, labelled(), PROBES, select=lambda one: one.backbone, **QUICK, **options)(
            epoch=1
        )
        for options in ({}, {"whole": Encoder})
    ]
    assert len(looks[0]) > 3
    assert no_seconds(looks[:1]) == no_seconds(looks[1:])
