"""What somebody tries first in Python: it works, or one line says what to give."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import short_name
from iceprobe.fitting.api import file_name, new_run
from tests.cli.conftest import BACKBONE, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("a") / "images", {"train": 6, "test": 2})


@pytest.fixture(scope="module")
def store(images: Path) -> iceprobe.Store:
    """Of two spec strings, as a newcomer writes it."""
    return iceprobe.extract(BACKBONE, f"folder:{images}", images.parent / "features")


@pytest.fixture(scope="module")
def results(store: iceprobe.Store, images: Path) -> list[iceprobe.Result]:
    """Of the store's folder, as a text."""
    return iceprobe.fit(
        str(store.path), ["ep2?out_dim=6"], seeds=1, epochs=1, output=images.parent / "run"
    )


def test_specs_and_folders_stand_for_what_they_name(
    store: iceprobe.Store, results: list[iceprobe.Result]
) -> None:
    loaded = iceprobe.load_backbone(BACKBONE)
    assert store.manifest.backbone.identity == dict(loaded.identity())
    assert results[0].store.identity == store.identity
    with pytest.raises(IceprobeError, match="no feature store at nowhere"):
        iceprobe.fit("nowhere", ["linear"])
    with pytest.raises(IceprobeError, match=r"backbone=3: give a spec string, an nn.Module"):
        iceprobe.extract(3, "folder:x")  # type: ignore[arg-type]


def test_report_writes_what_the_ending_says(results: list[iceprobe.Result], tmp_path: Path) -> None:
    written = iceprobe.report(results, tmp_path / "x.csv")
    rows = list(csv.DictReader(written.open()))
    assert [row["probe"] for row in rows] == ["ep2?out_dim=6"]
    text = iceprobe.report(results, tmp_path / "x.md").read_text()
    assert r"| ep2?out\_dim=6 |" in text
    assert iceprobe.report(results, tmp_path / "plain", images=0).read_text().startswith("<!")
    with pytest.raises(IceprobeError, match=r"x.pdf': a report ends in .html, .md or .csv"):
        iceprobe.report(results, tmp_path / "x.pdf")
    assert not (tmp_path / "x.pdf").exists()
    with pytest.raises(IceprobeError, match=r"report\(results='runs/x'\): give a list of results"):
        iceprobe.report("runs/x", tmp_path / "x.html")  # type: ignore[arg-type]


def test_one_picture_is_predicted_as_one_of_several(
    results: list[iceprobe.Result], images: Path, tmp_path: Path
) -> None:
    model = iceprobe.load_probe(iceprobe.export(results[0], tmp_path / "model"), trust=True)
    files = sorted((images / "test").rglob("*.png"))[:2]
    both = model.predict(files)
    for one in (files[0], str(files[0]), Image.open(files[0])):
        ((best, *_),) = model.predict(one)
        assert best[0] == both[0][0][0]
        assert best[1] == pytest.approx(both[0][0][1], abs=1e-5)
    with pytest.raises(IceprobeError, match="an image is a ndarray: give a picture of PIL"):
        model.predict([np.zeros((8, 8, 3), np.uint8)])  # type: ignore[list-item]
    with pytest.raises(IceprobeError, match="top=0: give a whole number from 1 up"):
        model.predict(files, top=0)


def test_python_takes_the_path_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "?image_size=16&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"
    for folder, width in (("a", 5), ("b", 7)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "models.py").write_text(
            f"from torch import nn\ndef cnn():\n    return nn.Conv2d(3, {width}, 8, stride=8)\n"
        )
    (tmp_path / "a" / "wrong.py").write_text("import sibling_that_is_not_there\n")
    (tmp_path / "a" / "broken.py").write_text("def cnn(:\n")
    monkeypatch.chdir(tmp_path / "a")
    assert iceprobe.load_backbone(f"python:./models.py:cnn{options}").dim == 5
    assert iceprobe.load_backbone(f"python:models.py:cnn{options}").dim == 5
    assert iceprobe.load_backbone(f"python:{tmp_path}/b/models.py:cnn{options}").dim == 7
    for spec, said in (
        ("python:./none.py:cnn", "no file 'none.py' here"),
        ("python:./models.py:vit", "has no function 'vit'"),
        ("python:./wrong.py:cnn", "no module named 'sibling_that_is_not_there'"),
        ("python:./broken.py:cnn", "can't be imported: SyntaxError"),
        ("python:models:cnn", "no module named 'models'"),  # the current folder isn't searched
    ):
        with pytest.raises(IceprobeError, match=said):
            iceprobe.load_backbone(spec + options)


def test_a_path_in_a_file_is_trusted_only_as_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``./models.py`` in another working folder is another file."""
    from iceprobe.backbones.registry import has_run
    from iceprobe.core.specs import parse_spec

    spec = "python:./mine.py:cnn?image_size=16&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(
            "from torch import nn\ndef cnn():\n    return nn.Conv2d(3, 5, 8, stride=8)\n"
        )
    monkeypatch.chdir(tmp_path / "a")
    iceprobe.load_backbone(spec)
    assert has_run(parse_spec(spec))
    monkeypatch.chdir(tmp_path / "b")
    assert not has_run(parse_spec(spec))


def test_a_long_path_makes_a_short_name(
    store: iceprobe.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without ``output`` is named after specs, and those hold paths of any length."""
    monkeypatch.chdir(tmp_path)
    spec = f"folder:/{'/'.join(['a-very-long-name-of-a-folder'] * 20)}/birds"
    manifest = store.manifest.asked_as("timm:vit_base_patch16_224.mae", spec)
    name = new_run(manifest, "heldout").name
    assert len(name) == 160
    assert name.startswith("timm-vit_base_patch16_224.mae-folder-a-very-long")
    assert name.endswith("birds-heldout")
    other = store.manifest.asked_as(
        "timm:vit_base_patch16_224.mae", spec.replace("folder/a", "f/b", 1)
    )
    assert new_run(other, "heldout").name != name
    assert short_name(file_name("timm:x-folder:birds")) == "timm-x-folder-birds"
    wide = short_name("漢" * 100)
    assert len(wide.encode()) <= 160
    long = store.manifest.asked_as(store.manifest.backbone.spec, spec)
    view = iceprobe.Store.open(str(store.path))
    view.manifest = long
    (result,) = iceprobe.fit(view, ["knn"])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [Path(str(result.run)).name]


class Loud(nn.Module):
    """Tokens beyond float16's range, which ends at 65,504."""

    def __init__(self, scale: float = 2.0**20):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return (nn.functional.avg_pool2d(x, 8) + 0.2) * self.scale


def test_the_remedy_for_large_tokens_is_an_option_of_probe(images: Path) -> None:
    about = {"image_size": 16, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "epochs": 1}
    data = f"folder:{images}"
    with pytest.raises(
        IceprobeError, match="too large for float16: store them with tokens=bfloat16"
    ):
        iceprobe.probe(Loud(), data, ["knn"], **about)  # type: ignore[arg-type]
    for tokens in ("bfloat16", "float32"):  # a power of two changes no direction, so no neighbour
        (loud,) = iceprobe.probe(Loud(), data, ["knn"], tokens=tokens, **about)  # type: ignore[arg-type]
        (quiet,) = iceprobe.probe(Loud(1.0), data, ["knn"], tokens=tokens, **about)  # type: ignore[arg-type]
        assert loud.top1.mean == quiet.top1.mean > 0.5
