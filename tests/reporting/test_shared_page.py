"""What a shared page is asked for in a browser: accessible, copied, linked to, saved, dark, printed."""

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from iceprobe.reporting.dark import DARK
from iceprobe.reporting.labels import Box
from iceprobe.reporting.page import render
from tests.reporting.conftest import CLASSES
from tests.reporting.kinds import KINDS, large
from tests.reporting.test_page import CHROMIUM, browser

pytestmark = [browser, pytest.mark.slow]
sync_api = pytest.importorskip("playwright.sync_api")
PDFLATEX = shutil.which("pdflatex")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as p:
        made = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def classes(run) -> str:
    return render(run, images=2)


def opened(chromium, text: str, folder: Path, *, wait: bool = True, **more) -> Any:
    """A page read from disk, its charts drawn; a word on the console fails the test."""
    path = folder / "page.html"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    page = chromium.new_page(**more)
    page.on("console", lambda said: pytest.fail(said.text))
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(path.as_uri())
    if wait and "chart-" in text:
        page.wait_for_function(
            "[...document.querySelectorAll('.chart')].every((one) => one.querySelector('svg'))"
        )
    return page


@pytest.mark.parametrize("kind", list(KINDS))
def test_axe_finds_nothing(kind, chromium, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    text = KINDS[kind](tmp_path)
    for scheme, width in (("light", 1400), ("dark", 1400), ("dark", 420)):
        page = opened(
            chromium,
            text,
            tmp_path,
            color_scheme=scheme,
            viewport={"width": width, "height": 900},
            bypass_csp=True,
        )
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
        page.close()


def copied(page, table: str, name: str) -> str:
    """What the button of a table puts on the clipboard."""
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    row = page.locator(".tools", has=page.locator(f'.permalink[href="#{table}"]'))
    button = row.get_by_role("button", name=f"Copy as {name}")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        f"document.querySelector('[role=status]').textContent === '{name} copied'"
    )
    return page.evaluate("window.copied")


def test_a_table_is_copied_as_it_is_shown(classes, run, chromium, tmp_path):
    page = opened(chromium, classes, tmp_path)
    rows = list(csv.reader(io.StringIO(copied(page, "leaderboard-table", "CSV"))))
    assert rows[0][:4] == ["Probe", "Top-1 %", "95% interval", "Top-5 %"]
    best = max(run, key=lambda one: one.top1.mean)
    low, high = best.top1.interval
    assert rows[1][:3] == [
        "EP32",
        f"{100 * best.top1.mean:.1f} ± {100 * best.top1.sd:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
    ]
    assert len(rows) == 1 + len(run)
    page.get_by_role("button", name="Parameters", exact=True).click()
    again = list(csv.reader(io.StringIO(copied(page, "leaderboard-table", "CSV"))))
    assert again[1][0] == "k-NN"  # in the order that is shown
    assert sorted(again) == sorted(rows)
    lines = copied(page, "leaderboard-table", "Markdown").splitlines()
    cells = [[one.strip() for one in line.strip("|").split(" | ")] for line in lines]
    assert cells[0] == rows[0]
    assert set(cells[1]) == {"---", "---:"}
    assert cells[2:] == again[1:]
    differences = list(csv.reader(io.StringIO(copied(page, "differences-against-ep32", "CSV"))))
    assert differences[0] == ["Probe", "Points", "95% interval", "p, of 8"]  # no drawing
    assert all(float(row[1]) < 0 for row in differences[1:])  # a minus that is one


def test_names_are_escaped_in_each_format(classes, chromium, tmp_path):
    page = opened(chromium, classes, tmp_path)
    rows = list(csv.reader(io.StringIO(copied(page, "confusion-classes", "CSV"))))
    assert {row[0] for row in rows[1:]} == set(CLASSES)
    tex = copied(page, "confusion-classes", "LaTeX")
    assert r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{} & " in tex
    assert r"bag \textquotedbl{}x\textquotedbl{} \& 'y' & " in tex
    assert r"\begin{tabular}{lrrl}" in tex
    assert tex.count("\\\\\n") == 1 + len(CLASSES)
    assert [line for line in tex.splitlines() if line.endswith("rule")] == [
        "\\toprule", "\\midrule", "\\bottomrule",
    ]  # fmt: skip
    markdown = copied(page, "confusion-classes", "Markdown")
    assert r"\<script\>alert(1)\</script\>" in markdown
    made = page.evaluate(
        """() => {
          const rows = [["=1+1", "a|b", "[x] & 50% of_$"], ["-0.5", "−2", 'say "x", twice']];
          const table = { caption: "t", headings: ["a", "b", "c"], right: [false, true, false], rows };
          const { formats } = window.iceprobe;
          return Object.fromEntries(Object.keys(formats).map((name) => [name, formats[name](table)]));
        }"""
    )
    assert list(csv.reader(io.StringIO(made["CSV"]))) == [
        ["a", "b", "c"], ["'=1+1", "a|b", "[x] & 50% of_$"], ["-0.5", "-2", 'say "x", twice'],
    ]  # fmt: skip
    assert made["Markdown"].splitlines()[2] == r"| =1+1 | a\|b | \[x\] & 50% of\_$ |"
    assert r"=1+1 & a\textbar{}b & [x] \& 50\% of\_\$ \\" in made["LaTeX"]
    assert r"-0.5 & $-$2 & say \textquotedbl{}x\textquotedbl{}, twice \\" in made["LaTeX"]


