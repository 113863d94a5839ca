"""Results as tables of pandas and as arrays, and as a notebook shows them."""

import dataclasses
import importlib
import re

import numpy as np
import pytest

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.results import (
    Flops,
    Parameters,
    Predictions,
    Results,
    Score,
    read_results,
    to_html,
    to_markdown,
    write_predictions,
    write_results,
)
from iceprobe.results.building import scores_of
from iceprobe.results.predictions import Logits
from iceprobe.results.schema import FittedOn
from tests.results.test_advice import of_one_encoder
from tests.results.test_files import result

pandas = pytest.importorskip("pandas")

NAMES = ["a.png", "<b>.png", "c\udcff.png", "d.png"]
COMMON = {"classes": 2, "dim": 8, "selected": {"learning_rate": 0.01, "epoch": 3}}


def made(task: str, predictions: Predictions, **more):
    """A result of two seeds with these predictions."""
    metrics = scores_of(predictions, task)
    primary = {"classification": "top1", "multilabel": "map", "regression": "r2"}[task]
    fields = {"task": task, "metrics": metrics, "primary": primary, **COMMON, **more}
    return result("ep2", **fields).replaced(predictions=predictions)


def classes():
    logits = np.array([[[2, 0], [0, 1], [0, 3], [1, 0]], [[0, 2], [0, 1], [0, 3], [0, 1]]])
    predicted = logits.argmax(-1).astype(np.int32)
    predicted[1, 3] = -1  # not finite
    found = Predictions(
        np.array([0, 1, 0, 0]), predicted, names=NAMES,
        outputs=[Logits(logits.astype(np.float16))], groups=np.array([4, 4, 7, 9]),
        slices={"site": (np.array([0, 1, -1, 0]), ["here", "<there>"])},
    )  # fmt: skip
    return made("classification", found, class_names=["ant", "bee"])


def tags():
    logits = np.array([[[0.0, 3.0], [-2.0, 1.0], [1.0, 0.5], [4.0, -1.0]]] * 2, np.float32)
    labels = np.array([[1, 255], [0, 1], [1, 0], [1, 0]], np.uint8)
    found = Predictions(labels, None, outputs=[Logits(logits)])
    return made("multilabel", found, class_names=["cat", "label"])


def numbers():
    labels = np.array([[1.0, np.nan], [2.0, 5.0], [3.0, 6.0], [4.0, 9.0]])
    predicted = np.stack([np.nan_to_num(labels, nan=7.0), labels * 0 + 3]).astype(np.float32)
    predicted[1, 0, 1] = 2.5
    return made("regression", Predictions(labels, predicted), class_names=["age", "size"])


def test_a_row_a_result_has_every_metric_with_its_deviation_and_interval():
    first, second = classes(), result("knn", 0.5, seeds=[], selected={"k": 20}, warnings=["x", "y"])
    second = second.replaced(metrics={"top1": Score.of([0.5])})
    table = iceprobe.frame([first, second])
    assert table.label.tolist() == ["ep2", "knn"]
    assert table.top1.tolist() == [first.top1.mean, 0.5]
    assert table.top1_sd[0] == first.top1.sd
    assert (table.top1_low[0], table.top1_high[0]) == first.top1.interval
    assert table.loc[1, ["top1_sd", "top1_low", "top1_high"]].isna().all()
    assert table.f1_macro[0] == first.metrics["f1_macro"].mean
    assert np.isnan(table.f1_macro[1])
    assert "top5" not in table
    assert table.parameters.tolist() == [120, 120]
    assert table.flops.tolist() == [1_383_400] * 2
    assert table.seconds.tolist() == [61.0, 61.0]
    assert table.learning_rate[0] == 0.01
    assert table.k[1] == 20
    assert table.seeds.tolist() == [2, 0]
    assert table.warnings.tolist() == ["", "x; y"]
    assert table.store.tolist() == ["abc", "abc"]
    assert table.torch[0] == first.environment["torch"]
    columns = list(table)
    assert columns[8:12] == ["top1", "top1_sd", "top1_low", "top1_high"]
    assert columns.index("log_loss") < columns.index("parameters") < columns.index("learning_rate")
    assert iceprobe.frame(first).equals(iceprobe.frame([first]))
    assert iceprobe.frame(one for one in [first]).equals(iceprobe.frame([first]))


def test_results_of_several_tasks_stand_in_one_table():
    every = [classes(), tags(), numbers()]
    table = iceprobe.frame(every)
    assert table.task.tolist() == ["classification", "multilabel", "regression"]
    assert table["map"].tolist() == pytest.approx(
        [np.nan, every[1].score.mean, np.nan], nan_ok=True
    )
    assert table.r2[2] == every[2].score.mean
    assert len(iceprobe.frame([])) == 0


