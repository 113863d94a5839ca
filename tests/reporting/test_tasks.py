"""The page of tags and of numbers: each section's numbers against formulas written here, or scikit-learn."""

import csv
import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from iceprobe.core.errors import IceprobeError
from iceprobe.reporting import report
from iceprobe.reporting.answers import Namer
from iceprobe.reporting.blocks import Context
from iceprobe.reporting.finding import find
from iceprobe.reporting.page import render
from iceprobe.reporting.slice_view import by_slice
from iceprobe.results import Predictions, to_csv, to_markdown
from iceprobe.results.building import scores_of
from iceprobe.results.predictions import Logits
from iceprobe.results.schema import Score
from iceprobe.tasks import get_task
from tests.reporting.conftest import make_result
from tests.reporting.test_page import Page, browser, section, shown

N, SEEDS = 300, 3
TAGS = ["cat", "<b>dog</b>", "never", "boat"]
NUMBERS = ["age", "weight"]
SITES = ["A & B", "<i>C</i>"]
SKILL = {"linear?input=mean": 0.6, "ep4": 2.0, "abmilp": 1.2}


def made(task: str, changed=None, **fields) -> list:
    """Three probes whose predictions are the truth and noise; EP4 has the least noise."""
    rng = np.random.default_rng(0)
    groups = np.arange(N) // 3
    slices = {"site": (np.arange(N) % 2, SITES)}
    if task == "multilabel":
        labels = (rng.random((N, 4)) < [0.3, 0.5, 0.0, 0.1]).astype(np.uint8)
        labels[::10, 0] = 255
        names = TAGS
    else:
        labels = np.stack([40 + 10 * rng.normal(size=N), 5000 + 800 * rng.normal(size=N)], 1)
        labels[::10, 1] = np.nan
        names = NUMBERS
    found = []
    for number, (label, skill) in enumerate(SKILL.items()):
        noise = np.random.default_rng(number + 1).normal(size=(SEEDS, N, labels.shape[1]))
        if task == "multilabel":
            z = (skill * (2.0 * (labels == 1) - 1) + noise).astype(np.float32)
            predictions = Predictions(labels, None, outputs=[Logits(z)])
        else:
            middle = np.nan_to_num(labels, nan=5000.0)
            p = middle + noise / skill * np.array([4.0, 300.0])
            predictions = Predictions(labels, p.astype(np.float32))
        predictions = replace(predictions, groups=groups, slices=slices)
        if changed is not None:
            predictions = changed(predictions)
        one, _ = make_result(label, 0.5)
        metrics = scores_of(predictions, task)
        of_task = {
            "task": task, "primary": {"multilabel": "map", "regression": "r2"}[task],
            "metrics": metrics, "classes": predictions.labels.shape[1],
            "class_names": names[: predictions.labels.shape[1]], "images": "same",
        }  # fmt: skip
        of_task |= {"units": ["years", "g"]} if task == "regression" else {}
        found.append(one.replaced(predictions=predictions, **of_task | fields))
    return found


@pytest.fixture(scope="module")
def tags() -> list:
    return made("multilabel")


@pytest.fixture(scope="module")
def numbers() -> list:
    return made("regression")


@pytest.fixture(scope="module")
def tags_page(tags) -> str:
    return render(tags, images=0)


@pytest.fixture(scope="module")
def numbers_page(numbers) -> str:
    return render(numbers, images=0)


def one_number(predictions: Predictions) -> Predictions:
    return replace(
        predictions, labels=predictions.labels[:, :1], predicted=predictions.predicted[..., :1]
    )


def cells(part: str) -> list[list[str]]:
    """Texts of the cells of each row of a table, its grey remark behind a bar."""
    found = []
    for row in re.findall(r"<tr>(.*?)</tr>", part.split("<tbody>")[1].split("</tbody>")[0], re.S):
        plain = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)
        texts = [re.sub(r'<span class="soft small">', "|", cell) for cell in plain]
        texts = [html.unescape(re.sub(r"<[^>]*>", "", text)) for text in texts]
        found.append([re.sub(r"\s*\|\s*", "|", text).strip() for text in texts])
    return found


def chart(page: str, key: str) -> dict:
    return json.loads(page.split(f'id="chart-{key}">')[1].split("</script>")[0])


