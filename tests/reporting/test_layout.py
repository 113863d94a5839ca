"""Nothing covers anything: names in charts, and tables on narrow pages and on paper."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from iceprobe.reporting.labels import Box, place_labels, text_width
from iceprobe.reporting.page import render
from iceprobe.reporting.template import parted
from iceprobe.results import FittedResult, StoreReference, write_curves
from tests.reporting.conftest import _curves, make_result
from tests.reporting.test_page import Page, browser, shown

SIZE = (478, 330)
BACKBONES = {
    "bundled:mae-tiny": 0.0,
    "timm:vit_base_patch14_reg4_dinov2.lvd142m": 0.06,
    "transformers:facebook/dinov2-with-registers-base?layer=11": 0.06,
}
#: Of equal accuracy: EP4, EP32 and AIM4; of equal cost: the linear probes.
PROBES = {
    "knn": 0.46, "linear?input=class": 0.52, "linear?input=mean": 0.56, "mean_value": 0.60,
    "ep4": 0.75, "ep32": 0.75, "ep48?out_dim=96": 0.83, "aim4": 0.75,
}  # fmt: skip
CLASSES = ["Boeing_" + "7" * 60, "a name of many words that goes on and on", *"cdefg"]


def campaign(run: Path) -> list[FittedResult]:
    """Three backbones under eight probes, two of them equal throughout."""
    results: list[FittedResult] = []
    curves = [_curves(label, accuracy, "heldout") for label, accuracy in PROBES.items()]
    write_curves(run, [row for rows in curves for row in rows])
    for label, accuracy in PROBES.items():
        for backbone, more in BACKBONES.items():
            one, predictions = make_result(label, accuracy + more)
            store = StoreReference(path=None, identity=f"{len(backbone):016d}")
            fields = {"backbone": backbone, "class_names": CLASSES, "store": store}
            results.append(one.replaced(predictions=predictions, run=run, **fields))
    return results


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return render(campaign(tmp_path_factory.mktemp("run")), images=0)


def cases():
    rng = np.random.default_rng(0)
    names = ["EP12 (without Wᵥ)", "linear (mean)", "AIM4", "k-NN", "EP48 (out_dim=96)", "WWW @ mm"]
    yield "spread", [tuple(p) for p in rng.uniform(30, 300, (9, 2))], ["EP12 (without Wᵥ)"] * 9
    yield "one place", [(239.0, 165.0)] * 14, [f"EP{n}" for n in range(14)]
    yield "at the edge", [(478.0, 0.0), (0.0, 330.0), (0.0, 0.0)] * 3, names[:3] * 3
    yield "a column", [(400.0, 20.0 + 9 * n) for n in range(30)], (names * 5)
    yield "a row", [(10.0 + 16 * n, 160.0) for n in range(28)], (names * 5)[:28]
    yield "too long", [(239.0, 165.0)], ["timm:vit_base_patch14_reg4_dinov2.lvd142m" * 2]
    for seed in range(5):
        near = np.random.default_rng(seed).normal((240, 160), 25, (24, 2))
        yield f"cluster {seed}", [tuple(p) for p in near], names * 4


@pytest.mark.parametrize(("points", "texts"), [c[1:] for c in cases()], ids=[c[0] for c in cases()])
def test_labels_cover_neither_each_other_nor_the_marks(points, texts):
    bars = [Box(x - 2, y - 20, x + 2, y + 20) for x, y in points]
    centres = place_labels(points, texts, bars, SIZE)
    boxes = []
    for text, centre in zip(texts, centres, strict=True):
        if centre is not None:
            (x, y), half = centre, text_width(text) / 2
            boxes.append(Box(x - half, y - 6.5, x + half, y + 6.5))
    marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for i, box in enumerate(boxes):
        assert box.within(*SIZE)
        assert not any(box.overlaps(other) for other in [*boxes[:i], *bars, *marks])
    assert len(boxes) >= min(len(texts), 3) or texts[0].startswith("timm:")


def test_a_spec_breaks_behind_its_separators_and_is_escaped():
    assert str(parted("timm:vit_b16.mae?a=<b>")) == (
        "timm:<wbr>vit_<wbr>b16.<wbr>mae?<wbr>a=&lt;b&gt;"
    )


def test_backbones_of_equal_rank_stand_side_by_side_with_one_number(text):
    spec = json.loads(text.split('id="chart-rank-0">')[1].split("</script>")[0])
    rows = spec["data"]["values"]
    places: dict[tuple[str, int], list[dict]] = {}
    for row in rows:
        places.setdefault((row["probe"], row["rank"]), []).append(row)
    assert sum(len(equal) > 1 for equal in places.values()) == len(PROBES)
    for equal in places.values():
        assert len({row["at"] for row in equal}) == len(equal)
        assert sum(bool(row["short"]) for row in equal) == 1
        assert {row["at"] // 1 for row in equal} == {equal[0]["rank"]}


MEASURE = """<script>
  setTimeout(() => {
    const box = (one) => { const b = one.getBoundingClientRect();
      return [one.textContent, b.left, b.top, b.right, b.bottom, b.width]; };
    const wide = [...document.querySelectorAll(".scroll, .chart, main, body, table")]
      .filter((one) => one.scrollWidth > one.clientWidth + 1)
      .map((one) => [one.tagName, one.className, one.scrollWidth, one.clientWidth]);
    document.body.dataset.seen = JSON.stringify({
      width: document.documentElement.clientWidth,
      page: document.documentElement.scrollWidth,
      wide,
      charts: [...document.querySelectorAll(".chart svg.marks")].map((svg) =>
        [...svg.querySelectorAll("text")].filter((one) => one.textContent).map(box)),
      cells: [...document.querySelectorAll("#leaderboard tbody tr:first-child > *")].map(box),
      headings: [...document.querySelectorAll("#leaderboard thead th")].map((one) => one.offsetWidth),
      names: [...document.querySelectorAll("#leaderboard tbody tr:first-child > *")]
        .map((one) => one.dataset.name ?? ""),
    });
  }, 3000);
