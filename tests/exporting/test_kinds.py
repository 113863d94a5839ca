"""Exported probes of clips, recordings and bags: the outputs of their run, from files, on every way."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import iceprobe
from iceprobe.backbones import kinds
from iceprobe.backbones.kinds import batched
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.pixels import Reading
from iceprobe.exporting import ExportedProbe, predict
from iceprobe.exporting.examples import opened
from iceprobe.exporting.exported import check_input
from iceprobe.reporting.pictures import SIDE
from iceprobe.results import Result
from tests.datasets import sounds
from tests.exporting.kinds import CASES, NAMES, Case, spec_of, write_bags

pytest.importorskip("av")
pytest.importorskip("soundfile")
pytest.importorskip("soxr")

SLOW = ("a vector a frame", "patches of bags")


def cases(*names: str) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]


#: Whose examples have as many tokens each.
FIXED = ("a vector a frame", "clips by themselves", "two layers of frames", "VideoMAE", "AST")


class Fitted(NamedTuple):
    case: Case
    spec: str
    data: iceprobe.Dataset
    result: Result
    folder: Path  # of the exported second seed
    logits: torch.Tensor  # of the run's second seed on its own test tokens
    files: list[Any]  # what `predict` is given for each of them


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A case by its name, made once."""
    made: dict[str, Fitted] = {}

    def fit(name: str) -> Fitted:
        if name not in made:
            made[name] = _fit(CASES[name], tmp_path_factory.mktemp(name.replace(" ", "-")))
        return made[name]

    return fit


def _fit(case: Case, place: Path) -> Fitted:
    spec, data = (
        spec_of(case.backbone, place / "model"),
        iceprobe.load_dataset(case.write(place / "data")),
    )
    backbone = iceprobe.load_backbone(spec)
    probe = "ep2"
    if case.layers:
        store: Any = iceprobe.extract_layers(backbone, data, place / "features", tokens="float32")
        probe += "?layers=" + ",".join(map(str, case.layers))
    else:
        store = iceprobe.extract(backbone, data, place / "features", tokens="float32")
    (result,) = iceprobe.fit(
        store, [probe], seeds=2, epochs=3, learning_rates=[0.1], protocol="paper", output=place / "run"
    )  # fmt: skip
    folder = iceprobe.export(result, place / "out", seed=1)
    test = result.open_store["test"]
    with torch.no_grad():
        logits = result.probes[1].eval()(test.tokens(np.arange(len(test)), "cpu"))
    split = data.splits["test"]
    if split.kind == "bag":
        roots = [place / "data" / name for name in split.names]
        files: list[Any] = [sorted(root.iterdir()) for root in roots]
    else:
        files = [split.root / name for name in split.names]
    return Fitted(case, spec, data, result, folder, logits, files)


def inputs(model: ExportedProbe, fitted: Fitted, rows: Any) -> Any:
    split = fitted.data.splits["test"]
    return batched([model.preprocessing.transform(split.example(row)) for row in rows])


@pytest.mark.parametrize("name", cases(*CASES))
def test_outputs_are_those_of_the_run_however_they_are_batched(name: str, fitted: Any) -> None:
    one: Fitted = fitted(name)
    model = iceprobe.load_probe(one.folder)
    together = model(inputs(model, one, range(4)))
    alone = torch.cat([model(inputs(model, one, [row])) for row in range(4)])
    backwards = model(inputs(model, one, [3, 2, 1, 0])).flip(0)
    for found in (together, alone, backwards):
        torch.testing.assert_close(found, one.logits, rtol=1e-5, atol=1e-5)
    assert one.logits.std(0).min() > 1e-3  # they tell examples apart
    recorded = iceprobe.records(one.result)["logits"][1]
    np.testing.assert_allclose(recorded, one.logits.numpy(), rtol=2e-3, atol=2e-3)  # float16


@pytest.mark.parametrize("name", cases(*CASES))
def test_files_are_predicted_of_as_by_the_run(name: str, fitted: Any, tmp_path: Path) -> None:
    one: Fitted = fitted(name)
    model = iceprobe.load_probe(one.folder)
    wanted = one.logits.double().softmax(1)
    found = model.predict(one.files, batch_size=3)
    for row, answer in zip(wanted, found, strict=True):
        order = row.argsort(descending=True).tolist()
        assert [name for name, _ in answer] == [one.data.classes[k] for k in order]
        np.testing.assert_allclose([p for _, p in answer], row[order], rtol=1e-4)
    place = tmp_path / "data"
    one.case.write(place)
    done = predict(model, place / "test", tmp_path / "p.csv", batch_size=3)
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    bags = model.preprocessing.kind == "bag"
    names = [row.pop("example" if bags else "file") for row in rows]
    assert [name.split(".")[0].replace("/", "") for name in names] == ["a0", "a1", "b0", "b1"]
    assert done.images == 4
    for row, answer in zip(rows, found, strict=True):
        cells = [c for name, p in answer for c in (name, p)]
        assert list(row.values())[::2] == cells[::2]
        np.testing.assert_allclose(
            np.array(list(row.values())[1::2], float), cells[1::2], rtol=1e-4
        )


