"""The page, as text and in a real browser."""

import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.reporting import report
from iceprobe.reporting.confusion_view import class_names
from iceprobe.reporting.disagreement_view import chosen_pair
from iceprobe.reporting.page import render
from iceprobe.results import Files, Predictions, read_results
from iceprobe.results.building import scores_of
from tests.reporting.conftest import CLASSES, NAME, PROBES, make_result, make_run

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Page(HTMLParser):
    """Elements with their attributes, and the text of every table cell."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def path(run, tmp_path_factory) -> Path:
    return report(run, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def text(path: Path) -> str:
    return path.read_text()


def shown(
    text: str, tmp_path: Path, *, budget_ms: int = 6000, width: int = 1400
) -> tuple[str, str]:
    """Open a page in headless Chromium: the document afterwards, and the browser's log."""
    assert CHROMIUM is not None
    page = tmp_path / "page.html"
    page.write_text(text)
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},3000",
            f"--virtual-time-budget={budget_ms}", "--enable-logging=stderr", "--v=0",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def test_the_page_is_small_and_loads_nothing(path: Path, text: str):
    assert path.stat().st_size < 6_000_000
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            here = tag == "a" and (value or "").startswith("#")
            assert value is None or here or value.startswith("data:"), (tag, name, value[:80])
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_names_from_data_are_text(text: str):
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.elements) == 5 + 3  # five charts, three of ours
    assert "<script>alert" not in text
    assert html.escape("<script>alert(1)</script>") in text
    assert NAME in [attributes.get("title") for tag, attributes in page.elements if tag == "img"]
    assert any("bag \"x\" & 'y'" in piece for piece in page.text)


def test_numbers_on_the_page_are_those_of_the_results(run, text: str):
    for one in run:
        assert f'data-value="{one.top1.mean}"' in text
        assert f'data-value="{one.parameters.total}"' in text
        assert f'data-value="{one.flops.per_image}"' in text
    assert html.escape(run[0].command) in text or run[0].command.replace("'", "&#39;") in text
    assert run[0].store.identity in text


def test_attention_is_shown_for_every_probe_that_has_some(text: str):
    galleries = re.findall(r"<summary>(.*?) <span", section(text, "attention"))
    assert galleries[0] == "EP32"  # the best EP leads
    attentive = {"EP4", "EP32", "EP4 (without Wᵥ)", "AIM4", "AbMILP"}
    assert set(galleries) == {*attentive, "mean + Wᵥ"}  # which has evidence
    assert len(re.findall(r"group \d: \d+ of 32</span></th>", text)) == 6
    assert text.count("evidence for its class</span></th>") == 6
    assert "Over all tokens that the probe reads it adds up exactly to the logit" in text


def test_charts_hold_the_results(run, text: str):
    spec = json.loads(text.split('id="chart-parameters">')[1].split("</script>")[0])
    names = {
        row["probe"] for layer in spec["layer"] for row in _values(spec, layer) if "probe" in row
    }
    assert len(names) == len(PROBES)  # k-NN as a line, the rest as points
    assert 'id="chart-flops"' in text
    assert 'id="chart-accuracy"' in text


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}">')[1].split("</section>")[0]


def test_the_confusion_matrix_is_that_of_the_best_probe(run, text: str):
    spec = json.loads(text.split('id="chart-confusion-0">')[1].split("</script>")[0])
    best = next(one for one in run if one.probe == "ep32")
    answers = best.predictions()
    assert answers is not None
    rows = {(r["true"], r["read"]): r for r in _values(spec, spec["layer"][0])}
    for i, name in enumerate(CLASSES):
        of_class = answers.labels == i
        for j, other in enumerate(CLASSES):
            share = 100 * (answers.predicted[:, of_class] == j).mean()
            assert rows[name, other]["share"] == f"{share:.1f}%"
    table = section(text, "confusion")
    assert "EP32, the most accurate probe" in table
    accuracies = [float(one) for one in re.findall(r'<td class="n strong">([\d.]+)</td>', table)]
    assert accuracies == sorted(accuracies)
    assert len(accuracies) == len(CLASSES)
    assert html.escape(CLASSES[1]) in table


