"""The page of a run of ``iceprobe segment``: what ``dense.json`` says, and its picture."""

import base64
from pathlib import Path

from markupsafe import Markup

from iceprobe.dense.files import PICTURE_NAME, read_segmentations
from iceprobe.errors import IceprobeError
from iceprobe.report.page import asset, environment, policy
from iceprobe.results.files import write_atomically
from iceprobe.text import utf8


def write_segment_report(run: str | Path, path: str | Path) -> Path:
    """Write the page of one run folder as one HTML file that works offline.

    Raises:
        IceprobeError: if the folder has no segmentations that can be read, or for another ending.
    """
    run, path = Path(run), Path(path)
    if path.suffix not in ("", ".html", ".htm"):
        raise IceprobeError(
            f"output {str(path)!r}: the report of a run of `iceprobe segment` ends in .html; its "
            "table is dense.csv in the run folder"
        )
    results = read_segmentations(run)
    ordered = sorted(results, key=lambda one: -one.miou.mean)
    scripts = [asset("page.js")]
    page = environment().get_template("segment.html.j2").render(
        first=results[0],
        ordered=ordered,
        classes=list(enumerate(results[0].class_names)),
        picture=_picture(run / PICTURE_NAME),
        style=Markup(asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=policy(scripts),
    )  # fmt: skip
    write_atomically(path, utf8(page))
    return path


def _picture(path: Path) -> str | None:
    """As a data URI; None where it was taken out of the run folder."""
    if not path.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
