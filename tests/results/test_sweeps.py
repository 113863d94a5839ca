"""Rankings and curves across results, on hand-made predictions."""

import numpy as np
import pytest

from iceprobe.reporting.finding import find_across
from iceprobe.results.building import scores_of
from iceprobe.results.predictions import Predictions
from iceprobe.results.sweeps import (
    by_layer,
    by_training_images,
    clear_order,
    leaders,
    rankings,
    without_layer,
)
from iceprobe.results.varying import draw_of, value_of, varying
from tests.results.test_files import result as made

LABELS = np.zeros(400, np.int64)


def result(backbone: str, probe: str, right: int, **fields):
    """A result with ``right`` of 400 test images correct, the first ones."""
    predicted = np.where(np.arange(400) < right, 0, 1).astype(np.int32)[None]
    predictions = Predictions(LABELS, predicted)
    scores = {"metrics": scores_of(predictions, "classification")}
    one = made(probe, backbone=backbone, seeds=[0], images="same", **scores, **fields)
    return one.replaced(predictions=predictions)


def test_ranks_and_what_is_not_clear():
    (ranking,) = rankings(
        [
            result("timm:a", "linear", 300),
            result("timm:a", "ep4", 310),
            result("timm:b", "linear", 200),
            result("timm:b", "ep4", 311),
            result("timm:c", "linear", 100),
            result("timm:c", "ep4", 50),
            result("timm:c", "aim4", 60),
        ]
    )
    assert ranking.backbones == ["timm:a", "timm:b", "timm:c"]
    assert ranking.paradigms == {"unknown": ["timm:a", "timm:b", "timm:c"]}
    assert ranking.probes == ["linear", "ep4"]  # aim4 was not run on all
    ranks = {key: (cell.rank, cell.tied) for key, cell in ranking.cells.items()}
    assert ranks["timm:a", "linear"] == (1, False)
    assert ranks["timm:b", "linear"] == (2, False)
    assert ranks["timm:b", "ep4"] == (1, False)
    assert ranks["timm:a", "ep4"] == (2, True)  # one image of 400
    assert ranks["timm:c", "ep4"] == (3, False)
    assert not ranking.moved()  # a and b change places by one image: no interval shows that
    assert [one.backbone for one in leaders(ranking.under("ep4"))] == ["timm:b", "timm:a"]
    assert clear_order(ranking.under("linear")) == {
        ("timm:a", "timm:b"),
        ("timm:a", "timm:c"),
        ("timm:b", "timm:c"),
    }


def test_an_order_is_said_to_change_where_intervals_show_it_both_ways():
    def of(a: int, b: int, **fields):
        return [
            result("timm:a", "linear", 300),
            result("timm:b", "linear", 200),
            result("timm:a", "ep4", a, **fields),
            result("timm:b", "ep4", b),
        ]

    assert rankings(of(200, 300))[0].moved()
    assert not rankings(of(299, 300))[0].moved()
    (weak,) = rankings(of(200, 300, undertrained=["3 training steps"]))
    assert not weak.moved()
    assert weak.cells["timm:a", "ep4"].tied


def test_equal_accuracies_have_one_rank_and_no_leader():
    (ranking,) = rankings([result(f"timm:{name}", "ep4", 200) for name in "abc"])
    assert {cell.rank for cell in ranking.cells.values()} == {1}
    assert [ranking.cells[f"timm:{name}", "ep4"].tied for name in "abc"] == [False, True, True]
    assert len(leaders(ranking.under("ep4"))) == 3
    said = find_across([ranking], [], []).sentence
    assert said == "No clear difference: none of 3 backbones leads under EP4."


def test_a_campaigns_headline_names_who_an_interval_shows_to_lead():
    def headline(*rights: tuple[int, int], **fields):
        results = [
            result(f"timm:{name}", probe, right, **fields)
            for name, pair in zip("abc", rights, strict=False)
            for probe, right in zip(("linear", "ep4"), pair, strict=True)
        ]
        return find_across(rankings(results), [], [])

    assert (
        headline((300, 300), (200, 200)).sentence == "timm:a leads 2 backbones under every probe."
    )
    assert headline((300, 200), (200, 300)).sentence == (
        "Which of 2 backbones leads depends on the probe: timm:a under linear, timm:b under EP4."
    )
    mixed = headline((300, 200), (200, 201), (100, 100))
    assert mixed.sentence == (
        "Of 3 backbones timm:a leads under linear; none leads clearly under EP4."
    )
    assert "3 of 4 differences between neighbours in rank are clear" in mixed.detail
    assert headline((200, 300), (201, 301)).sentence == (
        "No clear difference: none of 2 backbones leads under any probe."
    )
    weak = headline((300, 300), (200, 200), undertrained=["3 training steps"])
    assert weak.sentence.startswith("No clear difference")
    assert "undertrained, so without an order: linear on timm:a" in weak.detail


def test_the_best_layer_is_named_where_an_interval_shows_it():
    def headline(*rights: int) -> str:
        layers = [
            result(f"timm:a?layer={i}", "ep4", right, layer=i) for i, right in enumerate(rights)
        ]
        return find_across([], by_layer(layers), []).sentence

    assert headline(100, 300, 200) == "EP4 reads most at layer 1 (75.0%)."
    assert headline(100, 300, 299) == (
        "EP4: no clear difference between layers 1 and 2 (75.0% at 1)."
    )


def test_backbones_are_grouped_by_how_they_were_trained():
    (ranking,) = rankings(
        [
            result("timm:a", "ep4", 300, paradigm="masked image modelling"),
            result("timm:b", "ep4", 200, paradigm="supervised"),
            result("timm:c", "ep4", 100, paradigm="masked image modelling"),
        ]
    )
    assert ranking.paradigms == {
        "masked image modelling": ["timm:a", "timm:c"],
        "supervised": ["timm:b"],
    }
    assert ranking.cells["timm:b", "ep4"].rank == 2


def test_layers_are_a_curve_and_no_ranking():
    results = [
        result(f"timm:a?layer={layer}&norm=false", "ep4", 100 + 50 * layer, layer=layer)
        for layer in (2, 0, 1)
    ]
    assert rankings(results) == []
    (sweep,) = by_layer(results)
    assert sweep.title.startswith("timm:a?norm=false · ")
    assert [(x, one.top1.mean) for x, one in sweep.lines["ep4"]] == [
        (0.0, 0.25),
        (1.0, 0.375),
        (2.0, 0.5),
    ]
    assert by_layer(results[:1]) == []


def test_draws_are_a_curve_over_training_images():
    results = [
        result("timm:a", "ep4", 200, shots=5, train_images=50),
        result("timm:a", "ep4", 100, shots=1, train_images=10),
        result("timm:a", "ep4", 300, train_images=5000),
    ]
    (sweep,) = by_training_images(results)
    assert [x for x, _ in sweep.lines["ep4"]] == [10.0, 50.0, 5000.0]
    assert varying(results) == ["draw"]
    assert [value_of(one, "draw") for one in results] == ["5 shots", "1 shot", "all of train"]
    assert draw_of(result("timm:a", "ep4", 1, fraction=0.015)) == "1.5% of train"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("timm:a?layer=-2", "timm:a"), ("timm:a?layer=1&norm=false", "timm:a?norm=false")],
)
def test_a_backbone_without_its_layer(spec, expected):
    assert without_layer(spec) == expected