</script></body>"""


def measured(text: str, tmp_path: Path, width: int) -> dict:
    """What a browser makes of a page, without the policy that lets only our own scripts run."""
    copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    head, _, tail = copy.rpartition("</body>")  # the charts' engine has one too
    dom, _ = shown(head + MEASURE + tail, tmp_path, width=width)
    body = next(attributes for tag, attributes in Page(dom).elements if tag == "body")
    return json.loads(body["data-seen"])


@browser
def test_in_a_browser_no_two_texts_of_a_chart_overlap(text, tmp_path):
    seen = measured(text, tmp_path, 1400)
    assert seen["wide"] == []
    charts = seen["charts"]
    assert len(charts) == 1 + 2 + 3 + 2  # ranks, costs, confusions, curves and rates
    for texts in charts:
        # A text over its own white edge is one text.
        distinct = {(words, *map(round, box)): box for words, *box in texts}
        placed = [(key[0], Box(*box[:4])) for key, box in distinct.items()]
        slanted = {words for words, box in placed if box.bottom - box.top > 20}
        for i, (words, box) in enumerate(placed):
            inner = Box(box.left + 0.5, box.top + 2, box.right - 0.5, box.bottom - 2)
            for others, other in placed[:i]:
                if not {words, others} & slanted:  # a slanted text is less than its box
                    assert not inner.overlaps(other), (words, others)
    words = [one[0] for one in charts[0]]
    assert {"EP4", "EP32", "EP48 (out_dim=96)", "linear (class)"} <= set(words)
    for cost in charts[1:3]:
        assert {"EP48 (out_dim=96)", "AIM4", "EP4", "EP32"} <= {one[0] for one in cost}


@browser
def test_in_a_browser_a_narrow_page_shows_every_number_without_scrolling(text, tmp_path):
    seen = measured(text, tmp_path, 500)
    assert seen["width"] <= 500
    assert seen["page"] <= seen["width"]
    assert seen["wide"] == []
    assert seen["names"] == [
        "", "Backbone", "Top-1 %", "95% interval", "Top-5 %", "Per class %", "Parameters", "FLOPs",
        "Time",
    ]  # fmt: skip
    for words, left, _, right, _, _ in seen["cells"]:
        assert left >= 0, words
        assert right <= seen["width"], words


@browser
def test_in_a_browser_paper_has_every_column(text, tmp_path):
    printed = text.replace("@media print", "@media screen").replace(
        "@media screen and", "@media no"
    )
    seen = measured(printed, tmp_path, 1047)  # A4 on its side, less the margins
    assert seen["wide"] == []
    assert seen["page"] <= seen["width"]
    assert len(seen["headings"]) == 9
    assert min(seen["headings"]) > 20