def values(spec: dict, layer: int) -> list[dict]:
    part = spec["layer"][layer] if "layer" in spec else spec
    return part.get("data", spec.get("data"))["values"]


def test_the_headline_is_in_the_words_of_the_task(tags, numbers):
    best = tags[1].metrics["map"].mean
    linear = tags[0].metrics["map"].mean
    assert find(tags).sentence == (
        f"EP4 reads {100 * best:.1f} mAP where a linear probe reads {100 * linear:.1f} mAP."
    )
    r2 = [one.metrics["r2"].mean for one in numbers]
    assert find(numbers).sentence == (
        f"EP4 reads R² {r2[1]:.3f} where a linear probe reads R² {r2[0]:.3f}."
    )  # no error: a mean of years and grams is none
    (linear, ep, _) = made("regression", one_number, units=["years"], class_names=["age"])
    mae = [one.metrics["mae"].mean for one in (linear, ep)]
    assert find([linear, ep]).sentence == (
        f"EP4 reads R² {ep.score.mean:.3f} (off by {mae[1]:.2f} years on average) where a linear "
        f"probe reads R² {linear.score.mean:.3f} (off by {mae[0]:.2f} years)."
    )
    leading = made("regression", one_number, units=["years"], class_names=["age"], primary="mae")
    assert find(leading).sentence.startswith(f"EP4 reads MAE {mae[1]:.2f} years where a linear")
    table = section(render(leading, images=0), "leaderboard")
    headings = re.findall(r'<button type="button">(.*?)</button>', table)
    assert headings[1:4] == ["MAE, years, headline", "R²", "RMSE, years"]


def test_sections_of_a_task_are_those_of_its_table(tags_page, numbers_page):
    def sections(page: str) -> list[str]:
        return re.findall(r'<section id="(\w+)">', page)

    common = ["leaderboard", "cost", "differences", "metrics", "slices"]
    end = ["disputed", "training", "provenance"]
    assert sections(tags_page) == [*common, "tags", "curves", "together", "calibration", *end]
    assert sections(numbers_page) == [*common, "numbers", "predicted", *end]
    for page in (tags_page, numbers_page):
        assert "accura" not in page.split("<body>")[1].split("</main>")[0].lower()
        assert "100 groups of test images" in section(page, "leaderboard")
    assert "4 tags" in tags_page
    assert "age, years · weight, g" in numbers_page


def test_names_from_data_are_text(tags_page):
    page = Page(tags_page)
    assert sum(tag == "script" for tag, _ in page.elements) == 3 + tags_page.count('id="chart-')
    body = tags_page.split("<body>")[1]
    assert "<b>dog" not in body
    assert "<i>C" not in body
    assert html.escape(TAGS[1]) in section(tags_page, "tags")
    assert html.escape(SITES[1]) in section(tags_page, "slices")


def test_each_tag_has_the_numbers_of_scikit_learn(tags, tags_page):
    found = section(tags_page, "tags")
    (table,) = found.split("<table")[1:]
    rows = {row[0]: row for row in cells("<table" + table)}
    assert set(rows) == {"cat", "<b>dog</b>", "boat"}
    predictions = tags[1].predictions()
    p = expit(predictions.logits().values.astype(np.float64))
    for k, name in enumerate(TAGS):
        if name == "never":
            continue
        known = predictions.labels[:, k] != 255
        y = predictions.labels[known, k]
        ap, auroc, f1 = (
            100 * np.mean([measure(y, one[known, k]) for one in p])
            for measure in (
                average_precision_score,
                roc_auc_score,
                lambda y, p: f1_score(y, p >= 0.5),
            )
        )
        _, positives, count, mine, area, f = rows[name]
        assert positives == f"{y.sum()}|{100 * y.mean():.1f}%"
        assert count == str(known.sum())
        assert mine.split("|")[0] == f"{ap:.1f}"
        low, high = map(float, mine.split("|")[1].split(" to "))
        assert low < ap < high
        assert (area, f) == (f"{auroc:.1f}", f"{f1:.1f}")
    assert [row[0] for row in cells("<table" + table)] == sorted(
        rows, key=lambda name: float(rows[name][3].split("|")[0])
    )
    assert "Left out of the means over tags, 1 of 4 tags, without any test image: never." in found