# A name as a user may have it → its LaTeX.
TEX = {
    r"\evil{%}": r"\textbackslash{}evil\{\%\}",
    "a_b%c#d": r"a\_b\%c\#d",
    "*starred": "{*}starred",
    "[x] y": "{[}x] y",
    "x² ± 3‡": r"x$^2$ $\pm$ 3$\ddagger$",
    "−3.5†": r"$-$3.5$\dagger$",
    "a--b": "a-{}-b",
    "``''": r"\textasciigrave{}\textasciigrave{}'{}'",
    "CO₂, 10⁻³ µm": r"CO$_2$, 10$^-$$^3$ µm",
    "α-ReQ, Ω": r"$\alpha$-ReQ, $\Omega$",
    "~x^2": r"\textasciitilde{}x\textasciicircum{}2",
    "e\u0301 ≥ 1\u202f000": r"é $\geq$ 1\,000",
    'say "x" & $5': r"say \textquotedbl{}x\textquotedbl{} \& \$5",
    "∑ ★ ✓ ∞ – …": r"$\sum$ $\star$ $\surd$ $\infty$ -- \dots{}",
}


def in_latex(page, names) -> str:
    """A table of names and their numbers."""
    rows = [[name, str(number)] for number, name in enumerate(names)]
    return page.evaluate(
        "(table) => window.iceprobe.formats.LaTeX(table)",
        {
            "caption": "50% of names",
            "headings": ["name", "n"],
            "right": [False, True],
            "rows": rows,
        },
    )


