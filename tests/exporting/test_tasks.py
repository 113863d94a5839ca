"""Exported probes of tags and of numbers: the same outputs, a table by the task, what the card says."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.core.checksums import seal, unseal
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.exporting import predict
from iceprobe.exporting.exported import same_outputs
from iceprobe.results import Result
from tests.exporting.conftest import BRIGHT

TAGS = ["bright", "file", "=red"]
NUMBERS, UNITS = ["light", "red"], ["lx", ""]
OFFSET = (
    1000.0  # of numbers whose deviation is about 1: 1% of the value is far more than the spread
)


def dataset(task: str, fraction_known: float = 0.9) -> Dataset:
    """Flat pictures; their mean and their red are the targets, as numbers or as tags."""

    def split(name: str, n: int, seed: int) -> ArraySplit:
        rng = np.random.default_rng(seed)
        images = np.repeat(
            np.repeat(rng.integers(0, 256, (n, 4, 4, 3), np.uint8), 8, axis=1), 8, axis=2
        )
        images[..., 0] = rng.integers(0, 256, (n, 1, 1))
        light, red = images.mean((1, 2, 3)), images[:, 0, 0, 0].astype(float)
        if task == "regression":
            targets = np.stack([OFFSET + (light - 128) / 30, red / 1e5], 1)
        else:
            targets = np.stack([light > 128, red > 80, (red > 128) & (light > 120)], 1).astype(
                float
            )
        targets[rng.random(targets.shape) > fraction_known] = np.nan
        names = [f"{name}/{i}.png" for i in range(n)]
        return ArraySplit(name, images, targets, names, task=task)

    names = NUMBERS if task == "regression" else TAGS
    return Dataset(
        f"test:{task}", task, names, {"train": split("train", 200, 0), "test": split("test", 60, 1)},
        units=UNITS if task == "regression" else (),
    )  # fmt: skip


@pytest.fixture(scope="module", params=["multilabel", "regression"])
def run(request, tmp_path_factory) -> tuple[Dataset, Result, Path]:
    """A data set, a result with two seeds, and the folder of the second."""
    place, data = tmp_path_factory.mktemp("run"), dataset(request.param)
    store = iceprobe.extract(iceprobe.load_backbone(BRIGHT), data, place / "features")
    (result,) = iceprobe.fit(
        store, ["ep2"], seeds=2, epochs=4, learning_rates=[0.03], min_steps=40, batch_size=32,
        output=place / "run",
    )  # fmt: skip
    return data, result, iceprobe.export(result, place / "out", seed=1)


def table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def written(data: Dataset, folder: Path, count: int = 7) -> Path:
    folder.mkdir()
    for i in range(count):
        data.splits["test"].image(i).save(folder / f"{i}.png")
    return folder


def expected(data: Dataset, result: Result, count: int = 7) -> np.ndarray:
    """Outputs of the second seed, by the fitted module alone."""
    backbone = iceprobe.load_backbone(BRIGHT)
    pixels = [backbone.preprocessing.transform(data.splits["test"].image(i)) for i in range(count)]
    with torch.no_grad():
        return result.probes[1].eval()(backbone(torch.stack(pixels))).double().numpy()


def test_outputs_are_those_of_the_fitted_probe_and_the_card_says_what_they_are(run):
    data, result, folder = run
    model, card = iceprobe.load_probe(folder), json.loads((folder / "model.json").read_text())
    backbone = iceprobe.load_backbone(BRIGHT)
    pixels = torch.stack(
        [backbone.preprocessing.transform(data.splits["test"].image(i)) for i in range(7)]
    )
    np.testing.assert_allclose(model(pixels).numpy(), expected(data, result), rtol=1e-5)
    assert (card["task"], card["classes"]) == (result.task, list(data.classes))
    assert card["measured"]["metric"] == {"multilabel": "map", "regression": "r2"}[result.task]
    assert card["measured"]["value"] == result.score.values[1]
    assert card["measured"]["mean"] == result.score.mean
    assert "top1" not in card["measured"]
    assert (card.get("units"), model.units) == (
        (UNITS, UNITS) if result.task == "regression" else (None, [])
    )


def test_the_table_has_every_output_in_a_column_of_its_name(run, tmp_path):
    data, result, folder = run
    model = iceprobe.load_probe(folder)
    predict(model, written(data, tmp_path / "images"), tmp_path / "p.csv")
    heading, *rows = table(tmp_path / "p.csv")
    outputs = expected(data, result)
    if result.task == "regression":
        assert heading == ["file", "light (lx)", "red"]
        wanted, labels = outputs, data.splits["test"].labels[:7]
        assert np.nanmax(np.abs(outputs[:, 0] - labels[:, 0])) < 2  # in the target's unit
    else:
        assert heading == ["file", "bright", "file_2", "'=red"]
        wanted = 1 / (1 + np.exp(-outputs))
    assert [row[0] for row in rows] == [f"{i}.png" for i in range(7)]
    np.testing.assert_allclose(np.array([row[1:] for row in rows], float), wanted, rtol=1e-5)


def test_top_is_of_tags_and_not_of_numbers(run, tmp_path):
    data, result, folder = run
    model, images = iceprobe.load_probe(folder), written(data, tmp_path / "images")
    pictures = [data.splits["test"].image(i) for i in range(7)]
    if result.task == "regression":
        for call in (
            lambda: predict(model, images, tmp_path / "p.csv", top=1),
            lambda: model.predict(pictures, top=1),
        ):
            with pytest.raises(IceprobeError, match="top=1: all numbers are told, leave it out"):
                call()
        found = model.predict(pictures)
        assert [[name for name, _ in of] for of in found] == [NUMBERS] * 7
        np.testing.assert_allclose(
            [[value for _, value in of] for of in found], expected(data, result), rtol=1e-5
        )
        return
    predict(model, images, tmp_path / "p.csv", top=2)
    heading, *rows = table(tmp_path / "p.csv")
    assert heading == ["file", "tag", "probability", "tag_2", "probability_2"]
    for row, outputs in zip(rows, expected(data, result), strict=True):
        order = np.argsort(-outputs)[:2]
        assert [cell.removeprefix("'") for cell in row[1::2]] == [TAGS[k] for k in order]
        np.testing.assert_allclose(
            np.array(row[2::2], float), 1 / (1 + np.exp(-outputs[order])), rtol=1e-5
        )
    assert all(len(of) == 3 for of in model.predict(pictures))
    assert all(len(of) == 1 for of in model.predict(pictures, top=1))


def test_changed_code_is_noticed_by_the_spread_of_the_targets(run, tmp_path):
    """A twentieth of a deviation is other code, a thousandth is rounding; both are nothing to 1,000."""
    data, result, folder = run
    if result.task != "regression":
        pytest.skip("logits are compared with the largest")
    card = json.loads((folder / "model.json").read_text())
    spread = np.nanstd(data.splits["test"].labels, 0)
    assert card["spread"] == pytest.approx(spread.tolist())
    for part, fine in ((1e-3, True), (0.05, False)):
        copy = tmp_path / str(part)
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        content = unseal(json.loads((copy / "model.json").read_text()), copy, "")
        content["check"][1] += part * spread[1]  # a number of 1e-3
        (copy / "model.json").write_text(json.dumps(seal(content)))
        if fine:
            iceprobe.load_probe(copy)
        else:
            with pytest.raises(IceprobeError, match="gives other values than when it was exported"):
                iceprobe.load_probe(copy)


def test_a_number_of_which_no_test_target_is_known_has_the_spread_of_its_predictions(tmp_path):
    data = dataset("regression")
    data.splits["test"].targets[:, 1] = np.nan
    store = iceprobe.extract(iceprobe.load_backbone(BRIGHT), data, tmp_path / "features")
    (result,) = iceprobe.fit(store, ["ridge?alpha=1"], output=tmp_path / "run")
    folder = iceprobe.export(result, tmp_path / "out")
    light, red = json.loads((folder / "model.json").read_text())["spread"]
    assert light == pytest.approx(np.nanstd(data.splits["test"].targets[:, 0]))
    predicted = result.needed_predictions().predicted[0, :, 1].astype(float)
    assert red == pytest.approx(predicted.std())
    iceprobe.load_probe(folder)
    iceprobe.report([result], tmp_path / "report.html")


def test_outputs_are_the_same_by_their_scale():
    logits = torch.tensor([20.0, 0.0])
    assert same_outputs(logits + 0.1, logits)
    assert not same_outputs(logits + 0.3, logits)
    assert not same_outputs(logits * torch.nan, logits)
    values = torch.tensor([1000.0, 1e-3])
    assert same_outputs(values + torch.tensor([0.009, 9e-6]), values, [1.0, 1e-3])
    assert not same_outputs(values + torch.tensor([0.0, 2e-5]), values, [1.0, 1e-3])
    assert not same_outputs(values + torch.tensor([0.02, 0.0]), values, [1.0, 1e-3])


def test_a_card_of_an_earlier_version_is_read(exported, results, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = unseal(json.loads((exported / "model.json").read_text()), exported, "")
    assert not {"task", "units", "spread"} & set(card)
    top1 = results["ep12"].top1
    assert card["measured"].pop("metric") == "top1"
    assert card["measured"].pop("value") == card["measured"]["top1"] == top1.values[1]
    (tmp_path / "model.json").write_text(json.dumps(seal(card)))
    model = iceprobe.load_probe(tmp_path)
    assert (model.card.measured.metric, model.card.measured.value) == ("top1", top1.values[1])
    assert model.task.name == "classification"


def test_onnx_names_its_outputs_and_says_what_they_are(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    data, result, _ = run
    folder = iceprobe.export(result, tmp_path / "out", seed=1, format="onnx")
    what = {"multilabel": "logits", "regression": "values"}[result.task]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    preprocessing = iceprobe.load_backbone(BRIGHT).preprocessing
    images = [preprocessing.transform(data.splits["test"].image(i)) for i in range(7)]
    (found,) = session.run([what], {"images": torch.stack(images).numpy()})
    np.testing.assert_allclose(found, expected(data, result), rtol=1e-4)
    props = {one.key: one.value for one in onnx.load(folder / "model.onnx").metadata_props}
    assert props["task"] == result.task
    assert json.loads(props["names"]) == list(data.classes)
    assert json.loads(props["units"]) == list(data.units)


def test_a_prediction_of_a_folder_from_the_command_line(run, tmp_path, monkeypatch, capsys):
    from iceprobe.cli import main

    data, result, folder = run
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save(written(data, tmp_path / "images") / "z.png")
    words = ["predict", str(folder), "--images", "images", "--trust"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None), capsys.readouterr().err
    assert len(table(tmp_path / "predictions.csv")) == 9
    with pytest.raises(SystemExit) as ended:
        main([*words, "--top", "2", "--output", "two.csv"])
    if result.task == "regression":
        assert ended.value.code == 2
        assert "top=2: all numbers are told" in capsys.readouterr().err
    else:
        assert len(table(tmp_path / "two.csv")[0]) == 5


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_probes_of_several_layers(task, tmp_path):
    data, solved = dataset(task), "logreg?C=1" if task == "multilabel" else "ridge?alpha=1"
    whole = iceprobe.load_backbone("bundled:mae-tiny?layer=-2,-1")
    stores = iceprobe.extract_layers(whole, data, tmp_path / "features", limit=40)
    probes = [f"{solved}&input=class+mean&layers=-2,-1", "ep2?layers=-2,-1"]
    results = iceprobe.fit(
        stores, probes, seeds=1, epochs=1, learning_rates=[0.03], min_steps=4, protocol="paper",
        output=tmp_path / "run",
    )  # fmt: skip
    pictures = [data.splits["test"].image(i) for i in range(3)]
    for number, result in enumerate(results):
        folder = iceprobe.export(result, tmp_path / f"out{number}")
        model, card = iceprobe.load_probe(folder), json.loads((folder / "model.json").read_text())
        assert (card["task"], list(card["layers"]), card["depth"]) == (task, ["4", "5"], 6)
        pixels = torch.stack([model.preprocessing.transform(one) for one in pictures])
        with torch.no_grad():
            wanted = result.probes[0].eval()(whole.joined(pixels)).numpy()
        np.testing.assert_allclose(model(pixels).numpy(), wanted, rtol=1e-4, atol=1e-4)
        predict(model, written(data, tmp_path / f"images{number}", 3), tmp_path / "p.csv")
        values = np.array([row[1:] for row in table(tmp_path / "p.csv")[1:]], float)
        if task == "multilabel":
            wanted = 1 / (1 + np.exp(-wanted))
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
