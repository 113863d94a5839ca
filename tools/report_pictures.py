"""Take the pictures of docs/report.md from a report of the demo that was analysed (README.md has one of them).

    iceprobe demo
    iceprobe analyze runs/demo
    python tools/report_pictures.py runs/demo/report.html

Wants Chromium and playwright, as the tests of the report do, and the fonts Liberation for the same letters.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FloatRect, sync_playwright
from refresh_docs import DOCS, small

WIDTH = 1240
# Of each picture, what it begins and ends with; its margins are a section's.
PICTURES = {
    "report": ("header", "#cost .charts"),
    "report-differences": ("#differences", "#differences table:last-of-type"),
    "report-maps": ("#attention", "#attention details tbody tr:nth-child(4)"),
    "report-worth": ("#analysis", "#analysis .charts"),
    "report-chosen": ("#training", "#training table"),
}


def main(report: Path) -> None:
    with sync_playwright() as p, tempfile.TemporaryDirectory() as folder:
        chromium = p.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page(color_scheme="light", viewport={"width": WIDTH, "height": 900})
        page.goto(report.resolve().as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.chart')].every((one) => one.querySelector('svg'))"
        )
        for name, ends in PICTURES.items():
            top, bottom = page.evaluate(
                """([first, last]) => {
                  const box = (what) => document.querySelector(what).getBoundingClientRect();
                  return [window.scrollY + box(first).top, window.scrollY + box(last).bottom];
                }""",
                list(ends),
            )
            clip = FloatRect(x=0, y=top, width=WIDTH, height=bottom - top)
            taken = Path(folder) / f"{name}.png"
            page.screenshot(path=taken, clip=clip, full_page=True)
            small(taken, DOCS / taken.name)
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
