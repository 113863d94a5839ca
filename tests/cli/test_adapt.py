"""``iceprobe adapt``: from images to a report, again, and what a user can get wrong."""

import json
import os
import re

import pytest
import yaml

from tests.adaptation.kinds import data
from tests.backbones.test_sound_models import waves

VIT = "python:tests.cli.tiny:build_vit?image_size=16&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"


@pytest.fixture
def quick(images) -> list[str]:
    """Options of a run that takes two seconds."""
    return [
        "--backbone", VIT, "--data", f"folder:{images}", "--seeds", "1", "--epochs", "1",
        "--batch-size", "18", "--learning-rates", "1e-3", "--output", "mine",
    ]  # fmt: skip


def test_adapted_and_frozen_end_in_one_table_and_one_report(iceprobe, quick, tmp_path):
    ended = iceprobe("adapt", *quick, "--adapt", "none", "--adapt", "lora?rank=2 + ep2")
    assert ended.code == 0, ended.err
    assert "about" in ended.out
    assert "lora?rank=2 + ep2" in ended.out
    results = json.loads((tmp_path / "mine" / "results.json").read_text())["results"]
    assert [(one["adaptation"], one["probe"]) for one in results] == [
        (None, "linear"),
        ("lora?rank=2", "ep2"),
    ]
    adapter, pooling, classifier = 2 * 2 * (12 + 12), 2 * 12 + 12 * 12, 13 * 3
    assert results[1]["parameters"] == {
        "adapter": adapter, "pooling": pooling, "classifier": classifier,
        "total": adapter + pooling + classifier,
    }  # fmt: skip
    saved = tmp_path / "mine" / results[1]["files"]["adapters"][0]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in saved.iterdir()}
    assert "LoRA (rank=2) + EP2" in (tmp_path / "mine" / "report.html").read_text()

    ended = iceprobe("compare", "mine", "--against", "linear")
    assert (ended.code, ended.err) == (0, "")
    assert "lora?rank=2 + ep2" in ended.out
    ended = iceprobe("compare", "mine", "--against", "lora?rank=2&blocks=all + ep2")
    assert ended.code == 0, ended.err
    assert "bundled" not in iceprobe("ls", "runs").err
    ended = iceprobe("report", "mine", "--output", "table.csv")
    assert ended.code == 0
    assert "lora?rank=2" in (tmp_path / "table.csv").read_text()


def test_runs_of_their_own_are_compared_with_a_frozen_one(iceprobe, quick, images):
    frozen = ["--backbone", VIT, "--data", f"folder:{images}", "--seeds", "1", "--epochs", "1"]
    assert iceprobe("run", *frozen, "--probe", "linear", "--output", "frozen").code == 0
    assert iceprobe("adapt", *quick, "--adapt", "bitfit").code == 0
    ended = iceprobe("compare", "frozen", "mine")
    assert (ended.code, ended.err) == (0, "")
    assert "bitfit + linear" in ended.out
    ended = iceprobe("compare", "frozen", "mine", "--against", "bitfit + linear")
    assert ended.code == 0, ended.err
    assert re.search(r"^linear\*? +\d", ended.out, re.MULTILINE), ended.out
    assert iceprobe("report", "frozen", "mine", "--output", "both.html").code == 0


def test_a_finished_run_is_shown_and_never_overwritten(iceprobe, quick, tmp_path):
    command = ["adapt", *quick, "--adapt", "layernorm"]
    assert iceprobe(*command).code == 0
    os.utime(tmp_path / "mine" / "results.json", ns=(1, 1))
    again = iceprobe(*command)
    assert (again.code, "complete already" in again.out) == (0, True)
    assert iceprobe(*command, "--accumulate", "2", "--checkpointing").code == 0  # circumstances
    other = iceprobe("adapt", *quick, "--adapt", "bitfit")
    assert other.code == 2
    assert "another configuration" in other.err
    assert iceprobe(*command, "--no-resume").code == 2
    assert (tmp_path / "mine" / "results.json").stat().st_mtime_ns == 1
    config = yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text())
    assert config["adapt"] == ["layernorm"]
    ended = iceprobe(
        "adapt", "mine/config.yaml", "output=again", "accumulate=2", "checkpointing=true"
    )
    assert ended.code == 0, ended.err
    assert (tmp_path / "again" / "results.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--adapt", "lore"], "Did you mean lora"),
        (["--adapt", "lora?rank=2", "--probe", "knn"], "trains nothing"),
        (["--adapt", "lora?modules=fc7"], "no module of VisionTransformer is fc7"),
        (["--adapt", "lora?rank=13"], "has rank 12 itself"),
        (["--adapt", "lora", "--probe", "ep5"], "ep5"),
        (["--adapt", "lora", "--amp", "float16"], "--forward-dtype"),
        (["--adapt", "lora", "--accumulate", "0"], "--accumulate"),
        (["--adapt", "lora", "--limit", "2"], "no training image of class"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(iceprobe, quick, tmp_path, options, said):
    ended = iceprobe("adapt", *quick, *options)
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_an_image_that_cannot_be_read_is_named(iceprobe, tmp_path, images):
    from tests.cli.conftest import write_images

    folder = write_images(tmp_path / "images", {"train": 4, "test": 2})
    (folder / "train" / "grey" / "01.png").write_bytes(b"no image")
    ended = iceprobe(
        "adapt", "--backbone", VIT, "--data", f"folder:{folder}", "--adapt", "lora", "--output", "m"
    )
    assert ended.code == 2
    assert "01.png" in ended.err
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_recordings_are_adapted_from_files_to_the_report(iceprobe, tmp_path):
    pytest.importorskip("soundfile")
    data("sound", tmp_path, 12, 6)
    spec, *_ = waves(tmp_path / "model", "wav2vec 2.0, layer norm")
    words = [
        "adapt", "--backbone", spec, "--data", f"audio:{tmp_path / 'sounds'}", "--seeds", "1", "--epochs",
        "2", "--batch-size", "6", "--learning-rates", "1e-2", "--probe", "ep2", "--adapt", "none",
        "--adapt", "lora?rank=2", "--output", "mine",
    ]  # fmt: skip
    ended = iceprobe(*words)
    assert ended.code == 0, ended.err
    assert "lora?rank=2 + ep2" in ended.out
    frozen, lora = json.loads((tmp_path / "mine" / "results.json").read_text())["results"]
    assert lora["parameters"]["adapter"] == 3 * 2 * (16 + 16)
    assert lora["flops"] == frozen["flops"]
    assert lora["test_images"] == 6
    page = (tmp_path / "mine" / "report.html").read_text()
    assert "LoRA (rank=2) + EP2" in page
    again = iceprobe(*words)
    assert again.code == 0, again.err
    refused = iceprobe(*words[:-1], "other", "--augmentation", "light")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "reads recordings: leave it out" in refused.err


def test_ls_adaptations_lists_them_with_their_keys(iceprobe):
    out = iceprobe("ls", "adaptations").out
    for word in ("lora", "bitfit", "layernorm", "full", "rank=8", "layer_decay=0.75"):
        assert word in out
