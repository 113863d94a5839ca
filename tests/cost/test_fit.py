"""Plans by hand: phases, steps and reading multiplied out, with the measurement given."""

import pytest
from safetensors.numpy import load_file

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.cost import fit as planning
from iceprobe.cost.phases import phases_of
from iceprobe.cost.step_timer import StepSeconds, StepTimes, line, time_steps
from iceprobe.fitting.memory import StepMemory
from iceprobe.protocols.protocol import get_protocol
from tests.store.conftest import make_backbone, make_dataset


class Machine:
    """Whose step takes 0.1 s by itself, 0.01 s a setting and 0.002 s a setting and image."""

    def __init__(self, speed: float = 1.0):
        self.speed, self.runs = speed, []

    def step(self, settings: int, images: int) -> StepSeconds:
        train = (0.1 + 0.01 * settings + 0.002 * settings * images) / self.speed
        return StepSeconds(train, train / 4)

    def __call__(self, settings: int, images: int, seconds: float) -> StepSeconds:
        self.runs.append((settings, images))
        return self.step(settings, images)


@pytest.fixture
def given(monkeypatch):
    """Steps as if measured: 1 s of one setting and 4 s of all, evaluations a tenth of that."""
    steps = StepTimes(StepSeconds(1.0, 0.1), StepSeconds(4.0, 0.4), settings=5, images=256)
    monkeypatch.setattr(planning, "time_steps", lambda *arguments: steps)


def test_what_there_is_time_for_is_run_whole():
    machine = Machine(speed=100)
    found = time_steps(machine, settings=5, images=256, most=10_000, seconds=10)
    assert machine.runs == [(1, 16), (1, 256), (5, 256)]
    assert (found.settings, found.images) == (5, 256)
    assert found.one == machine.step(1, 256)
    assert found.grid == machine.step(5, 256)


def test_the_rest_is_on_a_line_through_two_sizes():
    """In settings it is exact; of the images, one setting's is."""
    machine = Machine()
    found = time_steps(machine, settings=40, images=64, most=10_000, seconds=30)
    # 18 s for it; two steps and a look of one setting take 2 × 0.238 + 0.0595 s.
    assert (found.settings, found.images) == (33, 64)
    assert found.grid.train == pytest.approx(machine.step(40, 64).train)
    assert found.grid.evaluate == pytest.approx(machine.step(40, 64).evaluate)

    short = time_steps(machine, settings=1, images=4096, most=100, seconds=30)
    assert short.images == 100
    assert short.one.train == pytest.approx(0.11 + 0.002 * 4096)
    assert short.grid == short.one


def test_a_line_never_falls():
    """A larger step that was measured as faster is noise."""
    assert line((1, StepSeconds(3, 3)), (2, StepSeconds(2, 1)), 10) == StepSeconds(2, 1)
    assert line((4, StepSeconds(3, 1)), (4, StepSeconds(3, 1)), 8) == StepSeconds(6, 2)


def test_phases_of_heldout_and_paper():
    heldout = get_protocol("heldout", epochs=7, learning_rates=[1, 2, 3], weight_decays=[0, 1])
    select, refit, report = phases_of(heldout, [6, 6], 3, 2000, 250, num_classes=10)
    assert (select.members, select.epochs, select.trained_on, select.evaluated_on) == (
        36,
        7,
        1800,
        200,
    )
    assert (refit.members, refit.epochs, refit.trained_on, refit.evaluated_on) == (6, 7, 2000, 0)
    assert (report.members, report.epochs, report.trained_on, report.evaluated_on) == (6, 1, 0, 250)
    assert [phase.images for phase in (select, refit, report)] == [14000, 14000, 250]
    (paper,) = phases_of(get_protocol("paper"), [1], 3, 5000, 100, num_classes=10)
    assert (paper.members, paper.epochs, paper.trained_on, paper.evaluated_on) == (3, 90, 5000, 100)
    # Of few images five folds select, a seed each.
    select, refit, _ = phases_of(heldout, [6, 6], 3, 500, 250, num_classes=10)
    assert (select.times, select.members, select.trained_on, select.evaluated_on) == (
        5,
        12,
        400,
        100,
    )
    assert select.images == 5 * 7 * 500
    assert (refit.times, refit.members, refit.trained_on) == (1, 6, 500)
    # One image a class: none can be held out, and the middle of the grid is taken.
    names = [phase.name for phase in phases_of(heldout, [6], 1, 10, 5, num_classes=10)]
    assert names == ["refit", "report"]