def test_the_surest_mistakes_of_the_best_probe_are_listed_by_name():
    labels = np.array([0, 0, 1, 1, 2, 2])
    best = np.array([[0, 1, 2, 1, 0, 2], [0, 1, 2, 1, 2, 2], [0, 1, 2, 1, 2, 2]])
    other = np.array([[0, 0, 2, 0, 0, 0]] * 3)
    names = ["a.png", "b.png", "<b>c</b>\x1b.png", "d.png", "e.png", "f.png"]

    def page(names) -> str:
        results = []
        for label, predicted in (("ep4", best), ("linear?input=mean", other)):
            one, _ = make_result(label, 0.5)
            found = Predictions(labels, predicted.astype(np.int32), None, names)
            metrics = one.metrics | {"top1": scores_of(found, one.task)["top1"]}
            fields = {"metrics": metrics, "class_names": CLASSES}
            results.append(one.replaced(predictions=found, **fields))
        return section(render(results, images=0), "confusion")

    table = page(names).split("Mistakes by name")[1].split("</details>")[0]
    rows = [
        re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", table)
    ]
    assert [[html.unescape(cell) for cell in row] for row in rows[1:]] == [
        ["<b>c</b>\\x1b.png", CLASSES[1], CLASSES[2], "3 of 3", "1 of 1"],
        ["b.png", CLASSES[0], CLASSES[1], "3 of 3", "0 of 1"],
        ["e.png", CLASSES[2], CLASSES[0], "1 of 3", "1 of 1"],
    ]
    assert "<b>c" not in table
    assert "EP4 is surest to read wrongly" in table
    assert "Mistakes by name" not in page(None)  # of results from before names were kept


def test_many_classes_are_tables_without_a_matrix(tmp_path, store):
    make_run(tmp_path, store, chosen={"linear": 0.5})
    (one,) = read_results(tmp_path)  # without its store
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 4000)
    predicted = np.where(rng.random(4000) < 0.7, labels, rng.integers(0, 1000, 4000))[None]
    predictions = Predictions(labels, predicted.astype(np.int32))
    one = one.replaced(predictions=predictions, classes=1000)
    page = report([one], tmp_path / "r.html", images=0).read_text()
    assert "chart-confusion" not in page
    table = section(page, "confusion")
    assert "Worst classes" in table
    assert "Most frequent mistakes" in table
    assert re.search(r'<th class="name" scope="row">class \d+</th>', table)
    assert len(page) < 1_500_000


def test_two_probes_disagree_where_one_alone_is_right(run, text: str):
    found = section(text, "disagreement")
    assert "EP32 against AIM4, the most accurate attentive probe that is no EP." in found
    ep, aim = (
        next(one for one in run if one.probe == name).predictions() for name in ("ep32", "aim4")
    )
    alone = ep.correct.mean(0) * (1 - aim.correct.mean(0))
    assert f"EP32 alone is right on {100 * alone.mean():.1f}% of the test images" in found
    for side, (winner, loser) in zip(found.split("<h3>")[1:], ((ep, aim), (aim, ep)), strict=True):
        names = re.findall(r'<td class="seen"><img src="[^"]*" alt="test/(\d+)', side)
        assert 1 <= len(names) <= 4
        assert side.count("<img") == 3 * len(names)
        for row in map(int, names):
            assert winner.correct[0, row]
            assert not loser.correct[0, row]


@pytest.mark.parametrize(
    ("probes", "pair"),
    [
        ("linear ep4 ep32 aim4 abmilp", "ep32 aim4"),  # accuracies of conftest.PROBES
        ("linear ep4 ep32", "ep32 ep4"),
        ("linear?input=mean ep4", "ep4 linear?input=mean"),
        ("abmilp aim4 linear", "aim4 abmilp"),
        ("knn linear", ""),
        ("ep4", ""),
    ],
)
def test_which_two_probes_are_compared(probes, pair):
    results = []
    for number, label in enumerate(probes.split()):
        one, predictions = make_result(label, PROBES.get(label, 0.5), seed=number)
        results.append(one.replaced(predictions=predictions))
    found = chosen_pair(results)
    assert " ".join(one.label for one in (found or ())[:2]) == pair


def _values(spec: dict, layer: dict) -> list[dict]:
    data = layer.get("data", spec.get("data", {}))
    return data["values"] if "values" in data else spec["datasets"][data["name"]]


def test_paper_results_say_that_they_were_selected_on_the_reported_split(tmp_path, store, text):
    assert "Selected on the reported split" not in text
    few = {"linear?input=mean": 0.5, "ep4": 0.7}
    results = make_run(tmp_path, store, protocol="paper", chosen=few)
    page = report(results, tmp_path / "r.html", images=2).read_text()
    assert "Selected on the reported split" in page
    assert "· selected on the reported split</p>" in page  # beside the headline as well
    assert page.count('<span class="tag">selected on test</span>') == len(few)