def test_no_name_is_a_command_of_latex(classes, chromium, tmp_path):
    page = opened(chromium, classes, tmp_path, wait=False)
    assert in_latex(page, TEX).splitlines() == [
        r"% 50% of names. Needs \usepackage{booktabs} and, for quotation marks, \usepackage[T1]{fontenc}.",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"name & n \\",
        r"\midrule",
        *(rf"{tex} & {number} \\" for number, tex in enumerate(TEX.values())),
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.skipif(PDFLATEX is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("kind", ["analysed", "tags", "numbers", "folds", "bags"])
def test_latex_compiles_what_is_copied(kind, chromium, tmp_path):
    page = opened(chromium, KINDS[kind](tmp_path), tmp_path, wait=False)
    tables = page.evaluate(
        """() => {
          const { formats, read } = window.iceprobe;
          return [...document.querySelectorAll("table:not(.gallery)")].map((one) => formats.LaTeX(read(one)));
        }"""
    )
    assert len(tables) >= 4
    body = "\n\\clearpage\n".join([*tables, in_latex(page, TEX)])
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage[T1]{fontenc}\n"
    (tmp_path / "t.tex").write_text(f"{head}\\begin{{document}}\n{body}\n\\end{{document}}\n")
    done = subprocess.run(
        [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:]
    assert "Missing character" not in (tmp_path / "t.log").read_text(errors="replace")


def test_without_a_clipboard_a_table_is_copied_by_hand(classes, chromium, tmp_path):
    page = opened(chromium, classes, tmp_path)
    page.evaluate(
        """() => {
          navigator.clipboard.writeText = async () => { throw new Error("denied"); };
          document.execCommand = () => false;
        }"""
    )
    page.get_by_role("button", name=re.compile("Copy as CSV: Leaderboard")).click()
    area = page.get_by_role("textbox", name="The text to copy")
    assert area.input_value().startswith("Probe,Top-1 %")
    sync_api.expect(area).to_be_focused()
    assert area.evaluate("(one) => one.selectionEnd") == len(area.input_value())


def test_places_have_names_that_say_what_they_are(classes, chromium, tmp_path):
    page = opened(chromium, classes, tmp_path)
    names = page.evaluate("[...document.querySelectorAll('main [id]')].map((one) => one.id)")
    assert len(set(names)) == len(names)
    assert {
        "leaderboard", "leaderboard-table", "cost-accuracy-against-flops", "differences-against-ep32",
        "confusion-confusion-matrix", "confusion-classes", "attention-ep4-without-wv",
        "training-learning-curves", "training-settings",
    } <= set(names)  # fmt: skip
    links = page.evaluate("[...document.querySelectorAll('a')].map((one) => one.hash.slice(1))")
    assert {*map(str, links)} <= {*names, "main"}
    page.goto(f"{page.url}#attention-aim4")
    sync_api.expect(page.locator("#attention-aim4")).to_have_attribute("open", "")
    link = page.get_by_role("link", name="Link to Leaderboard").first
    assert float(link.evaluate("(one) => getComputedStyle(one).opacity")) == 0
    link.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert float(link.evaluate("(one) => getComputedStyle(one).opacity")) == 1


def test_a_chart_says_its_numbers_and_is_saved_by_itself(classes, run, chromium, tmp_path):
    page = opened(chromium, classes, tmp_path, accept_downloads=True)
    figure = page.locator("#cost-accuracy-against-parameters")
    said = figure.get_by_role("img").get_attribute("aria-label")
    assert said.startswith("Accuracy against parameters. Bars: 95% intervals.")
    for one in run:
        assert f"{100 * one.top1.mean:.1f}" in said
    figure.get_by_text("Numbers of Accuracy against parameters").click()
    rows = figure.locator("tbody tr")
    sync_api.expect(rows).to_have_count(len(run))  # they are made after the click
    with page.expect_download() as waited:
        figure.get_by_role("button", name="Save as SVG").click()
    svg = Path(waited.value.path()).read_text()
    assert waited.value.suggested_filename == "cost-accuracy-against-parameters.svg"
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[0].text == "Accuracy against parameters"
    texts = {one.text for one in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"EP32", "AIM4", "Trainable parameters (log scale)"} <= texts
    (tmp_path / "alone.svg").write_text(svg)
    alone = chromium.new_page()
    alone.goto((tmp_path / "alone.svg").as_uri())
    box = alone.evaluate(
        "(() => { const b = document.documentElement.getBBox(); return b.width; })()"
    )
    assert box > 400


def test_the_dark_page_is_chosen_and_remembered_and_paper_is_white(classes, chromium, tmp_path):
    page = opened(chromium, classes, tmp_path)

    def shade(what: str = "html", part: str = "backgroundColor") -> str:
        return page.evaluate(f"getComputedStyle(document.querySelector('{what}')).{part}")

    assert shade() == "rgb(255, 255, 255)"
    page.get_by_role("button", name="Dark page").click()
    assert shade() == "rgb(17, 26, 36)"
    assert shade('.chart [fill="#5d6b7a" i]', "fill") == "rgb(163, 178, 193)"
    page.reload()
    assert shade() == "rgb(17, 26, 36)"
    page.emulate_media(media="print")
    assert shade() == "rgb(255, 255, 255)"
    assert shade("h1", "color") == "rgb(0, 0, 0)"
    assert shade(".tools", "display") == "none"
    assert DARK["#5d6b7a"] == "#a3b2c1"


def test_on_paper_tables_stay_whole_and_nothing_speaks_of_a_pointer(classes, chromium, tmp_path):
    page = opened(chromium, classes, tmp_path)
    page.emulate_media(media="print")

    def style(what: str, part: str) -> str:
        return page.evaluate(f"getComputedStyle(document.querySelector({what!r})).{part}")

    assert "A click on a heading sorts" not in page.locator("#leaderboard .lead").inner_text()
    assert "Hover" not in page.locator("#cost .lead").inner_text()
    assert style("#leaderboard table", "breakInside") == "avoid"
    assert style(".gallery", "breakInside") == "auto"  # that may be longer than a page
    assert style("thead", "breakAfter") == style("h2", "breakAfter") == "avoid"
    sizes = page.evaluate(
        """() => [...document.querySelectorAll(".blocks .small")].map((one) =>
          [one, one.closest("td")].map((at) => parseFloat(getComputedStyle(at).fontSize)))"""
    )
    assert sizes
    assert all(grey < black for grey, black in sizes)  # what is grey is said beside a number
    pdf = page.pdf(prefer_css_page_size=True)
    pages = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert {(round(float(w)), round(float(h))) for w, h in pages} == {(842, 595)}  # A4, landscape


def test_a_thousand_classes_and_sixty_probes_stay_readable(chromium, tmp_path):
    text = render(large(tmp_path), images=0)
    assert len(text.encode()) < 2_500_000
    page = opened(chromium, text, tmp_path, viewport={"width": 1400, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert page.locator("#leaderboard tbody tr").count() == 60
    assert page.locator("#confusion-classes tbody tr").count() == 10
    charts = page.evaluate(
        """() => [...document.querySelectorAll(".chart")].map((one) =>
          [...one.querySelectorAll("text")].filter((word) => word.textContent).map((word) => {
            const { left, top, right, bottom } = word.getBoundingClientRect();
            return [word.textContent, left, top, right, bottom];
          }))"""
    )
    assert len(charts) == 4
    for words in charts:
        assert len(words) > 10
        boxes = [
            (word, Box(a + 0.5, b + 2, c - 0.5, d - 2))
            for word, a, b, c, d in words
            if d - b < 60  # not the axis's title, which stands on its end
        ]
        for i, (word, box) in enumerate(boxes):
            assert not [other for other, at in boxes[:i] if box.overlaps(at)], word
