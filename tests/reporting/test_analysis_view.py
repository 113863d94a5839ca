"""The page of a run that was analysed: tables, charts, example maps and parts."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from iceprobe.analysis import Analysis, Correlation, Estimate, Predictor, Shortcut
from iceprobe.analysis.files import read_analyses, write_analyses
from iceprobe.analysis.schema import HEADS
from iceprobe.cli.analyze import _of_probes, _points
from iceprobe.core.errors import IceprobeError
from iceprobe.reporting import report
from iceprobe.reporting.pictures import SIDE, part_uris
from iceprobe.results.tables import tenths
from tests.reporting.conftest import FakeStore, make_run
from tests.reporting.test_page import Page, browser, section, shown
from tests.reporting.test_parts import opened

LABELS = {"linear": 0.5, "ep32": 0.8, "aim4": 0.7}


def estimate(mean: float) -> Estimate:
    return Estimate(mean, (mean - 0.01, mean + 0.02))


def made(probe: str, predictors: int, seeds: list[int], **changed) -> Analysis:
    """An analysis whose predictor j has importance 1 − j/100 and mass in box j/100."""
    rows = [
        Predictor(
            seed=seed,
            predictor=j,
            importance=estimate((100 - j) / 1000),
            entropy=estimate(0.5),
            centroid_in_box=estimate(0.6),
            mass_in_box=estimate(j / 100),
            mass_in_mask=None,
            prefix_share=0.0,
        )
        for j in range(1, predictors + 1)
        for seed in seeds or [0]
    ]
    one = Analysis(
        probe=probe,
        store=FakeStore.identity,
        split="test",
        images=400,
        images_with_box=400,
        images_with_mask=0,
        seeds=seeds,
        accuracy=estimate(0.8),
        entropy=estimate(0.55),
        centroid_in_box=estimate(0.6),
        mass_in_box=estimate(0.3),
        mass_in_mask=None,
        prefix_share=0.0,
        uniform={"mass_in_box": 0.123, "centroid_in_box": 0.456},
        complementarity={"cosine": estimate(0.61), "intersection": estimate(0.72)},
        max_box_accuracy={"0.3": 0.5, "0.5": 0.4, "0.7": 0.3, "mean": 0.4},
        recall={"1": estimate(0.5), "5": estimate(0.9)},
        correlation={"mass_in_box": Correlation(-0.97, (-1.0, -0.9), 96)},
        predictors=rows,
    )
    return replace(one, **changed)


def several() -> list[Analysis]:
    shortcut = Shortcut("mean colour", 400, estimate(0.8), estimate(0.67), estimate(0.13))
    heads = dict(accuracy=None, recall={}, correlation={})
    return [
        made("aim4", 4, [0, 1, 2], correlation={}),
        made("ep32", 32, [0, 1, 2], shortcut=shortcut),
        made(HEADS, 3, [], **heads),
        made("clip4", 4, [0, 1, 2]),  # not in this run any more
        made("linear", 4, [0]),  # fitted again since, with other seeds
    ]


@pytest.fixture(scope="module")
def analyses() -> list[Analysis]:
    return several()


@pytest.fixture(scope="module")
def text(analyses, store, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("analysed")
    results = make_run(folder, store, chosen=LABELS)
    write_analyses(folder, analyses)
    return report(results, folder / "r.html").read_text()


def test_what_is_written_is_read(analyses, tmp_path):
    assert read_analyses(tmp_path) == []
    write_analyses(tmp_path, analyses)
    assert read_analyses(tmp_path) == analyses
    for broken in ("{", '{"format": 9, "analyses": []}', '{"format": 1, "analyses": [{}]}'):
        (tmp_path / "analysis.json").write_text(broken)
        with pytest.raises(IceprobeError, match=r"analysis.json can't be read .*: run iceprobe"):
            read_analyses(tmp_path)


def test_probes_stand_side_by_side_with_what_uniform_attention_scores(text):
    table = section(text, "analysis").split("</table>")[0]
    names = re.findall(r'<span class="probe">(.*?)</span>', table)
    assert names == ["EP32", "AIM4", "backbone’s heads"]  # the reference EP first, heads last
    assert '30.0 <span class="soft">12.3</span>' in table
    assert '60.0 <span class="soft">45.6</span>' in table
    for number in ("0.55", "40.0", "0.61", "0.72", "50.0", "90.0"):
        assert f">{number}</td>" in table
    assert ">+13.0</td>" in table
    assert 'title="95% interval 29.0 to 32.0"' in table


def test_a_share_is_rounded_alike_in_every_table(store, tmp_path):
    """1,513 of 2,000 is 75.65%, whose product with 100 is a hair below: the leaderboard's 75.7."""
    share = 0.7565
    assert (f"{100 * share:.1f}", tenths(share)) == ("75.6", "75.7")
    one = made(
        "ep32", 32, [0, 1, 2],
        accuracy=estimate(share), mass_in_box=estimate(share), recall={"1": estimate(share)},
        max_box_accuracy={"mean": share}, uniform={"mass_in_box": share, "centroid_in_box": 0.4},
    )  # fmt: skip
    seen = "75.7% (75.7%)"
    assert _of_probes([one]).rows[0][1:] == [
        "75.7%", "60.0% (40.0%)", seen, "–", "0.55", "0.61 / 0.72", "75.7%", "75.7%",
    ]  # fmt: skip
    assert _points(estimate(-share)) == "−75.7 [−76.7, −73.7]"
    results = make_run(tmp_path, store, chosen=LABELS)
    write_analyses(tmp_path, [one])
    page = report(results, tmp_path / "r.html").read_text()
    row = section(page, "analysis").split("</table>")[0]
    assert row.count("75.7") == 4
    assert "75.6" not in row