def test_curves_of_tags_end_where_they_should(tags, tags_page):
    predictions = tags[1].predictions()
    z = predictions.logits().values[0]
    known = predictions.labels[:, 0] != 255
    y = predictions.labels[known, 0]
    rows = values(chart(tags_page, "roc-0"), 1)
    series = list(dict.fromkeys(row["series"] for row in rows))
    assert len(series) == 3
    assert series[0] == f"cat  {100 * roc_auc_score(y, z[known, 0]):.1f}"
    mine = [(row["x"], row["y"]) for row in rows if row["series"] == series[0]]
    assert (mine[0], mine[-1]) == ((0, 0), (100, 100))
    rows = values(chart(tags_page, "precision-0"), 0)
    first = next(row["series"] for row in rows)
    assert first == f"cat  {100 * average_precision_score(y, z[known, 0]):.1f}"
    last = [row for row in rows if row["series"] == first][-1]
    assert last["x"] == 100
    lowest = z[known, 0][y == 1].min()
    assert last["y"] == pytest.approx(100 * y[z[known, 0] >= lowest].mean(), abs=0.01)


def test_tags_with_hardly_a_positive_have_no_curve():
    def rare(predictions):
        labels = predictions.labels.copy()
        labels[np.flatnonzero(labels[:, 3] == 1)[9:], 3] = 0
        return replace(predictions, labels=labels)

    page = render(made("multilabel", changed=rare), images=0)
    series = {row["series"].split("  ")[0] for row in values(chart(page, "roc-0"), 1)}
    assert series == {"cat", "<b>dog</b>"}
    assert "Not drawn: 1 tag with fewer than 10 positive or negative images." in page


def test_tags_that_come_together_are_counted(tags, tags_page):
    predictions = tags[1].predictions()
    labels = predictions.labels
    called = expit(predictions.logits().values) >= 0.5
    known = (labels[:, 0] != 255) & (labels[:, 1] != 255)
    for key, have in (("true", [labels == 1]), ("called", called)):
        rows = values(chart(tags_page, f"together-{key}-0"), 0)
        cell = next(r for r in rows if (r["given"], r["other"]) == ("cat", "<b>dog</b>"))
        share = np.mean([one[known & one[:, 0], 1].mean() for one in have])
        assert cell["share"] == f"{100 * share:.1f}%"


def test_tags_have_a_reliability_diagram(tags, tags_page):
    rows = values(chart(tags_page, "reliable-0-0"), 1)
    assert len(rows) == 15
    known = tags[1].predictions().labels != 255
    assert {row["cells"] for row in rows} == {f"{known.sum() / 15:,.0f}"}


def test_each_number_has_the_numbers_of_scikit_learn(numbers, numbers_page):
    found = section(numbers_page, "numbers")
    tables = ["<table" + part for part in found.split("<table")[1:]]
    assert len(tables) == 1 + 2
    predictions = numbers[1].predictions()
    for k, row in enumerate(cells(tables[0])):
        known = np.isfinite(predictions.labels[:, k])
        y, p = predictions.labels[known, k], predictions.predicted[:, known, k].astype(np.float64)
        r2 = np.mean([r2_score(y, one) for one in p])
        mae = np.mean([mean_absolute_error(y, one) for one in p])
        assert row[0] == ["age, years", "weight, g"][k]
        assert row[1] == str(known.sum())
        assert row[3].split("|")[0] == f"{r2:.3f}"
        low, high = map(float, row[3].split("|")[1].split(" to "))
        assert low < r2 < high
        assert float(row[4]) == pytest.approx(mae, rel=6e-3)
        errors = np.abs(p - y)
        ep = next(row for row in cells(tables[1 + k]) if row[0] == "EP4")
        cuts = np.quantile(errors, [0.5, 0.75, 0.9, 0.95], axis=1).mean(1)
        assert [float(cell) for cell in ep[1:5]] == pytest.approx(cuts.tolist(), rel=6e-3)
        assert float(ep[5]) == pytest.approx(errors.max(1).mean(), rel=6e-3)
    assert "Absolute error of age, years" in found


