"""Tiny data sets and backbones of clips, recordings and bags."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers
from PIL import Image

from tests.backbones import test_clip_models, test_sound_models
from tests.datasets import sounds, videos

NAMES = ["a/0", "a/1", "b/0", "b/1"]  # of the test files, by their paths


def write_videos(folder: Path) -> str:
    """Five frames and more of two shades."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name, shade in (("a", 30), ("b", 200)):
            for number in range(count):
                frames = shade + rng.integers(0, 50, (5 + 2 * number, 24, 32, 3))
                videos.write(folder / split / name / f"{number}.mkv", frames.astype(np.uint8))
    return f"video:{folder}"


def write_sounds(folder: Path) -> str:
    for split, count in (("train", 4), ("test", 2)):
        for name, hertz in (("a", 300), ("b", 900)):
            for number in range(count):
                tone = sounds.tone(1_500 + 700 * number, hertz, seed=len(split))
                sounds.write(folder / split / name / f"{number}.wav", tone)
    return f"audio:{folder}"


def write_placed_bags(folder: Path) -> str:
    """The same, and where each image lies."""
    return f"{write_bags(folder)}&x=x&y=y"


def write_bags(folder: Path) -> str:
    """A table of bags of one to three images; those of the test split lie in a folder each."""
    rng, rows = np.random.default_rng(0), ["bag,image,target,split,x,y"]
    for split, count in (("train", 4), ("test", 2)):
        for name, shade in (("a", 30), ("b", 200)):
            for number in range(count):
                bag = f"{split}/{name}{number}"
                (folder / bag).mkdir(parents=True)
                for k in range(1 + (number + (name == "b")) % 3):
                    pixels = shade + rng.integers(0, 50, (24, 24))
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / bag / f"{k}.png")
                    rows.append(f"{bag},{bag}/{k}.png,{name},{split},{10 * k},3")
    (folder / "bags.csv").write_text("\n".join(rows))
    return f"bags:{folder}/bags.csv?example=bag&image=image&target=target&split=split"


class Case(NamedTuple):
    backbone: str
    write: Any
    layers: tuple[int, ...] = ()


CASES = {
    "frame by frame": Case("bundled:mae-tiny?frames=3", write_videos),
    "a vector a frame": Case("bundled:mae-tiny?frames=3&each=pooled", write_videos),
    "clips by themselves": Case("bundled:mae-tiny?frames=1&clips=2&averaged=true", write_videos),
    "two layers of frames": Case("bundled:mae-tiny?frames=2&layer=-2,-1", write_videos, (-2, -1)),
    "VideoMAE": Case("VideoMAE", write_videos),
    "WavLM": Case("WavLM", write_sounds),
    "Whisper": Case("Whisper", write_sounds),
    "AST": Case("AST", write_sounds),
    "bags": Case("bundled:mae-tiny?reads=bags", write_placed_bags),
    "patches of bags": Case("bundled:mae-tiny?reads=bags&each=patches", write_bags),
}


def spec_of(backbone: str, folder: Path) -> str:
    """The spec itself, or that of a small model of transformers, saved in ``folder``."""
    if backbone == "VideoMAE":
        return test_clip_models.made(test_clip_models.CASES[backbone], folder)[1]
    if backbone == "WavLM":
        return test_sound_models.waves(folder, backbone)[0]
    if backbone == "Whisper":
        return test_sound_models.whisper(folder)[0]
    if backbone == "AST":
        extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64)
        return test_sound_models.saved(folder, "AST", test_sound_models.AST, extractor)[0]
    return backbone