def test_a_folder_holds_the_weights_of_a_reader_of_parts_once(fitted: Any) -> None:
    one: Fitted = fitted("frame by frame")
    alone = iceprobe.load_backbone("bundled:mae-tiny").reader.state_dict()
    kept = load_file(one.folder / "backbone.safetensors")
    assert {name: t.tolist() for name, t in kept.items()} == {
        name: t.tolist() for name, t in alone.items()
    }
    state = iceprobe.load_probe(one.folder).backbone.reader.state_dict()
    assert len(state) == 2 * len(kept)
    assert all(torch.equal(t, kept[name.removeprefix("reader.")]) for name, t in state.items())


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("frame by frame", [np.zeros((4, 8, 8, 3), np.uint8)], "a clip is a ndarray: give the path of a video"),
        ("frame by frame", [Image.new("L", (8, 8))], "a clip is a Image: give the path of a video"),
        ("frame by frame", 3, "images=3: give each the path of a video, in a list"),
        ("frame by frame", ["none.mp4"], "video 'none.mp4' can't be read"),
        ("frame by frame", ["text.txt"], "video 'text.txt' can't be read"),
        ("WavLM", [b"RIFF"], "a recording is a bytes: give the path of a recording"),
        ("WavLM", ["text.txt"], "recording 'text.txt' can't be read"),
        ("WavLM", ["short.wav"], r"recording 'short.wav' can't be made ready \(it has 9 samples of 16000 .* needs 40\)"),
        ("bags", ["a.png"], "a bag is a str: give a list of pictures of PIL and paths"),
        ("bags", "a.png", "a bag is a str: give a list of pictures of PIL and paths"),
        ("bags", [[]], "a bag is empty: give one image at least"),
        ("bags", [[3]], "an image is a int: give a picture of PIL"),
        ("bags", [["text.txt"]], "image 'text.txt'"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted_of_is_one_line(
    name: str, given: Any, words: str, fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = iceprobe.load_probe(fitted(name).folder)
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("neither")
    sounds.write(Path("short.wav"), np.zeros(9, np.float32))
    with pytest.raises(IceprobeError, match=words) as caught:
        model.predict(given)
    assert "\n" not in str(caught.value)


def test_a_kind_from_outside_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.KINDS, "series", kinds.Kind("nowhere:Series", "series of numbers"))
    with pytest.raises(
        IceprobeError,
        match=r"how series of numbers are given .* call the probe with .* probe\(batch\)",
    ):
        opened("series", [1, 2], Reading())


def test_pictures_are_a_bag_as_their_files_are(fitted: Any) -> None:
    one: Fitted = fitted("bags")
    model = iceprobe.load_probe(one.folder)
    pictures = [[Image.open(path) for path in bag] for bag in one.files]
    assert model.predict(pictures) == model.predict(one.files)
    assert model.predict([bag[::-1] for bag in one.files[2:]]) == [
        [(name, pytest.approx(p, rel=1e-5)) for name, p in answer]
        for answer in model.predict(one.files[2:])
    ]


def test_the_example_of_the_check_says_where_a_recording_is(fitted: Any) -> None:
    """Whisper's features end in a row of ones, which the wave leaves as it is."""
    reads = iceprobe.load_probe(fitted("Whisper").folder).preprocessing
    (made,) = check_input(reads)
    assert (made[-1] == 1).all()
    assert made[:-1].std() > 0.5
    image = iceprobe.load_backbone("bundled:mae-tiny").preprocessing
    wave = torch.linspace(0, 50, 56 * 56, dtype=torch.float64).sin().float()
    assert torch.equal(check_input(image), wave.view(1, 1, 56, 56))


@pytest.mark.parametrize("name", ["frame by frame", "WavLM", "bags"])
def test_changed_weights_are_noticed(name: str, fitted: Any, tmp_path: Path) -> None:
    one: Fitted = fitted(name)
    folder = iceprobe.export(one.result, tmp_path / "out", backbone_weights=False)
    assert iceprobe.load_probe(folder).predict(one.files[:1])
    card = json.loads((folder / "model.json").read_text())
    assert card["backbone"]["preprocessing"]["kind"] == one.data.kind
    assert card["check"] == pytest.approx(iceprobe.load_probe(folder).checked().tolist(), rel=1e-5)


def tiles(path: Path, count: int) -> list[np.ndarray]:
    """A column of pictures, 4 pixels apart, each ``(height, width, 3)``."""
    column = np.asarray(Image.open(path).convert("RGB")).astype(int)
    height = (len(column) - 4 * (count - 1)) // count
    return [column[k * (height + 4) : k * (height + 4) + height] for k in range(count)]


@pytest.mark.parametrize("name", cases("frame by frame", "a vector a frame", "VideoMAE"))
def test_maps_of_clips_lie_over_their_moments(name: str, fitted: Any, tmp_path: Path) -> None:
    """One predictor looks at the last moment alone: its colour is there, and there alone."""
    one: Fitted = fitted(name)
    model = iceprobe.load_probe(one.folder)
    time = model.shape.grid[0]
    _look_at(model, lambda n: n >= model.shape.num_tokens * (time - 1) // time)
    place = tmp_path / "data"
    one.case.write(place)
    done = predict(model, place / "test", tmp_path / "p.csv", maps=tmp_path / "maps", batch_size=3)
    assert done.maps == ["predictor 1", "predictor 2"]
    found = sorted((tmp_path / "maps").rglob("*.png"))
    assert [path.relative_to(tmp_path / "maps").as_posix() for path in found] == [
        f"{name}.mkv.png" for name in NAMES
    ]
    for path in found:
        strip, first, second = tiles(path, 3)
        assert strip.shape == (SIDE, time * SIDE, 3)
        colour = first.max(2) - first.min(2)
        assert colour[:, -SIDE // 2 :].max() > 40
        assert colour[:, : (time - 1) * SIDE - 4].max() <= 2
        assert np.array_equal(first, second)
    shades = [tiles(path, 3)[0].mean() for path in found]
    assert max(shades[:2]) < 90 < 180 < min(shades[2:])


def _look_at(model: ExportedProbe, there: Any) -> None:
    """All predictors look evenly at the patches n for which ``there`` says so."""
    pooling = model.probe.pooling

    def attention(patches: torch.Tensor, *_: Any, mask: Any = None, **__: Any) -> torch.Tensor:
        count = patches.shape[1]
        chosen = torch.tensor([bool(there(n)) for n in range(count)])
        weights = (chosen / chosen.sum()).expand(len(patches), pooling.num_predictors, count)
        return weights

    pooling.attention = attention


@pytest.mark.parametrize("name", ["WavLM", "AST"])
def test_maps_of_recordings_lie_over_their_spectrogram(
    name: str, fitted: Any, tmp_path: Path
) -> None:
    """The first token is the first moment; on a grid it is the lowest band of it."""
    one: Fitted = fitted(name)
    model = iceprobe.load_probe(one.folder)
    _look_at(model, lambda n: n == 0)
    place = tmp_path / "data"
    one.case.write(place)
    done = predict(model, place / "test", tmp_path / "p.csv", maps=tmp_path / "maps", batch_size=3)
    assert done.maps == ["predictor 1", "predictor 2"]
    found = sorted((tmp_path / "maps").rglob("*.png"))
    assert len(found) == 4
    for path in found:
        spectrogram, first, second = tiles(path, 3)
        assert spectrogram.shape == (88, 396, 3)
        colour = first.max(2) - first.min(2)
        assert colour[-8:, :4].max() > 40
        assert colour[:, 120:].max() <= 2
        assert (colour[:20, :4].max() > 40) == (model.shape.grid is None)
        assert np.array_equal(first, second)


def test_bags_have_no_maps(fitted: Any, tmp_path: Path) -> None:
    model = iceprobe.load_probe(fitted("bags").folder)
    place = tmp_path / "data"
    write_bags(place)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        IceprobeError, match="the tokens of bags of images have no grid: leave --maps out"
    ):
        predict(model, place / "test", tmp_path / "p.csv", maps=tmp_path / "maps")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name in FIXED])
def test_the_onnx_of_clips_and_of_windows_gives_the_same(
    name: str, fitted: Any, tmp_path: Path
) -> None:
    _check_onnx(fitted(name), tmp_path)


def test_the_onnx_of_clips_frame_by_frame_gives_the_same(fitted: Any, tmp_path: Path) -> None:
    _check_onnx(fitted("frame by frame"), tmp_path)


def _check_onnx(one: Fitted, place: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = iceprobe.export(one.result, place / "onnx", seed=1, format="onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (name,) = [given.name for given in session.get_inputs()]
    assert name == {"clip": "clips", "sound": "sounds"}[one.data.kind]
    batch = inputs(iceprobe.load_probe(one.folder), one, range(4)).numpy()
    for rows in (slice(0, 4), slice(2, 3)):
        (found,) = session.run(["logits"], {name: batch[rows]})
        np.testing.assert_allclose(found, one.logits[rows].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["WavLM", "Whisper", "bags"])
def test_what_has_any_number_of_tokens_has_no_onnx(name: str, fitted: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.raises(IceprobeError, match=r"have any number: take --format folder") as caught:
        iceprobe.export(fitted(name).result, tmp_path / "onnx", format="onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
