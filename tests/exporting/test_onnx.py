"""The ONNX of an exported probe is the same function, for every probe there is and any batch."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.exporting import onnx_format
from iceprobe.exporting.onnx_format import write_onnx
from iceprobe.probes import PROBES
from tests.exporting.conftest import untrained

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

WIDE = "python:tests.exporting.models:wide?image_size=16&mean=0,0,0&std=1,1,1&crop_pct=1"
REST = [f"{name}4" if PROBES[name].number else name for name in PROBES if PROBES[name].target]
REST += ["linear?input=mean", "ep4?input=prefix+patches"]
REST.remove("ep4")


def logits(folder: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize(
    "probe",
    ["ep4"] + [pytest.param(probe, marks=pytest.mark.slow) for probe in REST],
)
def test_every_probe_gives_the_same_logits_in_onnxruntime(probe, tmp_path):
    model = untrained(WIDE, probe, ["a", "b", "c"])
    write_onnx(model, tmp_path)
    for batch in (1, 5):
        images = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
        found = logits(tmp_path, images)
        assert found.shape == (batch, 3)
        torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)


def test_a_model_with_vectors_of_its_own_takes_any_batch(tmp_path):
    spec = "timm:test_resnet?pretrained=false&image_size=32"
    model = untrained(spec, "linear?input=mean", ["a", "b", "c"])
    write_onnx(model, tmp_path)
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        torch.testing.assert_close(logits(tmp_path, images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_real_backbone_with_its_fitted_probe(results, clutter, tmp_path):
    folder = iceprobe.export(results["ep12"], tmp_path / "out", format="onnx")
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "model.json"}
    card = json.loads((folder / "model.json").read_text())
    kind = card["backbone"]["preprocessing"]
    # What a user of another language does, from what the card says.
    split, grey = clutter.splits["test"], []
    for i in range(5):
        plain = np.asarray(split.image(i), np.float32) / 255
        assert plain.shape == (kind["image_size"],) * 2
        grey.append((plain - kind["mean"][0]) / kind["std"][0])
    images = torch.from_numpy(np.stack(grey)[:, None])
    probe, backbone = results["ep12"].probes[0].eval(), iceprobe.load_backbone("bundled:mae-tiny")
    with torch.no_grad():
        expected = probe(backbone(images))
    for count in (1, 5):
        torch.testing.assert_close(
            logits(folder, images[:count]), expected[:count], rtol=1e-4, atol=1e-4
        )
    assert b"site-packages" not in (folder / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in (folder / "model.onnx").read_bytes()
    with pytest.raises(IceprobeError, match=r"is an ONNX export: open model.onnx with onnxruntime"):
        iceprobe.load_probe(folder)


@pytest.mark.slow
def test_weights_beyond_a_protobuf_lie_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_format, "PROTOBUF_BYTES", 0)
    model = untrained(WIDE, "ep4?out_dim=2048", ["a", "b", "c"])
    write_onnx(model, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(tmp_path, images), model(images), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_written_is_one_line(tmp_path):
    model = untrained(WIDE.replace(":wide", ":fickle"), "ep4", ["a", "b"])
    with pytest.raises(IceprobeError, match=r"can't be written as ONNX.*--format folder") as seen:
        write_onnx(model, tmp_path)
    assert "\n" not in str(seen.value)


def test_a_missing_package_is_named_with_the_extra(results, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    with pytest.raises(IceprobeError, match=r"'onnxscript': pip install 'iceprobe\[onnx\]'"):
        iceprobe.export(results["ep12"], tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()