@pytest.mark.usefixtures("one_part")
def test_seconds_of_a_fit_by_hand(given):
    """1,000 images of 10 classes in batches of 256, 3 rates of each kind, 2 seeds."""
    plan = iceprobe.plan_fit(
        make_backbone(), 1000, ["knn", "ep2", "aim2"], num_classes=10, seeds=2, epochs=3
    )
    select = 3 * (900 * 4.0 + 100 * 0.4) / 256
    refit = 3 * 1000 * 1.0 / 256
    assert (plan.members, plan.epochs, plan.held) == (12, 6, True)
    assert plan.epoch_seconds == pytest.approx(select / 3)
    assert plan.seconds == pytest.approx(select + refit)
    # 500 images a second of the backbone: 2 s more an epoch of either phase.
    assert plan.live_epoch_seconds(500) == pytest.approx(select / 3 + 2)
    assert plan.live_seconds(500) == pytest.approx(select + refit + 12)
    # An epoch saves 2 s: 2 s of extraction are won back by the first, 5 s by the third.
    assert [plan.pays_from(x, 500) for x in (0, 2, 2.1, 5)] == [1, 1, 2, 3]


@pytest.mark.parametrize("repeated", [{"seeds": 2}, {"replicates": 2}], ids=["seeds", "replicates"])
def test_predictions_take_the_bytes_that_were_planned(given, tmp_path, repeated):
    probes, options = ["knn", "linear", "ep2"], dict(epochs=1, learning_rates=[0.1], **repeated)
    backbone, dataset = make_backbone(), make_dataset(train=40, test=10)
    plan = iceprobe.plan_fit(backbone, dataset, probes, **options)
    store = iceprobe.extract(backbone, dataset, tmp_path)
    iceprobe.fit(store, probes, output=tmp_path / "run", **options)
    found = load_file(tmp_path / "run" / "predictions.safetensors")
    kept = [tensor.nbytes for name, tensor in found.items() if "/" in name]
    assert plan.prediction_bytes == sum(kept) > 0


@pytest.mark.usefixtures("one_part")
def test_tokens_beyond_memory_are_read_while_members_learn(given, tmp_path):
    """N = 16, D = 8, float16: 256 bytes an image; an epoch of 1,000 reads 256,000."""
    options = dict(num_classes=10, epochs=3, memory=100, root=tmp_path, seeds=1)
    backbone = make_backbone()
    slow = iceprobe.plan_fit(backbone, 1000, ["ep2"], bytes_per_second=1000, **options)
    assert slow.held is False
    assert slow.epoch_seconds == pytest.approx(256)
    assert slow.seconds == pytest.approx(2 * 3 * 256)
    assert slow.pays_from(10, 100) is None  # live reads nothing and takes 10 s of the backbone
    fast = iceprobe.plan_fit(backbone, 1000, ["ep2"], bytes_per_second=1e6, **options)
    assert fast.epoch_seconds == pytest.approx((900 * 4.0 + 100 * 0.4) / 256)
    vectors = iceprobe.plan_fit(backbone, 1000, ["linear"], bytes_per_second=1000, **options)
    assert (vectors.held, vectors.bytes_per_second) == (None, None)


@pytest.mark.usefixtures("one_part")
def test_draws_are_repeated(given):
    """5 draws of 4 images of each of 10 classes: 40 a step, none of 256; one seed each."""
    plan = iceprobe.plan_fit(
        make_backbone(), 1000, ["ep2"], num_classes=10, shots=4, epochs=2, learning_rates=[1, 2]
    )
    assert (plan.repetitions, plan.images, plan.members) == (5, 40, 2)
    # Of 4 images a class one is held out; a step is of 40 images.
    once = 2 * (30 * 4.0 + 10 * 0.4) / 40 + 2 * 40 * 1.0 / 40
    assert plan.seconds == pytest.approx(5 * once)