def test_results_read_from_a_folder_without_store_or_probes_still_make_a_page(tmp_path, store):
    make_run(tmp_path, store, chosen={"linear": 0.5, "ep4": 0.7})
    results = read_results(tmp_path)
    page = report(results, tmp_path / "r.html").read_text()
    assert (
        "EP4: no maps, the features of ep4 were held in memory only: run again and keep them"
        in page
    )
    results = [one.replaced(open_store=store) for one in read_results(tmp_path)]
    (tmp_path / results[1].files.probes[0]).write_bytes(b"nonsense")
    page = report(results, tmp_path / "r.html").read_text()
    assert "EP4: no maps, fitted probe" in page
    results = [one.replaced(files=Files()) for one in results]
    assert "no fitted weights" in report(results, tmp_path / "r.html").read_text()


def test_several_backbones_are_kept_apart(tmp_path, store):
    first = make_run(tmp_path / "a", store, chosen={"linear": 0.5, "ep4": 0.7})
    second = make_run(tmp_path / "b", store, chosen={"linear": 0.6, "ep4": 0.8})
    second = [one.replaced(backbone="timm:other") for one in second]
    page = report([*first, *second], tmp_path / "r.html", images=0).read_text()
    assert page.count("<h3>Against linear") == 2
    assert "timm:other" in page


def test_a_page_on_several_backbones_names_them_all_and_says_a_command_once():
    def page(*backbones: str, command: str) -> str:
        results = []
        for number, name in enumerate(backbones):
            one, predictions = make_result("linear", 0.5 + 0.1 * number, seed=number)
            fields = {"backbone": name, "command": command.replace("BACKBONE", name)}
            results.append(one.replaced(predictions=predictions, **fields))
        return render(results, images=0)

    def title(text: str) -> str:
        return text.split("<title>")[1].split("</title>")[0]

    def settings(text: str) -> str:
        return text.split("<h3>Settings chosen</h3>")[1].split("</table>")[0]

    def commands(text: str) -> list[str]:
        return re.findall(r"<h3>The command</h3><pre>(.*?)</pre>", text)

    one = page("timm:a", command="iceprobe run all.yaml")
    assert title(one) == "iceprobe: timm:a on bundled:fashion-clutter"
    assert ">Backbone</button>" not in settings(one)
    two = page("timm:a", "timm:b", command="iceprobe run --backbone BACKBONE")
    assert title(two) == "iceprobe: timm:b · timm:a on bundled:fashion-clutter"
    assert ">Backbone</button>" in settings(two)
    named = re.findall(r'<td class="spec">(.*?)</td>', settings(two))
    assert named == ["timm:<wbr>b", "timm:<wbr>a"]  # the better first, as in the title
    assert commands(two) == [f"iceprobe run --backbone timm:{letter}" for letter in "ab"]
    four = page("timm:a", "timm:b", "timm:c", "timm:d", command="iceprobe run all.yaml")
    assert title(four) == "iceprobe: 4 backbones on bundled:fashion-clutter"
    assert commands(four) == ["iceprobe run all.yaml"]


def test_print_neither_scrolls_nor_clips_nor_folds():
    one, predictions = make_result("linear", 0.5)
    text = render([one.replaced(predictions=predictions)], images=0)
    style = re.sub(r"/\*.*?\*/", "", text[text.index("<style>") : text.index("</style>")])
    printed = style[style.index("@media print") :]
    assert style.count("@media print") == 1
    for rule in (
        ".scroll, .chart { overflow: visible; }",
        "th, td, .n, .whisker { white-space: normal; }",
        ".chart svg, td svg { max-width: 100%; height: auto; }",
        "details.maps::details-content { content-visibility: visible;",
    ):
        assert rule in printed
    # Later rules win: nothing after them scrolls or hides again.
    assert not re.search(r"overflow(-x)?: *(auto|scroll|hidden)", printed)
    # What scrolls on a screen is named in the rule that lets it not on paper.
    scrolling = re.findall(r"([^{}]+)\{[^}]*overflow-x: auto", style)
    assert {name.strip() for name in scrolling} == {".scroll", ".chart"}
    assert 'addEventListener("beforeprint", unfold)' in text


