"""Members that are dropped: the others are not affected, and results name them."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import ttest_rel

import iceprobe
from iceprobe import IceprobeError
from iceprobe.fitting import context, phases
from iceprobe.fitting.engine import JointTrainer
from iceprobe.fitting.members import Group, Member, make_groups
from iceprobe.fitting.whitening import whitening
from iceprobe.protocols.choosing import best_at_last_epoch
from iceprobe.protocols.halving import clearly_beaten, rungs
from iceprobe.reporting import report
from iceprobe.results import advise, compare_pair, read_curves, read_results, to_markdown
from iceprobe.results.curves import seed_means
from tests.fitting.conftest import PlantedSplit
from tests.fitting.test_api import Killed, assert_same_run, content, kill_after, planted_dataset
from tests.fitting.test_engine import CLASSES, CPU, FOLDED, PROBES, SHAPE, feed_of, float64  # noqa: F401
from tests.protocols.test_protocol import row
from tests.store.conftest import make_backbone

pytestmark = pytest.mark.usefixtures("one_part")
RATES = {"adamw": 3e-3, "lars": 1.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return iceprobe.extract(make_backbone(), planted_dataset(), root, batch_size=16)


def trainer_of(members: list[Member], split: PlantedSplit, optimizer: str) -> JointTrainer:
    feed = feed_of(split)
    known = {
        name: whitening(lambda n=name: (b.inputs[n] for b in feed.in_order(32)), 0.01)
        for name in ("class", "mean")
    }
    known = {  # measured in float64, handed out in float32
        name: type(one)(one.mean.double(), one.std.double(), one.matrix.double())
        for name, one in known.items()
    }
    return JointTrainer(
        make_groups(members, SHAPE, CLASSES, CPU, known), optimizer, steps=10, warmup=2
    )


def assert_same(group: Group, g: int, other: Group, h: int) -> None:
    expected, found = other.probe(h).state_dict(), group.probe(g).state_dict()
    for name, tensor in expected.items():
        assert tensor.isfinite().all()
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_who_stays_ends_as_if_nobody_had_gone(train, optimizer, float64):  # noqa: F811
    """Shared attention, groups of their own, whitened linear probes; a resume between two drops."""
    probes = ["ep4", "aim4", "abmilp", FOLDED[0], "mean_value", "linear"]
    members = [Member(p, RATES[optimizer], 0.01, seed) for p in probes for seed in range(4)]
    batches = [b for e in (0, 1) for b in feed_of(train).shuffled(32, seed=0, epoch=e)]
    straight, thinned = (trainer_of(members, train, optimizer) for _ in range(2))
    for batch in batches:
        straight.train_step(batch)
    for batch in batches[:3]:
        thinned.train_step(batch)
    thinned.keep([[1, 3] if i % 2 else [0, 1, 3] for i in range(len(probes))])
    thinned.train_step(batches[3])
    kept = {name: tensor.clone() for name, tensor in thinned.state().items()}
    left = [member for group in thinned.groups for member in group.members]
    resumed = trainer_of(left, train, optimizer)
    resumed.load_state(kept)
    for trainer in (thinned, resumed):
        for batch in batches[4:7]:
            trainer.train_step(batch)
        places = [[0] if i == 2 else [1, 2][: len(g) - 1] for i, g in enumerate(trainer.groups)]
        places[0] = []  # a whole probe goes
        trainer.keep(places)
        for batch in batches[7:]:
            trainer.train_step(batch)
    assert [group.members[0].probe for group in thinned.groups] == probes[1:]
    for trainer in (thinned, resumed):
        for group, whole in zip(trainer.groups, straight.groups[1:], strict=True):
            for g, member in enumerate(group.members):
                assert_same(group, g, whole, whole.members.index(member))
    for name, tensor in thinned.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def poison(group: Group, places: list[int]) -> None:
    with torch.no_grad():
        for parameter in group.parameters.values():
            parameter[places] = torch.nan


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_nan_in_one_member_reaches_no_other(train, optimizer, float64):  # noqa: F811
    """Of every probe one member of three is NaN in all its weights from the first step on."""
    probes = [*PROBES, *FOLDED] if optimizer == "adamw" else ["ep4", "aim4", "abmilp", "linear"]

    def members(seeds: tuple[int, ...]) -> list[Member]:
        return [Member(p, RATES[optimizer], 0.01, s) for p in probes for s in seeds]

    ill, well = (trainer_of(members(seeds), train, optimizer) for seeds in ((0, 1, 2), (0, 2)))
    for group in ill.groups:
        poison(group, [1])
    for batch in feed_of(train).shuffled(50, seed=0, epoch=0):
        for losses in ill.train_step(batch):
            assert losses.isfinite().tolist() == [True, False, True]
        well.train_step(batch)
    for group, healthy in zip(ill.groups, well.groups, strict=True):
        assert group.finite().tolist() == [True, False, True]
        assert_same(group, 0, healthy, 0)
        assert_same(group, 2, healthy, 1)


# ---------------------------------------------------------------- in a fit

FIT = dict(seeds=3, epochs=4, batch_size=32, learning_rates=[3e-3, 3e-2])


@pytest.fixture
def ill(monkeypatch) -> Callable[..., None]:
    """``ill(phase, predicate)``: members of that phase that start with NaN weights."""
    sick: dict[str, Callable[[Member], bool]] = {}
    make, run = context.make_groups, phases.run_phase
    now: list[str] = []

    def make_groups(members, *rest):
        groups = make(members, *rest)
        for group in groups:
            if predicate := sick.get(now[-1]):
                poison(group, [g for g, m in enumerate(group.members) if predicate(m)])
        return groups

    def run_phase(phase, *rest, **named):
        now.append(phase.stage)
        run(phase, *rest, **named)

    monkeypatch.setattr(context, "make_groups", make_groups)
    monkeypatch.setattr(phases, "run_phase", run_phase)
    return sick.__setitem__


def test_a_setting_that_diverges_is_never_chosen(store, tmp_path, ill, caplog):
    settings = FIT | dict(learning_rates=[3e-3])
    (alone,) = iceprobe.fit(store, ["ep4"], output=tmp_path / "alone", **settings)
    ill("select", lambda m: m.learning_rate == 3e-2 and m.seed == 1)
    with caplog.at_level(logging.WARNING, "iceprobe"):
        (result,) = iceprobe.fit(store, ["ep4"], output=tmp_path / "run", **FIT)
    assert result.selected["learning_rate"] == 3e-3
    assert result.settings_tried == 2
    assert result.top1.values == pytest.approx(alone.top1.values, abs=0.012)  # one image of 90
    (lost,) = result.diverged
    assert (lost.learning_rate, lost.seed, lost.phase, lost.epoch) == (3e-2, 1, "select", 1)
    assert result.lost_seeds == []
    (line,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    for word in ("ep4", "learning rate 0.03", "weight decay 0", "seed 1", "epoch 1 of select"):
        assert word in line
    rows = [r for r in read_curves(tmp_path / "run") if (r.learning_rate, r.seed) == (3e-2, 1)]
    assert [(r.epoch, r.eval_accuracy, r.diverged) for r in rows] == [(1, None, True)]


def test_a_learning_rate_of_1e38_really_diverges(store, tmp_path):
    settings = FIT | dict(learning_rates=[3e-3, 1e38])
    results = iceprobe.fit(
        store, ["ep4", "mean_value", "block"], output=tmp_path / "run", **settings
    )
    for result in results:
        assert result.selected["learning_rate"] == 3e-3
        assert {(one.learning_rate, one.phase) for one in result.diverged} == {(1e38, "select")}
        assert {one.seed for one in result.diverged} == {0, 1, 2}


def test_a_seed_that_diverges_in_the_refit_is_left_out_and_named(store, tmp_path, ill):
    whole = iceprobe.fit(store, ["knn", "linear", "ep4"], output=tmp_path / "whole", **FIT)
    ill("refit", lambda m: m.probe == "ep4" and m.seed == 1)
    iceprobe.fit(store, ["knn", "linear", "ep4"], output=tmp_path / "run", **FIT)
    knn, linear, ep = read_results(tmp_path / "run")
    assert linear.seeds == [0]  # solved for, whatever the seed
    assert linear.top1 == whole[1].top1
    assert (ep.seeds, ep.lost_seeds) == ([0, 2], [1])
    kept = [whole[2].top1.values[s] for s in (0, 2)]
    assert ep.top1.values == pytest.approx(kept, abs=0.012)  # one image of 90
    assert ep.top1.mean == pytest.approx(np.mean(ep.top1.values))
    assert [(one.seed, one.phase, one.epoch) for one in ep.diverged] == [(1, "refit", 1)]
    assert ep.files.probes == ["probes/ep4-seed0.safetensors", "probes/ep4-seed2.safetensors"]
    for name in ep.files.probes:
        assert all(t.isfinite().all() for t in load_file(tmp_path / "run" / name).values())
    assert "ep4: seed 1 diverged and is left out" in to_markdown([knn, linear, ep])
    page = report(read_results(tmp_path / "run"), tmp_path / "report.html", images=0).read_text()
    seen = "seed 1 diverged and is left out: figure, deviation and interval are of 2 of 3 seeds"
    assert f"<b>Diverged.</b> EP4: {seen}." in page
    assert f"EP4 reads {100 * ep.top1.mean:.1f}% (2 of 3 seeds)" in page  # the headline's
    assert page.count('<span class="tag">2 of 3 seeds</span>') == 2  # leaderboard, differences
    assert seen in str(advise([knn, linear, ep]))
    assert compare_pair(ep, linear).difference.mean == pytest.approx(
        ep.top1.mean - linear.top1.mean, abs=1e-6
    )


def test_a_probe_all_of_which_diverges_takes_no_other_along(store, tmp_path, ill, caplog):
    for phase in ("select", "refit", "paper"):
        settings = FIT | dict(protocol="paper" if phase == "paper" else "heldout")
        caplog.clear()
        ill(phase, lambda m: m.probe == "ep4")
        with caplog.at_level(logging.ERROR, "iceprobe"):
            results = iceprobe.fit(store, ["ep4", "linear"], output=tmp_path / phase, **settings)
        assert [r.probe for r in results] == ["linear"]
        assert content(read_results(tmp_path / phase)) == content(results)
        says = "every member of ep4 has diverged: give smaller --learning-rates"
        assert [r.message for r in caplog.records if r.levelname == "ERROR"] == [says]
        with pytest.raises(IceprobeError, match=says):
            iceprobe.fit(store, ["ep4"], output=tmp_path / f"{phase} alone", **settings)
        ill(phase, lambda m: False)


def test_a_seed_that_diverges_under_paper_is_left_out_and_named(store, tmp_path, ill):
    settings = FIT | dict(protocol="paper", learning_rates=[0.1, 0.3])
    (whole,) = iceprobe.fit(store, ["ep4"], output=tmp_path / "whole", **settings)
    best = whole.selected["learning_rate"]
    ill("paper", lambda m: m.seed == 1 and m.learning_rate == best)
    (other,) = iceprobe.fit(store, ["ep4"], output=tmp_path / "other", **settings)
    assert other.selected["learning_rate"] != best  # whole before better
    assert (other.seeds, other.lost_seeds, other.settings_tried) == ([0, 1, 2], [], 2)
    ill("paper", lambda m: m.seed == 1)
    (result,) = iceprobe.fit(store, ["ep4"], output=tmp_path / "run", **settings)
    assert (result.seeds, result.lost_seeds) == ([0, 2], [1])
    assert result.selected["learning_rate"] == best
    for kind in ("top1", "last_epoch"):
        kept = [getattr(whole, kind).values[s] for s in (0, 2)]
        assert getattr(result, kind).values == pytest.approx(kept, abs=0.012)


def test_a_replicate_that_diverges_is_left_out_and_named(store, tmp_path, ill):
    settings = dict(epochs=3, batch_size=32, learning_rates=[1e-2], replicates=3)
    ill("select", lambda m: m.probe == "ep4" and m.seed == 1)
    linear, ep = iceprobe.fit(store, ["linear", "ep4"], output=tmp_path / "run", **settings)
    assert linear.seeds == [0, 1, 2]
    assert (ep.seeds, ep.lost_seeds, len(ep.top1.values)) == ([0, 2], [1], 2)
    compare_pair(ep, linear)  # not by number


# ---------------------------------------------------------------- halving


def test_the_worse_half_stops_where_a_paired_t_statistic_is_above_two():
    rng = np.random.default_rng(0)
    hard = rng.random(300)
    for spread in (0.02, 0.05, 0.1, 0.2):
        levels = 0.7 - spread * rng.permutation(5)
        right = np.stack([[hard < level + rng.normal(0, 0.1, 300)] * 3 for level in levels])
        right = right.mean(1)
        order = np.argsort(-right.mean(1), kind="stable")
        expected = [
            int(np.flatnonzero(order == k)[0]) >= 3
            and ttest_rel(right[order[0]], right[k]).statistic > 2
            for k in range(5)
        ]
        assert clearly_beaten(right).tolist() == expected
    assert clearly_beaten(np.array([[1.0] * 50, [0.0] * 50])).tolist() == [False, True]
    assert not clearly_beaten(np.ones((4, 50))).any()
    assert not clearly_beaten(np.array([[1.0], [0.0]])).any()  # one image tells nothing
    assert not clearly_beaten(np.zeros((1, 50))).any()
    noise = np.array([[0.0], [1e-16]]) + np.zeros(50)  # two that are perfect, but for rounding
    assert not clearly_beaten(1000 * (1 + noise)).any()


def test_rungs_are_a_quarter_and_a_half():
    assert rungs(20) == [5, 10]
    assert rungs(50) == [13, 25]
    assert [rungs(epochs) for epochs in (1, 2, 3, 4)] == [[], [1], [1, 2], [1, 2]]


SLOW = dict(seeds=2, epochs=8, batch_size=32, learning_rates=[1e-6, 3e-6, 1e-2, 3e-2])


def test_beaten_settings_stop_and_the_rest_is_as_without(store, tmp_path):
    probes = ["mean_value", "ep4", "abmilp"]
    whole = iceprobe.fit(store, probes, output=tmp_path / "whole", **SLOW)
    halved = iceprobe.fit(store, probes, output=tmp_path / "run", halving=True, **SLOW)
    assert content(read_results(tmp_path / "run")) == content(halved)
    rows = [r for r in read_curves(tmp_path / "run") if r.phase == "select"]
    seen = 0
    for one, other in zip(whole, halved, strict=True):
        assert one.early_stopping is None
        early = other.early_stopping
        assert early.rungs == [2, 4]
        assert "2 standard errors" in early.rule
        assert (one.selected, one.settings_tried) == (other.selected, other.settings_tried)
        assert other.top1.values == pytest.approx(one.top1.values, abs=0.012)
        last = {r.learning_rate: 8 for r in rows}
        for stopped in early.stopped:
            seen += 1
            assert stopped.learning_rate != other.selected["learning_rate"]
            assert stopped.seeds == [0, 1]
            last[stopped.learning_rate] = stopped.epoch
        mine = [r for r in rows if r.probe == other.probe]
        assert {r.learning_rate: r.epoch for r in mine} == last
        best = [means[max(means)] for means in seed_means(mine).values()]  # at the last look
        assert len(best) == 4
        assert other.best_minus_median == pytest.approx(max(best) - np.median(best))
    assert seen >= 4
    page = report(read_results(tmp_path / "run"), tmp_path / "report.html", images=0).read_text()
    assert "stopped early</span>" in page
    assert "Early stopping: after a quarter and a half of the epochs" in page


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["heldout", "paper"])
def test_a_fit_killed_after_members_were_dropped_ends_as_one_that_was_not(
    store, tmp_path, monkeypatch, ill, protocol
):
    monkeypatch.setattr(phases, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    ill("select", lambda m: m.probe == "aim2" and m.seed == 1 and m.learning_rate == 3e-2)
    ill("refit", lambda m: m.probe == "mean_value" and m.seed == 0)
    ill("paper", lambda m: m.probe in ("aim2", "mean_value") and m.seed == 1)
    settings = SLOW | dict(protocol=protocol, halving=protocol == "heldout")
    probes = ["mean_value", "ep4", "aim2", "abmilp"]
    whole = iceprobe.fit(store, probes, output=tmp_path / "whole", **settings)
    assert sum(len(result.diverged) for result in whole) == (2 if protocol == "heldout" else 8)
    if protocol == "heldout":
        assert {s.epoch for r in whole for s in r.early_stopping.stopped} >= {2}
    for moment in (12, 16, 25, 9, 3):  # steps of each session; an epoch has 7 or 8, or 16
        with pytest.raises(Killed):
            iceprobe.fit(
                store, probes, output=tmp_path / "r", progress=kill_after(moment), **settings
            )
    resumed = iceprobe.fit(store, probes, output=tmp_path / "r", **settings)
    assert_same_run(whole, resumed, tmp_path)


def test_paper_stops_nothing_early(store, tmp_path):
    with pytest.raises(IceprobeError, match=r"halving with protocol 'paper'.*heldout"):
        iceprobe.fit(store, ["ep4"], protocol="paper", halving=True, output=tmp_path / "run")
    assert not list(tmp_path.glob("run/*.safetensors"))


# ---------------------------------------------------------------- choosing


def test_a_seed_that_is_gone_counts_as_wrong_and_a_stopped_setting_not():
    rows = [row(1, 0, e, 0.6) for e in (1, 2, 3)]
    rows += [row(1, 1, 1, 0.8), row(1, 1, 2, None, float("nan"))]
    rows += [row(2, s, 1, 0.3) for s in (0, 1)]
    assert seed_means(rows) == {
        (1, 0.0): {1: pytest.approx(0.7), 2: pytest.approx(0.3), 3: pytest.approx(0.3)},
        (2, 0.0): {1: pytest.approx(0.3)},
    }
    choice = best_at_last_epoch(rows)
    assert (choice.learning_rate, choice.tried) == (2, 2)  # 0.7, but a seed has diverged
    ill = [row(rate, 1, 1, None, float("inf")) for rate in (1, 2)]
    rows = [row(1, 0, 1, 0.4), row(2, 0, 1, 0.6), *ill]
    assert best_at_last_epoch(rows).learning_rate == 2  # all settings have lost one
    assert best_at_last_epoch(ill) is None
