"""What the guide's reader has: images in every layout, two runs, a checkpoint, a module."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from iceprobe.cli import demo, plan
from iceprobe.cli.config import resolve
from iceprobe.probes import PROBES
from tests.cli.conftest import write_images
from tests.datasets import layouts, sounds, videos
from tests.guide import substitutions
from tests.guide.running import ROOT, call

MODULE = """
from torch import nn

def build_cnn():
    return nn.Conv2d(3, 48, 4, stride=4)
"""
LOUDNESS = """
from torch import nn

from iceprobe.backbones.sound_preprocessing import SoundPreprocessing
from iceprobe.tokens import Tokens


class Loudness(nn.Module):
    preprocessing = SoundPreprocessing(8_000, shortest=400)

    def tokens(self, sounds):
        padded = sounds.padded()
        count = padded.shape[1] // 400
        found = padded[:, : count * 400].unflatten(1, (count, 16, 25)).square().mean(3).sqrt()
        mask = found.new_ones(count).cumsum(0) <= (sounds.lengths // 400)[:, None]
        return Tokens(found, found[:, :0], mask=mask)


def build_encoder():
    return Loudness()
"""
DEMO = dict(part.split("=") for part in substitutions.SHORTER["demo"].split())


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in folders, flat, in tars and as parquet; videos, sounds; two benchmark sets."""
    import datasets

    root = tmp_path_factory.mktemp("data")
    write_images(root / "birds", {"train": 10, "test": 4})
    write_images(root, {"flat": 8})
    rng = np.random.default_rng(0)
    for name in ("train-000", "train-001", "test-000"):
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for number in range(12):
                pixels = np.full((20, 24, 3), 60 + 60 * (number % 3)) + rng.integers(
                    0, 20, (20, 24, 3)
                )
                for key, content in (
                    ("png", _png(pixels)),
                    (
                        "json",
                        json.dumps({"species": ["dark", "grey", "light"][number % 3]}).encode(),
                    ),
                ):
                    member = tarfile.TarInfo(f"{number:04}.{key}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    columns = {
        "image": [
            {"bytes": _png(np.full((20, 24, 3), 40 * (i % 3))), "path": None} for i in range(24)
        ],
        "species": [["dark", "grey", "light"][i % 3] for i in range(24)],
    }
    features = datasets.Features({"image": datasets.Image(), "species": datasets.Value("string")})
    (root / "parquet" / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(root / "parquet" / "data" / f"{split}-00000-of-00001.parquet")
    for split, count in (("train", 8), ("test", 3)):
        for name, shade in (("jump", 40), ("run", 180)):
            for number in range(count):
                frames = np.full((6, 24, 32, 3), shade + number, np.uint8)
                videos.write(root / "actions" / split / name / f"{number}.mkv", frames)
    _sounds(root)
    layouts.aircraft(root)
    layouts.dtd(root)
    return root


def _sounds(root: Path) -> None:
    """Words in folders, four makers' drums, and two backbones: a small WavLM and a module."""
    import transformers

    for split, count in (("train", 8), ("test", 3)):
        for name, hertz in (("yes", 300), ("no", 900)):
            for number in range(count):
                sound = sounds.tone(4_000 + 500 * number, hertz)
                sounds.write(root / "words" / split / name / f"{number}.wav", sound)
    for maker in range(4):
        kit = root / "drumkits" / f"Maker{maker}_kit"
        listed = ""
        for number, name in enumerate(("Kick", "Snare", "Tom Low", "Closed HH", "Crash")):
            for layer in range(2):
                file = f"{number}-{layer}.wav"
                sounds.write(kit / file, sounds.tone(2_000 + 300 * maker, 200 * (number + 1)))
                listed += f"<instrument><name>{name}</name><filename>{file}</filename></instrument>"
        (kit / "drumkit.xml").write_text(f'<drumkit_info xmlns="http://x">{listed}</drumkit_info>')
    (root / "loudness.py").write_text(LOUDNESS)
    small = transformers.WavLMConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(5, 64), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    transformers.WavLMModel(small).save_pretrained(root / "wavlm")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(root / "wavlm")


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``demo`` and ``other``, each of sixty images, and the store of the first."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shorten(patch)
        call(["demo", "--output", "demo"])
        asked = ["--backbone", "bundled:mae-tiny?layer=2", "--data", "bundled:fashion-clutter"]
        asked += ["--probe", "knn", "--probe", "linear?input=mean", "--probe", "ep12"]
        call(["run", *asked, *substitutions.SHORTER["run"].split(), "--output", "other"])
    return folder


def shorten(patch: pytest.MonkeyPatch) -> None:
    """The demo on few images, and plans that measure for a moment."""

    def few(kind: type, values: dict) -> object:
        return resolve(kind, {**values, **DEMO})

    estimate = plan.estimate

    def at_once(*arguments: object, measure_seconds: float, **options: object) -> object:
        return estimate(*arguments, measure_seconds=0.1, **options)

    patch.setattr(demo, "resolve", few)
    patch.setattr(plan, "estimate", at_once)
    patch.setattr("iceprobe.cli.estimate.estimate", at_once)


@pytest.fixture
def reader(
    tmp_path: Path, data: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Make the working folder of the reader of a page: call it with the page's text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(PROBES, "_entries", dict(PROBES._entries))
    shorten(monkeypatch)

    def furnish(text: str) -> Path:
        for name in ("docs", "examples"):
            (tmp_path / name).symlink_to(ROOT / name)
        for name, made in substitutions.RUNS.items():
            if name in text:
                shutil.copytree(runs / made, tmp_path / name)
        if "features/STORE" in text or "features/mae-tiny" in text:
            (tmp_path / "features").mkdir()
            store = sorted((runs / "features").iterdir())[0]
            shutil.copytree(store, tmp_path / "features" / "STORE")
        if "last.pth" in text:
            torch.manual_seed(0)
            model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
            weights = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
            torch.save({"teacher": weights, "epoch": 3}, tmp_path / "last.pth")
        if "my_package" in text:
            (tmp_path / "my_package").mkdir()
            (tmp_path / "my_package" / "models.py").write_text(MODULE)
        return tmp_path

    return furnish