def test_an_output_of_which_no_test_value_is_known_has_dashes_and_the_reason():
    def unknown(predictions: Predictions) -> Predictions:
        labels = predictions.labels.copy()
        labels[:, 1] = 255 if labels.dtype == np.uint8 else np.nan
        return replace(predictions, labels=labels)

    results = made("regression", unknown)
    page = render(results, images=0)
    found = section(page, "numbers")
    tables = ["<table" + part for part in found.split("<table")[1:]]
    age, weight = cells(tables[0])
    assert age[3].split("|")[0] == f"{results[1].metrics['r2'].mean:.3f}"
    assert weight == ["weight, g", "0", *["–"] * 6]
    assert (
        "Left out of the means over numbers, 1 of 2 numbers, of which no test image has a known value: weight."
        in found
    )
    assert len(tables) == 2  # a table of errors, of age alone
    assert 'id="chart-true-1-0"' not in page
    found = section(render(made("multilabel", unknown), images=0), "tags")
    assert [row[0] for row in cells(found)] == ["boat", "cat"]
    said = [html.unescape(one) for one in re.findall(r'<p class="soft">(.*?)</p>', found)]
    assert said == [
        "Left out of the means over tags, 1 of 4 tags, of which nothing is known of any test image: <b>dog</b>.",
        "Left out of the means over tags, 1 of 4 tags, without any test image: never.",
    ]


def test_a_number_with_one_known_value_has_errors_and_no_correlation():
    def single(predictions: Predictions) -> Predictions:
        labels = predictions.labels.copy()
        labels[np.arange(N) != 7, 1] = np.nan
        return replace(predictions, labels=labels)

    results = made("regression", single)
    found = section(render(results, images=0), "numbers")
    weight = cells("<table" + found.split("<table")[1])[1]
    predictions = results[1].predictions()
    error = np.abs(predictions.predicted[:, 7, 1] - predictions.labels[7, 1]).mean()
    assert [weight[3], *weight[6:]] == ["–"] * 3
    assert [float(cell) for cell in weight[4:6]] == pytest.approx([error] * 2, rel=6e-3)
    assert (
        "Left out of R² and correlations, 1 of 2 numbers, whose known values of test images are all the same: "
        "weight." in found
    )


def test_predicted_is_drawn_against_true(numbers, numbers_page):
    predictions = numbers[1].predictions()
    rows = values(chart(numbers_page, "true-0-0"), 0)
    assert len(rows) == N
    assert rows[7]["x"] == pytest.approx(predictions.labels[7, 0])
    assert rows[7]["y"] == pytest.approx(float(predictions.predicted[0, 7, 0]))
    spec = chart(numbers_page, "error-1-0")
    rows = values(spec, 0)
    assert len(rows) == np.isfinite(predictions.labels[:, 1]).sum()
    known = int(np.flatnonzero(np.isfinite(predictions.labels[:, 1]))[5])
    error = predictions.predicted[0, known, 1] - predictions.labels[known, 1]
    assert rows[5]["y"] == pytest.approx(float(error))
    assert spec["layer"][0]["encoding"]["x"]["title"] == "True weight, g"


def test_many_examples_are_a_density():
    rng = np.random.default_rng(0)

    def many(_: Predictions) -> Predictions:
        labels = rng.normal(size=(4000, 1))
        predicted = (labels + rng.normal(size=(2, 4000, 1))).astype(np.float32)
        predicted[0, 0] = 3e38  # of a member that diverged: no axis goes so far
        return Predictions(labels, predicted[:1])

    one = made("regression", many, class_names=["x"], units=[], seeds=[0])[1]
    page = render([one], images=0)
    rows = values(chart(page, "true-0-0"), 0)
    assert 3900 < sum(row["images"] for row in rows) < 4000
    assert max(row["y2"] for row in rows) < 20
    assert len(page) < 1_500_000


