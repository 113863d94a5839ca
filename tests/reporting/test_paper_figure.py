"""The figure for a paper: one file, in vectors, with the right map in the right place."""

import base64
import io
import re
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.reporting.paper_figure import overlay, wrapped
from tests.reporting.conftest import CLASSES, make_run

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


@pytest.fixture(scope="module")
def results(tmp_path_factory, store):
    chosen = {"knn": 0.4, "linear": 0.5, "ep4": 0.7, "aim4": 0.7, "ep32": 0.8}
    return {
        one.probe: one for one in make_run(tmp_path_factory.mktemp("run"), store, chosen=chosen)
    }


def test_rows_are_images_and_columns_probes(results, tmp_path):
    path = iceprobe.figure(list(results.values()), tmp_path / "maps.svg", images=7)
    root = ET.parse(path).getroot()
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert texts[:4] == ["image", "EP4", "AIM4", "EP32"]
    assert texts[4] == CLASSES[0]
    assert any(one.startswith("<script>alert") for one in texts)  # a name from data, as text
    assert "<script" not in path.read_text()
    width, height = (float(root.get(side).removesuffix("pt")) for side in ("width", "height"))
    found = list(root.iter(f"{SVG}image"))
    assert len(found) == 7 * (1 + 2 * 3)  # below each map lies its image
    side = float(found[0].get("width"))
    right = max(float(one.get("x")) for one in found) + side
    assert width == pytest.approx(right, abs=0.1)
    assert width <= 504
    assert height == pytest.approx(max(float(one.get("y")) for one in found) + side, abs=0.1)
    assert len({one.get("x") for one in found}) == 4
    # The brightest place of each overlay is that of the probe's mean map.
    store = results["ep4"].open_store
    overlays = [one for one in found if one.get(LINK).startswith("data:image/png")]
    for i, one in enumerate(overlays[::3]):
        rows = torch.tensor([i])
        assert one.get("y") == found[7 * i].get("y")
        probe = _fitted(results["ep4"], store)
        with torch.no_grad():
            maps = probe.pooling.attention(store["test"].patches(rows).float()).mean(1)
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(one.get(LINK)[22:]))))
        row, column = np.unravel_index(picture[..., :3].sum(-1).argmax(), picture.shape[:2])
        cell = (int(row / len(picture) * 14), int(column / len(picture) * 14))
        brightest = divmod(int(maps.argmax()), 14)
        assert np.abs(np.subtract(cell, brightest)).max() <= 1


def _fitted(result, store):
    from iceprobe.fitting.fitted import load_fitted

    return load_fitted(result, store.shape)


def test_of_a_single_probe_columns_are_predictors_or_groups(results, tmp_path):
    def titles(name: str) -> list[str]:
        path = iceprobe.figure([results[name]], tmp_path / "one.svg", images=1)
        return [one.text for one in ET.parse(path).getroot().iter(f"{SVG}text")]

    assert titles("ep4")[1:5] == ["predictor 1", "predictor 2", "predictor 3", "predictor 4"]
    assert titles("ep32")[1] == "group 1"
    assert re.fullmatch(r"\d+ of 32", titles("ep32")[2])


def test_a_pdf_has_text_and_its_font_and_the_width_of_two_columns(results, tmp_path):
    pdf = iceprobe.figure(list(results.values()), tmp_path / "m.pdf", images=2).read_bytes()
    assert pdf.startswith(b"%PDF")
    left, bottom, width, _ = map(float, re.search(rb"MediaBox \[([^\]]*)\]", pdf)[1].split())
    assert (left, bottom) == (0, 0)
    assert 300 < width <= 504
    assert b"/FontFile" in pdf
    streams = b"".join(map(_inflated, re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)))
    assert streams.count(b"TJ") + streams.count(b"Tj") >= 4 + 2  # titles and labels are letters
    one = iceprobe.figure([results["ep4"]], tmp_path / "c.pdf", images=2, column=True).read_bytes()
    assert float(re.search(rb"MediaBox \[([^\]]*)\]", one)[1].split()[2]) == pytest.approx(
        244, abs=1
    )


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream.strip(b"\r\n"))
    except zlib.error:
        return b""


def test_a_png_has_three_hundred_dots_an_inch_on_white(results, tmp_path):
    picture = Image.open(iceprobe.figure([results["aim4"]], tmp_path / "m.png", images=1))
    assert picture.info["dpi"][0] == pytest.approx(300, abs=0.1)
    assert picture.convert("RGBA").getpixel((2, 2)) == (255, 255, 255, 255)


def test_an_overlay_is_clear_where_attention_is_uniform_or_less():
    weights = torch.full((4, 4), 0.02)
    weights[1, 2] = 0.7
    alpha = np.asarray(overlay(weights))[..., 3]
    side = len(alpha)
    assert alpha[int(1.5 * side / 4), int(2.5 * side / 4)] == pytest.approx(0.82 * 255, abs=1)
    assert alpha[-side // 4 :].max() == 0
    assert np.asarray(overlay(torch.full((4, 4), 1 / 16)))[..., 3].max() == 0


def test_texts_are_broken_and_cut():
    assert wrapped("Ankle boot", 20, 2) == ["Ankle boot"]
    assert wrapped("group 3: 2 of 12", 20, 2) == ["group 3", "2 of 12"]
    assert wrapped("EP48 (out_dim=96)", 12, 2) == ["EP48", "(out_dim=96)"]
    assert wrapped("one two three four five", 9, 2) == ["one two", "three fo…"]
    assert wrapped("incomprehensibility", 8, 3) == ["incompr…"]


@pytest.mark.parametrize(
    ("probes", "name", "images", "seen"),
    [
        (["ep4"], "m.gif", 2, "ends in .pdf, .svg, .png"),
        (["ep4"], "m.pdf", 0, "images=0"),
        (["linear"], "m.pdf", 2, "no probe with attention among linear"),
        (["knn"], "m.pdf", 2, "no probe with attention among knn"),
        ([], "m.pdf", 2, "among nothing"),
    ],
)
def test_errors_tell_what_to_do(probes, name, images, seen, results, tmp_path):
    with pytest.raises(IceprobeError, match=seen):
        iceprobe.figure([results[one] for one in probes], tmp_path / name, images=images)
    assert not (tmp_path / name).exists()