@pytest.mark.usefixtures("one_part")
def test_flops_by_hand():
    """EP's queries meet tokens in two products forward and two backward; the rest takes three."""
    speed = 1e6
    plan = iceprobe.plan_fit(
        make_backbone(), 100, ["ep2"], num_classes=4, seeds=1, epochs=1, learning_rates=[1, 2, 3],
        flops_per_second=speed,
    )  # fmt: skip
    meeting, rest = 2 * (2 * 16 * 2 * 8), 2 * (8 * 8 + 8 * 4)  # N = 16, D = 8, M = 2, C = 4
    train, look = 2 * meeting + 3 * rest, meeting + rest
    held = 4 * round(0.1 * 100 / 4)
    expected = 3 * ((100 - held) * train + held * look) + 100 * train
    assert plan.flops == expected
    assert plan.seconds == pytest.approx(expected / speed)
    assert "TFLOP/s" in plan.basis


def test_memory_that_does_not_suffice_is_reported_and_nothing_is_run(monkeypatch):
    monkeypatch.setattr("iceprobe.fitting.memory.available_memory", lambda: 1000)
    plan = iceprobe.plan_fit(make_backbone(), 100, ["ep2"], num_classes=4, epochs=1)
    assert "of memory" in plan.refusal
    assert plan.seconds == 0


def test_real_steps_of_every_kind_of_input():
    """Vectors, patches, and both together; a grid; whatever is measured is finite and positive."""
    probes = ["linear?input=class", "linear?input=mean", "ep2", "aim2", "ep2?input=prefix+patches"]
    plan = iceprobe.plan_fit(
        make_backbone(), make_dataset(), probes, epochs=1, seeds=1, measure_seconds=0
    )
    assert plan.images == 50
    assert 0 < plan.epoch_seconds < plan.seconds < float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": None}, "give num_classes"),
        ({"bytes_per_second": 0.0}, "bytes_per_second=0.0"),
        ({"flops_per_second": float("inf")}, "flops_per_second=inf"),
        ({"tokens": "int4"}, "unknown tokens 'int4'"),
        ({"seeds": 0}, "seeds=0"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(IceprobeError, match=message):
        iceprobe.plan_fit(make_backbone(), 100, ["ep2"], **{"num_classes": 4, **change})


def test_int8_tokens_are_counted_with_their_scales(given, monkeypatch):
    """Of 50 images, N = 16 tokens of D = 8: 9,600 bytes of codes and scales, 12,800 in float16.

    Beside them a step, as the fit counts it.
    """
    step = StepMemory(fixed=100, per_image=10, images=50)
    monkeypatch.setattr(planning, "step_memory", lambda *arguments: step)
    for tokens, needed in (("int8", 50 * 16 * (8 + 4)), ("float16", 50 * 16 * 8 * 2)):
        for memory, held in ((needed + 600, True), (needed + 599, False)):
            found = iceprobe.plan_fit(
                make_backbone(), make_dataset(), ["ep4"], tokens=tokens, memory=memory,
                bytes_per_second=1e6,
            )  # fmt: skip
            assert found.held is held
    with pytest.raises(IceprobeError, match="unknown tokens 'int4'"):
        iceprobe.plan_fit(make_backbone(), make_dataset(), ["ep4"], tokens="int4")


def test_linear_probes_are_passes_over_their_vectors():
    """12 decays on five folds and a refit, 40 looks each of three products; an epoch has no part in it."""
    speed = 1e9
    plan = iceprobe.plan_fit(
        make_backbone(), 100, ["linear"], num_classes=4, flops_per_second=speed
    )
    assert plan.flops == (5 * 12 + 1) * 40 * 6 * 100 * 8 * 4
    assert plan.seconds == plan.solving == pytest.approx(plan.flops / speed)
    assert plan.phases == []
    once = dict(num_classes=4, flops_per_second=speed, replicates=1)
    beside = iceprobe.plan_fit(make_backbone(), 100, ["linear", "ep2"], **once)
    alone = iceprobe.plan_fit(make_backbone(), 100, ["ep2"], **once)
    assert beside.seconds == pytest.approx(alone.seconds + plan.seconds)
    assert beside.members == alone.members + 1


def test_a_task_of_single_patches_is_refused_as_fit_refuses_it(given):
    with pytest.raises(IceprobeError, match="task='segmentation' is of single patches"):
        iceprobe.plan_fit(make_backbone(), 1000, ["ep2"], num_classes=10, task="segmentation")