def test_slices_are_scored_alone_and_the_worst_is_named(tags, tags_page):
    found = section(tags_page, "slices")
    codes = np.arange(N) % 2
    predictions = tags[1].predictions()
    rows = values(chart(tags_page, "slice-0-0"), 1)
    scores = {}
    for code, site in enumerate(SITES):
        mine = codes == code
        expected = scores_of(predictions.rows(mine), "multilabel")["map"]
        row = next(
            r for r in rows if r["probe"] == "EP4" and r["value"] == f"{site} ({mine.sum()})"
        )
        assert row["score"] == pytest.approx(100 * expected.mean)
        scores[site] = expected.mean
    worst = min(scores, key=scores.__getitem__)
    sentence = html.unescape(found)
    assert (
        f"EP4 reads {100 * scores[worst]:.1f} where site is {worst} ({(codes == 0).sum() if worst == SITES[0] else (codes == 1).sum()}"
        in sentence
    )
    assert "mAP over all" in sentence


def test_the_worst_is_one_of_those_that_can_be_trusted():
    def sites(*ends: int):
        codes, names = np.searchsorted(ends, np.arange(N), side="right"), ["a", "b", "few", "d"]
        return lambda one: replace(one, groups=None, slices={"site": (codes, names)})

    def sentences(*ends: int) -> str:
        found = section(render(made("regression", sites(*ends)), images=0), "slices")
        return html.unescape(found)

    three = sentences(100, 290)
    assert "its worst of the 3 values, and R²" in three
    assert "its worst of the 2 values whose interval can be trusted, and R²" in sentences(100, 295)
    assert "its worst" not in sentences(295)


def test_slices_of_predictions_without_the_metric_are_refused(tags):
    kept = replace(tags[1].predictions(), outputs=[])  # as of a run of an early version
    context = Context([tags[1].replaced(predictions=kept)], 0, {"ep4": "#000"}, 0, lambda one: None)
    with pytest.raises(IceprobeError, match="mAP can't be computed from what was kept: fit it"):
        by_slice(context)


def test_folds_are_drawn_beside_the_score_of_all(tags):
    folded = [
        one.replaced(folds=Score.of([0.5, 0.6, 0.7]), protocol="folds", split="folds")
        for one in tags
    ]
    page = render(folded, images=0)
    found = section(page, "folds")
    assert "fitted on the other 2 of 3 folds" in found
    (table,) = found.split("<table")[1:]
    row = next(row for row in cells("<table" + table) if row[0] == "EP4")
    assert row[1].startswith(f"{100 * tags[1].score.mean:.1f} ±")
    assert row[2:] == ["60.0 ± 10.0", "50.0", "70.0"]
    small = values(chart(page, "folds-0"), 2)
    assert [r["score"] for r in small if r["probe"] == "EP4"] == pytest.approx([50, 60, 70])


def test_the_examples_on_which_two_probes_differ_most(tags, tags_page, numbers, numbers_page):
    found = section(tags_page, "disputed")
    assert "EP4 against AbMILP, the best attentive probe that is no EP" in found
    ep, other = (one.predictions() for one in (tags[1], tags[2]))
    known = ep.labels != 255
    y = ep.labels == 1

    def loss(one: Predictions) -> np.ndarray:
        p = expit(one.logits().values.astype(np.float64))
        each = -np.log(np.where(y, p, 1 - p))
        return np.where(known, each, 0).sum(-1) / known.sum(1)

    apart = loss(other) - loss(ep)
    gap = apart.mean(0)
    gap = np.where(np.sign(apart[0]) == np.sign(gap), gap, 0.0)
    first, second = found.split("<table")[1:]
    assert [row[0] for row in cells("<table" + first)] == [
        f"number {row}" for row in np.argsort(-gap, kind="stable")[:5]
    ]
    assert [row[0] for row in cells("<table" + second)] == [
        f"number {row}" for row in np.argsort(gap, kind="stable")[:5]
    ]
    row = int(np.argsort(-gap, kind="stable")[0])
    namer = Namer(get_task("multilabel"), TAGS)
    mine = cells("<table" + first)[0]
    assert mine[1] == namer.label(ep.labels[row])
    assert mine[2] == namer.read(expit(ep.logits().values[0, row].astype(np.float64)))
    found = section(numbers_page, "disputed")
    deviation = np.nanstd(numbers[1].predictions().labels, 0)
    of = [
        np.nanmean(np.abs(one.predictions().predicted - one.predictions().labels) / deviation, -1)
        for one in (numbers[1], numbers[2])
    ]
    gap = of[1].mean(0) - of[0].mean(0)
    first = "<table" + found.split("<table")[1]
    assert cells(first)[0][0] == f"number {np.argmax(gap)}"
    namer = Namer(get_task("regression"), NUMBERS, ["years", "g"])
    assert cells(first)[0][1] == namer.label(numbers[1].predictions().labels[np.argmax(gap)])


