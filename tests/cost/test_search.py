"""The plan of searches, against numbers worked out by hand and against searching."""

from types import SimpleNamespace

import pytest

import iceprobe
from iceprobe.cost import plan_search
from iceprobe.cost import search as planning
from iceprobe.neighbours import nearest
from tests.store.conftest import make_backbone


def test_searches_add_up_and_the_largest_answer_is_held():
    plan = plan_search([(1000, 10, 64), (100, 20, 64)], k=200, flops_per_second=1e6)
    assert plan.comparisons == 1000 * 10 + 100 * 20
    assert plan.flops == 2 * 64 * plan.comparisons
    assert plan.seconds == pytest.approx(plan.flops / 1e6)
    # 10 answers of 200; twice 10 × 1000 similarities of 4 bytes; 1000 × 64 vectors in 20
    assert plan.memory_bytes == 10 * 200 * 16 + 2 * 4 * 1000 * 10 + 20 * 1000 * 64


@pytest.mark.parametrize("larger", [1, 5])
def test_measured_seconds_are_those_of_searching(monkeypatch, larger):
    """Each search moves the clock by a quarter of a second; nothing else does."""
    clock = SimpleNamespace(now=50.0)

    def search(queries, bank, *arguments, **options):
        clock.now += 0.25
        return nearest(queries, bank, *arguments, **options)

    monkeypatch.setattr(planning, "nearest", search)
    monkeypatch.setattr(planning, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    bank, queries = planning.BANKS * planning.BANK, 40
    plan = plan_search([(larger * bank, queries, 8)], measure_seconds=0.6)
    assert plan.seconds == pytest.approx(0.25 * larger)


@pytest.mark.parametrize(
    ("protocol", "comparisons"),
    # of 40 training images each is held out once in five folds; on paper nothing is reported
    [("heldout", 5 * 32 * 8), ("paper", 0)],
)
def test_a_fit_tells_the_searches_of_its_knn(protocol, comparisons):
    fit = iceprobe.plan_fit(
        make_backbone(), 40, ["knn"], num_classes=4, protocol=protocol, flops_per_second=1e12,
        here=False,
    )  # fmt: skip
    assert fit.search is not None
    assert fit.search.comparisons == comparisons
    assert fit.seconds == 0


def test_a_fit_without_knn_has_no_search():
    fit = iceprobe.plan_fit(
        make_backbone(), 40, ["ep2"], num_classes=4, flops_per_second=1e12, here=False
    )
    assert fit.search is None
