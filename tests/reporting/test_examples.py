"""A report calls clips, recordings and bags by their names: in sentences, headings, axes and tooltips."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.reporting.page import render
from iceprobe.results import read_results, write_results
from iceprobe.results.advice import advise
from iceprobe.results.examples import an_example_of, example_of, examples_of
from iceprobe.store.examples import example_noun
from tests.reporting.conftest import make_result
from tests.reporting.kinds import KINDS
from tests.reporting.test_tasks import made

_SAID = ("alt", "title", "aria-label")
# The publication's own training, and how a backbone was trained, whatever is tested here.
_OTHERS = re.compile("The publication trains on augmented images|masked image modelling")


class _Texts(HTMLParser):
    """All that a page says: texts, what is read aloud, and the titles in its charts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.texts += [given[name] for name in _SAID if given.get(name)]
        if tag in ("script", "style"):
            self._script = given.get("type") or tag

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._script = None

    def handle_data(self, data):
        if self._script == "application/json":
            self.texts += titles(json.loads(data))
        elif self._script is None:
            self.texts.append(data)


def titles(spec: object) -> Iterator[str]:
    """The titles of axes, legends and tooltips; without one, the name of the field is shown."""
    if isinstance(spec, dict):
        shown = spec.get("title", spec.get("field"))
        if isinstance(shown, str):
            yield shown
        for key, value in spec.items():
            if key not in ("data", "datasets"):
                yield from titles(value)
    elif isinstance(spec, list):
        for one in spec:
            yield from titles(one)


def of_images(page: str) -> list[str]:
    said = [_OTHERS.sub("", one) for one in _Texts(page).texts]
    return [one for one in said if re.search(r"\bimages?\b", one, re.IGNORECASE)]


@pytest.mark.parametrize("kind", ["clips", "recordings", "bags"])
def test_a_report_calls_its_examples_by_their_name(kind, tmp_path):
    page = KINDS[kind](tmp_path)
    assert of_images(page) == []
    assert f"by these very {kind}, which flatters it" in page
    assert f"the probe for one {kind.removesuffix('s')}, the backbone left out" in page
    assert f"<dt>{kind.capitalize()}</dt>" in page
    assert f"FLOPs per {kind.removesuffix('s')} (log scale)" in page


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_every_section_of_a_task_does(task, run):
    results = run if task == "classification" else made(task)
    assert of_images(render(results, images=0))  # where they are images
    assert of_images(render([one.replaced(example="clip") for one in results], images=0)) == []


def test_a_result_says_what_its_examples_are_called(tmp_path):
    results = [make_result(probe, 0.6)[0] for probe in ("ep4", "linear", "knn")]
    clip, image = results[0].replaced(example="clip"), results[1]
    file = write_results(tmp_path, [clip, image])
    entries = json.loads(file.read_text())["results"]
    assert entries[0]["example"] == "clip"
    assert "example" not in entries[1]  # as files were before
    assert [one.example for one in read_results(tmp_path)] == ["clip", "image"]
    assert (example_of(clip), examples_of(clip), an_example_of(clip)) == ("clip", "clips", "a clip")
    assert an_example_of(image, results[2]) == "an image"
    assert an_example_of(clip, image) == "an example"
    entries[0]["example"] = "<b>\n"
    (tmp_path / "results.json").write_text(json.dumps({"format": 2, "results": entries}))
    with pytest.raises(IceprobeError, match="don't fit the schema: example"):
        read_results(tmp_path)


def test_advice_does(run):
    said = advise([one.replaced(example="recording") for one in run]).questions[0].paragraph
    assert "400 recordings" in said
    assert "FLOPs a recording" in said
    assert not re.search(r"\bimages?\b", said)


def test_a_store_says_what_its_examples_are_called():
    def noun(grid=(14, 14), patches=True, **preprocessing):
        made = {
            "backbone": SimpleNamespace(preprocessing=preprocessing),
            "settings": SimpleNamespace(patches=patches),
            "shape": SimpleNamespace(grid=grid),
        }
        return example_noun(SimpleNamespace(**made))

    assert noun() == "image"
    assert noun(grid=None, patch_size=14) == "image"  # each with a grid of its own
    assert noun(grid=None) == noun(kind="bag", grid=None) == "bag"
    assert noun(grid=None, patches=False) == "image"  # one vector
    assert noun(kind="sound") == "recording"
    assert noun(kind="clip", grid=(8, 14, 14)) == "clip"
    assert noun(kind="a kind that was registered elsewhere") == "example"