def test_every_metric_is_in_a_table(tags, tags_page):
    found = section(tags_page, "metrics")
    rows = {row[0]: row for row in cells(found)}
    assert len(rows) == len(tags[0].metrics)
    score = tags[1].metrics["f1_micro"]
    low, high = score.interval
    assert rows["Micro-F1 %"][1].startswith(
        f"{100 * score.mean:.1f} ± {100 * score.sd:.1f}|{100 * low:.1f} to {100 * high:.1f}"
    )
    assert "† " not in found  # no interval is in doubt
    assert rows["Micro-F1 %"][-1] == "F1 at probability 0.5 of the cells of all tags"


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_nothing_breaks_without_predictions(task):
    results = [
        one.replaced(files=one.files.model_copy(update={"predictions": None})) for one in made(task)
    ]
    for one in results:
        one._predictions = None
    page = render(results, images=4)
    assert "no paired interval" in page
    for name in ("tags", "numbers", "slices", "curves", "disputed", "confusion"):
        assert f'<section id="{name}">' not in page


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_pictures_that_cannot_be_found_are_said_once(task):
    page = render(made(task), images=4)
    assert section(page, "disputed").count("Without pictures, ") == 1
    assert "EP4: no maps, " in section(page, "attention")


def test_tables_have_the_metrics_of_the_task(tags, numbers):
    rows = list(csv.DictReader(io.StringIO(to_csv(numbers))))
    names = list(rows[0])
    assert names[:9] == ["probe", "r2", "sd", "low", "high", "mae", "rmse", "pearson", "spearman"]
    assert "per_class_low" not in names
    assert "top1" not in names
    assert [row["probe"] for row in rows] == ["ep4", "abmilp", "linear?input=mean"]
    best = numbers[1]
    assert float(rows[0]["r2"]) == best.metrics["r2"].mean
    assert float(rows[0]["low"]) == best.metrics["r2"].interval[0]
    leading = [one.replaced(primary="auroc") for one in tags]
    rows = list(csv.DictReader(io.StringIO(to_csv(leading))))
    assert list(rows[0])[:6] == ["probe", "auroc", "sd", "low", "high", "map"]
    ep = next(row for row in rows if row["probe"] == "ep4")
    assert float(ep["high"]) == tags[1].metrics["auroc"].interval[1]
    assert float(ep["sd"]) == tags[1].metrics["auroc"].sd
    head, _, first, *_ = to_markdown(numbers).splitlines()
    assert head.startswith("| probe | R² | 95% interval |")
    assert first.startswith(f"| ep4 | {best.score.mean:.3f} ± ")
    assert to_markdown(tags).splitlines()[0].startswith("| probe | mAP % | 95% interval |")


def test_a_report_is_of_one_task(tags, numbers, tmp_path):
    with pytest.raises(IceprobeError, match="of the tasks multilabel and regression in one report"):
        report([*tags, *numbers], tmp_path / "r.html")


@browser
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_in_a_browser_every_chart_is_drawn(task, tags_page, numbers_page, tmp_path):
    page = {"multilabel": tags_page, "regression": numbers_page}[task]
    dom, log = shown(page, tmp_path)
    assert ">This chart could" not in dom
    assert "Uncaught" not in log
    assert dom.count('class="marks"') == page.count('class="chart"')


def test_an_interval_that_cannot_be_trusted_is_told():
    def few(predictions: Predictions) -> Predictions:
        labels = predictions.labels.copy()
        labels[:, 3] = 0
        labels[5:9, 3] = 1
        return replace(predictions, labels=labels)

    page = render(made("multilabel", few), images=0)
    said = "the interval can&#39;t be trusted: 4 examples of the rarest outcome"
    assert f"mAP: {said}." in section(page, "leaderboard")
    assert f"† mAP: {said}." in section(page, "metrics")