def test_a_row_an_example_of_classes():
    table = iceprobe.frame(classes(), per="example")
    assert list(table) == [
        "label", "seed", "name", "group", "slice.site", "target", "predicted", "right", "probability",
    ]  # fmt: skip
    assert table.seed.tolist() == [0] * 4 + [1] * 4
    assert table.name[:4].tolist() == ["a.png", "<b>.png", "c\\xff.png", "d.png"]
    assert table.group[:4].tolist() == [4, 4, 7, 9]
    assert table["slice.site"].isna().tolist() == [False, False, True, False] * 2
    assert table["slice.site"][1] == "<there>"
    assert table.target[:4].tolist() == ["ant", "bee", "ant", "ant"]
    assert table.predicted[:4].tolist() == ["ant", "bee", "bee", "ant"]
    assert table.right.tolist() == [True, True, False, True, False, True, False, False]
    found, expected = table.probability, [1 / (1 + np.exp(-gap)) for gap in (2, 1, 3, 1, 2, 1, 3)]
    assert found[:7].tolist() == pytest.approx(expected)
    assert table.loc[7, ["predicted", "probability"]].isna().all()
    by_class = table.groupby("target").right.mean()
    assert (by_class["ant"], by_class["bee"]) == (2 / 6, 1.0)


def test_a_row_an_example_of_tags_and_of_numbers():
    table = iceprobe.frame(tags(), per="example")
    assert list(table) == [
        "label", "seed", "target.cat", "probability.cat", "target.label", "probability.label"
    ]  # fmt: skip
    assert table["target.label"].tolist() == pytest.approx([np.nan, 1, 0, 0] * 2, nan_ok=True)
    assert table["probability.cat"][:4].tolist() == pytest.approx(
        [1 / (1 + np.exp(-z)) for z in (0.0, -2.0, 1.0, 4.0)]
    )
    table = iceprobe.frame(numbers(), per="example")
    assert list(table)[2:] == ["target.age", "predicted.age", "target.size", "predicted.size"]
    assert table["target.size"][:4].tolist() == pytest.approx([np.nan, 5, 6, 9], nan_ok=True)
    assert table["predicted.size"].tolist() == [7, 5, 6, 9, 2.5, 3, 3, 3]
    mae = (table["predicted.age"] - table["target.age"]).abs().groupby(table.seed).mean()
    assert mae.tolist() == [0, 1]


def test_examples_of_several_runs_say_whose_they_are():
    other = classes().replaced(backbone="timm:other", seeds=[3, 5])
    table = iceprobe.frame([classes(), other], per="example")
    assert list(table)[:3] == ["backbone", "label", "seed"]
    assert table.groupby("backbone").seed.unique().map(list).to_dict() == {
        "bundled:mae-tiny": [0, 1],
        "timm:other": [3, 5],
    }


def test_records_are_arrays():
    found = iceprobe.records(classes())
    assert found.keys() == {
        "outputs", "targets", "names", "groups", "slice.site", "predicted", "logits", "probabilities",
    }  # fmt: skip
    assert found["names"].tolist() == NAMES
    assert found["predicted"].shape == (2, 4)
    logits = found["logits"].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-6)
    found = iceprobe.records(tags())
    assert "predicted" not in found
    np.testing.assert_allclose(
        found["probabilities"], 1 / (1 + np.exp(-found["logits"])), rtol=1e-6
    )
    assert found["targets"][0].tolist() == [1, 255]
    found = iceprobe.records(numbers())
    assert found.keys() == {"outputs", "targets", "predicted"}
    with pytest.raises(IceprobeError, match="no predictions of 'ep12' were kept"):
        iceprobe.records(result(files={}))


def test_probabilities_of_many_classes_are_those_of_the_highest():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 3, 50))
    best = np.argsort(-logits)[..., :20]
    total = np.log(np.exp(logits).sum(-1)).astype(np.float32)
    kept = Logits(
        np.take_along_axis(logits, best, -1).astype(np.float16), best.astype(np.int32), total
    )
    predictions = Predictions(np.zeros(3, int), best[..., 0].astype(np.int32), outputs=[kept])
    one = result(seeds=[0], metrics={"top1": Score.of([0.5])}).replaced(predictions=predictions)
    found = iceprobe.records(one)
    wanted = np.take_along_axis(
        np.exp(logits - np.log(np.exp(logits).sum(-1))[..., None]), best, -1
    )
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=2e-3)
    assert np.array_equal(found["classes"], best)
    table = iceprobe.frame(one, per="example")
    assert table.probability.tolist() == pytest.approx(wanted[0, :, 0].tolist(), rel=2e-3)
    assert table.predicted.tolist() == best[0, :, 0].tolist()  # without names of classes


