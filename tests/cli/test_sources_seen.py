"""A finished run is looked up without its backbone, as long as the files of that are as they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from iceprobe.backbones import load_backbone
from iceprobe.backbones.local_files import local_files
from iceprobe.cli.sources_seen import FILE_NAME
from iceprobe.core.specs import parse_spec


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.fixture
def run(images, weights) -> list[str]:
    backbone = f"timm:test_vit?checkpoint={weights}"
    return ["run", "--backbone", backbone, "--data", f"folder:{images}", "--probe", "knn"]


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Specs of backbones that were loaded."""
    found = []

    def load(spec: str):
        found.append(spec)
        return load_backbone(spec)

    monkeypatch.setattr("iceprobe.load_backbone", load, raising=False)
    return found


def test_a_finished_run_loads_no_backbone(iceprobe, run, loads, weights, tmp_path):
    assert iceprobe(*run, "--output", "r").code == 0
    assert len(loads) == 1
    again = iceprobe(*run, "--output", "r")
    assert again.code == 0
    assert "complete already" in again.out
    assert len(loads) == 1
    (seen,) = json.loads((tmp_path / "r" / FILE_NAME).read_text())["backbones"].values()
    now = weights.stat()
    assert seen["files"] == {str(weights): [now.st_size, now.st_mtime_ns, now.st_ctime_ns]}
    assert seen["backbone"]["identity"]["weights"] == load_backbone(run[2]).identity()["weights"]


def test_other_weights_in_the_same_file_are_seen(iceprobe, run, loads, weights):
    assert iceprobe(*run, "--output", "r").code == 0
    weights.write_bytes(weights.read_bytes())  # the same again: looked at, and shown
    assert iceprobe(*run, "--output", "r").code == 0
    assert len(loads) == 2
    assert iceprobe(*run, "--output", "r").code == 0
    assert len(loads) == 2
    state, before = torch.load(weights), weights.stat()
    state["norm.bias"] += 1
    torch.save(state, weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` leaves it
    assert weights.stat().st_size == before.st_size
    ended = iceprobe(*run, "--output", "r")
    assert ended.code == 2
    assert "features have changed" in ended.err
    assert len(loads) == 3


@pytest.mark.parametrize("damage", [b"", b'{"versions": {}', b"[]", b'{"backbones": 3}'])
def test_what_is_not_whole_or_of_other_libraries_is_not_believed(
    iceprobe, run, loads, tmp_path, damage
):
    assert iceprobe(*run, "--output", "r").code == 0
    file = tmp_path / "r" / FILE_NAME
    content = json.loads(file.read_text())
    content["versions"]["timm"] = "0.1"
    file.write_bytes(damage or json.dumps(content).encode())
    assert iceprobe(*run, "--output", "r").code == 0
    assert len(loads) == 2


def test_a_campaign_knows_all_its_backbones(iceprobe, run, loads):
    campaign = [*run, "--backbone", "bundled:mae-tiny", "--output", "c"]
    assert iceprobe(*campaign).code == 0
    assert len(loads) == 2
    assert "complete already" in iceprobe(*campaign).out
    assert len(loads) == 2


def test_a_finished_run_is_shown_without_torch(iceprobe, tmp_path):
    run = "run --backbone bundled:mae-tiny --data bundled:fashion --limit 60 --probe knn --output r"
    assert iceprobe(*run.split()).code == 0
    code = (
        "import sys\nfrom iceprobe.cli.app import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *run.split()]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "complete already" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "False"


def test_files_are_named_where_they_are_all_there_is_to_it(tmp_path, monkeypatch):
    def files(text: str) -> list[str] | None:
        found = local_files(parse_spec(text))
        return None if found is None else [str(path.relative_to(tmp_path)) for path in found]

    (tmp_path / "vit").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "vit" / name).write_text("{}")
    folder = ["vit/config.json", "vit/model.safetensors"]
    assert files(f"transformers:{tmp_path}/vit") == folder
    assert files(f"diffusers:{tmp_path}/vit?checkpoint={tmp_path}/a.pt") == [*folder, "a.pt"]
    assert files(f"open_clip:local-dir:{tmp_path}/vit") == folder
    assert files("timm:test_vit?pretrained=false") == []
    # Code of somebody else's, and what a server says.
    for text in (
        f"transformers:{tmp_path}/vit?trust=true",
        f"torch_hub:{tmp_path}/vit?entry=a",
        "python:./models.py:build",
        "open_clip:ViT-B-16?pretrained=openai",
    ):
        assert files(text) is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert files("transformers:facebook/vit") is None
    assert files("timm:test_vit.r160_in1k") is None
    for cached in ("models--facebook--vit", "models--timm--test_vit.r160_in1k"):
        (tmp_path / cached / "snapshots/abc").mkdir(parents=True)
        (tmp_path / cached / "snapshots/abc/model.safetensors").write_text("{}")
        (tmp_path / cached / "refs").mkdir()
        (tmp_path / cached / "refs/main").write_text("abc")
        expected = [f"{cached}/refs/main", f"{cached}/snapshots/abc/model.safetensors"]
        spec = "timm:test_vit.r160_in1k" if "timm" in cached else "transformers:facebook/vit"
        assert files(spec) == expected