def test_an_undertrained_probe_is_said_and_coloured_by_no_verdict(tmp_path, store):
    results = make_run(tmp_path, store, chosen={"linear": 0.7, "ep4": 0.3})
    seen = render(results, images=0)
    assert "<b>Undertrained.</b>" not in seen
    assert 'class="n worse"' in seen
    results[1] = results[1].replaced(undertrained=["3 training steps", "its loss still falls"])
    seen = render(results, images=0)
    assert "<b>Undertrained.</b> EP4: 3 training steps, its loss still falls." in seen
    assert "leave --epochs out, or raise it" in seen
    for verdict in ("better", "worse"):
        assert f'class="n {verdict}"' not in seen
    assert "that shows no order.</h1>" in seen


def test_what_was_done_to_the_backbone_heads_it_and_its_classes_have_names(tmp_path, store):
    def head(results) -> str:
        return re.search(r"<dt>(Backbone[^<]*)</dt>", render(results, images=0))[1]

    results = make_run(tmp_path, store, chosen={"linear": 0.7, "ep4": 0.8})
    assert head(results) == "Backbone, frozen"
    results[1] = results[1].replaced(adaptation="lora?rank=8")
    assert head(results) == "Backbone, frozen and adapted: lora?rank=8"
    assert head(results[1:]) == "Backbone, adapted: lora?rank=8"
    # An adapted backbone has no store that knows the names.
    bare, predictions = make_result("ep4", 0.8)
    bare = bare.replaced(predictions=predictions)
    assert class_names(bare)[0] == "class 0"
    bare = bare.replaced(class_names=list(CLASSES))
    assert class_names(bare) == CLASSES
    assert "class 0" not in render([bare], images=0)


def test_no_results_is_one_line(tmp_path):
    with pytest.raises(IceprobeError, match="at least one result"):
        report([], tmp_path / "r.html")


def test_the_public_name_is_the_function():
    assert iceprobe.report is report


@browser
def test_in_a_browser_names_are_shown_charts_drawn_and_nothing_complains(text, tmp_path):
    dom, log = shown(text, tmp_path)
    complaints = [line for line in log.splitlines() if "CONSOLE" in line]
    assert complaints == []
    page = Page(dom)
    assert any("<script>alert(1)</script>" in piece for piece in page.text)
    assert "<script>alert" not in dom
    assert dom.count('class="marks"') == 5  # Vega's drawings


@browser
def test_in_a_browser_a_click_sorts(text, tmp_path):
    # A copy with a clicking script and, since only our own scripts may run, without the policy.
    clicks = """<script>
      const order = () => [...document.querySelectorAll("#leaderboard tbody tr")]
        .map((row) => row.cells[0].dataset.value).join(" ");
      const button = (name) => [...document.querySelectorAll("#leaderboard th button")]
        .find((one) => one.textContent.trim() === name);
      const seen = [order()];
      for (const name of ["Parameters", "Parameters", "Probe", "Top-1 %"]) {
        button(name).click();
        seen.push(order());
      }
      document.body.dataset.seen = JSON.stringify(seen);
    </script></body>"""
    copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    dom, _ = shown(copy.replace("</body>", clicks), tmp_path)
    body = next(attributes for tag, attributes in Page(dom).elements if tag == "body")
    first, rising, falling, by_name, by_accuracy = json.loads(body["data-seen"])
    assert rising.split()[0] == "knn"
    assert rising.split()[-1] == "aim4"
    assert falling.split()[0] == "aim4"
    assert falling.split()[-1] == "knn"
    assert by_name.split() == sorted(PROBES, key=str.lower)
    assert by_accuracy == first
    assert first.split()[0] == "ep32"


@browser
def test_in_a_browser_a_foreign_script_does_not_run(text, tmp_path):
    injected = text.replace("</main>", '<script>document.title = "owned"</script></main>')
    dom, log = shown(injected, tmp_path)
    assert "<title>owned" not in dom
    assert "Content Security Policy" in log


def test_a_page_that_would_be_too_heavy_is_refused_and_the_old_one_stays(
    run, tmp_path, monkeypatch
):
    path = tmp_path / "report.html"
    path.write_text("the report before")
    monkeypatch.setattr(sys.modules["iceprobe.reporting.page"], "MAX_BYTES", 100_000)
    with pytest.raises(IceprobeError, match=r"would weigh \d\.\d MB: report fewer results"):
        report(run, path)
    assert path.read_text() == "the report before"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
