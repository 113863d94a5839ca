"""``export`` and ``predict`` of clips, recordings and bags, as they are typed."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iceprobe as package
from tests.datasets import sounds
from tests.exporting.kinds import CASES, spec_of

pytest.importorskip("av")
pytest.importorskip("soundfile")
pytest.importorskip("soxr")

QUICK = ["--probe", "ep2", "--seeds", 1, "--epochs", 2, "--learning-rates", "0.1", "--protocol", "paper"]  # fmt: skip


@pytest.mark.parametrize("name", ["frame by frame", "WavLM", "bags"])
def test_from_a_run_to_a_table(iceprobe, tmp_path, name):
    case = CASES[name]
    spec, data = spec_of(case.backbone, tmp_path / "model"), case.write(tmp_path / "data")
    ended = iceprobe("run", "--backbone", spec, "--data", data, *QUICK, "--output", "runs/mine")
    assert ended.code == 0, ended.err
    noun = {"frame by frame": "clip", "WavLM": "recording", "bags": "bag"}[name]
    counts = {split: len(one) for split, one in package.load_dataset(data).splits.items()}
    planned = re.search(r"plan: (\d+) (\w+)", ended.out)
    assert planned is not None
    assert (int(planned[1]), planned[2]) == (sum(counts.values()), f"{noun}s")
    assert re.search(rf"fit: 2 epochs of .* \(\d+ {noun}s each\)", ended.out)
    ended = iceprobe("plan", "--backbone", spec, "--data", data, *QUICK, "--features", "none")
    assert re.search(rf"{noun}s.* train {counts['train']}, test {counts['test']}", ended.out)
    assert re.search(rf"FLOPs, extraction .* a {noun}\b", ended.out)
    assert f" {noun}s/s" in ended.out
    ended = iceprobe("export", "runs/mine", "--probe", "ep2", "--output", "mine")
    assert ended.code == 0, ended.err
    ended = iceprobe("predict", "mine", "--examples", "data/test", "--forward-batch-size", 3)
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(Path("predictions.csv").read_text().splitlines()))
    records = package.records(package.read_results("runs/mine")[0])
    classes = [row["class"] for row in rows]
    assert classes == [["a", "b"][k] for k in records["logits"][0].argmax(1)]
    assert iceprobe("predict", "mine", "--images", "data/test", "--output", "again.csv").code == 0
    again = list(csv.DictReader(Path("again.csv").read_text().splitlines()))
    assert [row["class"] for row in again] == classes
    ended = iceprobe("predict", "mine", "--examples", "data/test", "--maps", "maps")
    if name == "bags":
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "the tokens of bags of images have no grid: leave --maps out" in ended.err
        return
    what = "clip" if name == "frame by frame" else "recording"
    assert f"maps: the {what}, predictor 1, predictor 2\n" in ended.out
    assert len(list(Path("maps").rglob("*.png"))) == 4


def test_what_was_done_to_recordings_is_said(iceprobe, fitted, tmp_path):
    folder = tmp_path / "new"
    sounds.write(folder / "one.wav", np.stack([sounds.tone(4_000)] * 2, 1))
    sounds.write(folder / "two.wav", sounds.tone(4_000), 8_000)
    ended = iceprobe("predict", fitted["WavLM"], "--examples", folder)
    assert ended.code == 0, ended.err
    assert (
        "assumed: 1 of 2 recordings with several channels, mixed to one by their mean" in ended.out
    )
    assert "assumed: 1 of 2 recordings at another rate than the backbone's, converted" in ended.out


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> dict[str, Path]:
    """Exported probes, made once; no case may change them."""
    made = {}
    for name in ("frame by frame", "WavLM", "bags"):
        place, case = tmp_path_factory.mktemp("kind"), CASES[name]
        backbone = package.load_backbone(spec_of(case.backbone, place / "model"))
        data = package.load_dataset(case.write(place / "data"))
        store = package.extract(backbone, data, place / "features")
        options = {"seeds": 1, "epochs": 1, "learning_rates": [0.1], "protocol": "paper"}
        (result,) = package.fit(store, ["ep2"], output=place / "run", **options)
        made[name] = package.export(result, place / "out")
    return made


WRONG = {
    "no video": ("frame by frame", "images", ["holds no video (.mp4"]),
    "no recording": ("WavLM", "images", ["holds no recording (.wav"]),
    "no folder": ("WavLM", "none", ["no folder 'none': name one that holds recordings"]),
    "images beside bags": ("bags", "images", ["'a.png'", "isn't directly inside one of the folders"]),
    "images below bags": ("bags", "below", ["'x/y/a.png'", "move it into its bag's"]),
    "a bad video": ("frame by frame", "bad", ["video 'bad/a.mp4' can't be read", "--on-bad-image skip"]),
    "a bad recording": ("WavLM", "bad", ["recording 'bad/a.wav' can't be read", "--on-bad-image skip"]),
    "a short recording": ("WavLM", "short", ["'a.wav' can't be made ready (it has 9 samples"]),
    "a bad image": ("bags", "badbags", ["bags/one/a.png", "--on-bad-image skip"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_examples_end_in_one_line_and_leave_nothing(iceprobe, fitted, tmp_path, name):
    case, given, words = WRONG[name]
    for path in ("images/a.png", "below/x/y/a.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        Image.new("L", (20, 20)).save(tmp_path / path)
    for path in ("bad/a.mp4", "bad/a.wav", "badbags/one/a.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"neither" * 100)
    sounds.write(tmp_path / "short" / "a.wav", np.zeros(9, np.float32))
    before = sorted(tmp_path.rglob("*"))
    ended = iceprobe("predict", fitted[case], "--examples", given)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    for word in words:
        assert word in ended.err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_can_be_read_is_predicted_of(iceprobe, fitted, tmp_path):
    sounds.write(tmp_path / "new" / "good.wav", sounds.tone(3_000))
    sounds.write(tmp_path / "new" / "short.wav", np.zeros(9, np.float32))
    ended = iceprobe("predict", fitted["WavLM"], "--examples", "new", "--on-bad-image", "skip")
    assert ended.code == 0, ended.err
    assert "left out 1 recording that could not be read: 'short.wav'" in ended.out
    rows = csv.reader(Path("predictions.csv").read_text().splitlines())
    assert [row[0] for row in rows] == ["file", "good.wav"]


def test_errors_call_a_clip_a_clip(iceprobe, tmp_path):
    case = CASES["frame by frame"]
    spec, data = spec_of(case.backbone, tmp_path / "model"), case.write(tmp_path / "data")
    run = ["run", "--backbone", spec, "--data", data, *QUICK, "--output", "runs/mine"]
    ended = iceprobe(*run, "--limit", 1)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "the limit took 1 of 8 training clips: raise it" in ended.err
    broken = min(file for file in (tmp_path / "data/train").rglob("*") if file.is_file())
    broken.write_bytes(b"no video")
    ended = iceprobe(*run)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"train/{broken.parent.name}/{broken.name}" in ended.err
    assert "(leave such clips out with on_bad_image=skip, on the command line" in ended.err