def test_predictors_are_sorted_by_importance_with_example_maps(text):
    found = section(text, "analysis")
    first = found.split("<details")[1]
    assert "EP32: predictors by importance" in first
    assert "96 over 3 seeds" in first
    importances = [float(one) for one in re.findall(r"<b>\+([\d.]+)</b>", first)]
    assert importances == sorted(importances, reverse=True)
    assert len(importances) == 13
    assert "83 between them" in first
    assert first.count("<img") == 6 * (1 + 13)
    assert 'alt="predictor 32 of seed 2 on ' in first
    assert "AIM4: predictors by importance" in found


def test_the_scatter_holds_every_predictor_and_the_correlation(text):
    found = section(text, "analysis")
    assert "EP32 −0.97 [−1.00, −0.90] over 96; AIM4 – (12 predictors" in found
    spec = json.loads(text.split('id="chart-importance-0-0">')[1].split("</script>")[0])
    rows = next(
        layer["data"]["values"] for layer in spec["layer"] if len(layer["data"]["values"]) > 1
    )
    assert len(rows) == 96 + 12
    aim = sorted((row["x"], row["y"]) for row in rows if row["probe"] == "AIM4")
    np.testing.assert_allclose(aim[::3], [(j, (100 - j) / 10) for j in (1, 2, 3, 4)])


def test_parts_are_drawn_on_a_grid_of_images(text):
    found = section(text, "analysis").split("Parts that EP32 looks at")[1]
    assert found.count('alt="parts of ') == 27
    assert sum(map(int, re.findall(r"(\d+) predictors?</span>", found))) == 32


def test_a_run_that_was_not_analysed_names_the_command(store, tmp_path):
    folder = tmp_path / "<b>run"
    results = make_run(folder, store, chosen={"linear": 0.5, "ep4": 0.7})
    page = report(results, tmp_path / "r.html", images=2).read_text()
    assert f"<code>iceprobe analyze {html.escape(str(folder))}</code> adds" in page
    assert '<section id="analysis">' not in page


def test_a_part_is_painted_in_its_colour_where_it_is_strong():
    import torch

    parts = torch.full((1, 2, 4, 4), 0.01)
    parts[0, 0, 0, 0] = parts[0, 1, 3, 3] = 0.85
    (uri,) = part_uris([Image.new("L", (56, 56), 0)], parts, ["#ff0000", "#0000ff"])
    picture = opened(uri)
    cell = SIDE // 4
    red, blue = picture[: cell // 2, : cell // 2], picture[-cell // 2 :, -cell // 2 :]
    assert red[..., 0].mean() > 120 > 60 > red[..., 2].mean()
    assert blue[..., 2].mean() > 120 > 60 > blue[..., 0].mean()
    assert np.abs(picture[2 * cell :, :cell]).max() < 45


@browser
def test_in_a_browser_its_charts_are_drawn_and_nothing_complains(text, tmp_path):
    dom, log = shown(text, tmp_path)
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []
    assert dom.count('class="marks"') == 7
    assert any("<script>alert(1)</script>" in piece for piece in Page(dom).text)