def test_they_are_read_from_a_run(tmp_path):
    one = classes()
    write_predictions(tmp_path / "predictions.safetensors", {"ep2": one.predictions()})
    write_results(tmp_path, [one])
    again = read_results(tmp_path)
    table, other = (iceprobe.frame(found, per="example") for found in (one, again))
    pandas.testing.assert_frame_equal(table, other)
    assert iceprobe.frame(again).run[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: iceprobe.frame([classes()], per="image"), "unknown per 'image'"),
        (lambda: iceprobe.frame([classes(), result(files={})], per="example"), "no predictions"),
    ],
)
def test_what_is_wrong_is_one_line(call, said):
    with pytest.raises(IceprobeError, match=said) as seen:
        call()
    assert "\n" not in str(seen.value)


def test_without_pandas_the_extra_is_named(monkeypatch):
    real = importlib.import_module

    def without(name, *rest):
        if name == "pandas":
            raise ModuleNotFoundError(name="pandas")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(IceprobeError, match=r"pip install 'iceprobe\[pandas\]'"):
        iceprobe.frame([classes()])


def test_a_notebook_shows_a_table_of_results_in_which_names_are_text(tmp_path):
    bad = '<script>alert("x")</script>'
    one = result("ep4", backbone=bad, warnings=[bad])
    two = result("ep4", 0.5)
    page = Results([one, two])._repr_html_()
    assert bad not in page
    assert page.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;") == 2  # a cell and a note
    assert not re.search(r"src=|href=|url\(|<script", page)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells[0] == "ep4"
    assert cells[1] == "74.0 ± 1.4"
    assert one._repr_html_().count("<tr>") == 2
    assert Results()._repr_html_() == to_html([]) == ""
    write_results(tmp_path, [one])
    found = read_results(tmp_path)
    assert isinstance(found, list)
    assert found == [*found]
    assert "ep4" in found._repr_html_()
    mixed = to_html([classes(), tags(), numbers()])
    assert mixed.count("<table>") == 3


def test_a_notebook_without_html_gets_the_same_as_text():
    """What IPython itself makes of them: also what a saved notebook holds beside the HTML."""
    from IPython.lib.pretty import pretty

    results = Results(of_one_encoder())
    assert pretty(results) == to_markdown(results)
    advice = iceprobe.advise(results)
    assert pretty(advice) == str(advice)


def test_a_notebook_shows_what_is_advised_with_its_probes():
    results = [one.replaced(backbone="<b>mae</b>") for one in of_one_encoder()]
    advice = iceprobe.advise(results)
    page = advice._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;mae&lt;/b&gt; on " in page
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in page.split("<tr>")[2:]]
    said = {row[1]: (row[2], row[-1]) for row in rows}
    assert said["ep12"] == ("78.0", "undecided")  # none is shown to stand in for all others
    assert said["ep4"] == ("77.8", "undecided")
    assert said["knn"] == ("25.0", "")
    reported = iceprobe.advise([results[0], results[3]])._repr_html_()
    assert ">report</td>" in reported


def test_costs_are_those_of_the_whole_probe():
    one = result().replaced(
        parameters=Parameters(adapter=5, pooling=10, classifier=2, total=17),
        flops=Flops(per_image=9),
    )
    table = iceprobe.frame([one])
    assert (table.parameters[0], table.flops[0]) == (17, 9)
    assert dataclasses.is_dataclass(Predictions)


def test_readings_of_another_set_say_which_they_are_and_whether_they_are_masked():
    run = result(
        "ep2", metrics={"top1": Score.of([0.5])}, seeds=[0], folds=Score.of([0.25, 0.5, 0.9])
    )
    on = FittedOn(name="a", dataset=run.dataset, split="test", store=run.store)
    full = run.replaced(test_of=on, folds=None)
    masked = full.replaced(masked=True, metrics={"top1": Score.of([0.75])})
    table = iceprobe.frame([run, full, masked])
    assert table.test.fillna("").tolist() == ["", "a", "a"]
    assert table.masked.tolist() == [False, False, True]
    assert table.folds_mean[0] == pytest.approx(0.55)
    assert table.folds_sd[0] == pytest.approx(np.std([0.25, 0.5, 0.9], ddof=1))
    assert table.loc[1:, ["folds", "folds_mean", "folds_sd"]].isna().all(axis=None)
    # In a notebook and in Markdown as well.
    for text in (to_html([full, masked]), to_markdown([full, masked])):
        cells = re.findall(r"<td[^>]*>([^<]*)|\| ([^|]+) (?=\|)", text)
        assert [one for one in ("".join(c) for c in cells) if one in ("yes", "no")] == ["yes", "no"]
    predictions = classes().predictions()
    both = [one.replaced(predictions=predictions, seeds=[]) for one in (full, masked)]
    examples = iceprobe.frame(both, per="example")
    assert examples.masked.tolist() == ["no"] * 8 + ["yes"] * 8
