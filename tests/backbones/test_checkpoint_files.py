"""What a checkpoint file really is decides, not its ending; all of it is read as data."""

import gzip
import io
import pickle
import struct
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from iceprobe.backbones.checkpoints import load_checkpoint
from iceprobe.core.errors import IceprobeError

WEIGHTS = {"0.weight": torch.arange(12.0).reshape(4, 3), "0.bias": torch.arange(4.0)}


def loaded(path, **options) -> dict:
    module = nn.Sequential(nn.Linear(3, 4))
    load_checkpoint(module, str(path), **options)
    return module.state_dict()


def equal(found: dict) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[k], WEIGHTS[k]) for k in found)


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


def test_the_content_decides_not_the_ending(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.pth")
    assert equal(loaded(tmp_path / "model.pth"))
    assert equal(loaded(saved(WEIGHTS, tmp_path / "model.safetensors")))
    old = saved(WEIGHTS, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert equal(loaded(old))


def _torchscript() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("net/constants.pkl", b"")
        archive.writestr("net/data.pkl", b"")
    return stream.getvalue()


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, kernel=np.ones(2))
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("run/last.pth", b"x")
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("last.pth"))
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 346\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (LFS, "pointer of Git LFS, not the file: run git lfs pull"),
        (b"\n<!DOCTYPE html><html>403</html>", "is a web page, not the file: download"),
        (b'{"error": "gated"}', "is JSON text"),
        (b"epoch 3\nloss 0.1\n", r"is text \('epoch 3' …\), not weights"),
        (gzip.compress(b"\x80\x02", mtime=0), "is compressed: unpack it first"),
        (gzip.compress(_tar(), mtime=0), "is a compressed tar archive"),
        (_tar(), "is a tar archive: unpack"),
        (_zip(), r"is a zip archive of run/last\.pth: unpack"),
        (_npz(), "is an archive of NumPy arrays.*checkpoint_path=FILE"),
        (_torchscript(), "is a TorchScript program.*state_dict"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "is HDF5"),
        (save(WEIGHTS)[:-7], "can't be read .*is the file whole"),
        (struct.pack("<Q", 9) + b"{nothing}", "can't be read"),
        (pickle.dumps({"a": 1}), "can't be read"),
        (bytes(range(200, 256)) * 20, "can't be read"),
    ],
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_what_is_no_checkpoint_is_named(tmp_path, content, message, ending):
    path = tmp_path / f"model.{ending}"
    path.write_bytes(content)
    with pytest.raises(IceprobeError, match=message) as caught:
        loaded(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_folders_are_named_with_what_reads_them(tmp_path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp.save(WEIGHTS, checkpoint_id=tmp_path / "dcp", no_dist=True)
    with pytest.raises(IceprobeError, match="dcp_to_torch FOLDER FILE"):
        loaded(tmp_path / "dcp")
    dcp_to_torch_save(tmp_path / "dcp", tmp_path / "one.pth")  # what the remedy's command calls
    assert equal(loaded(tmp_path / "one.pth"))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(IceprobeError, match="transformers:FOLDER"):
        loaded(tmp_path / "hf")
    with pytest.raises(IceprobeError, match=r"is a folder \(dcp, hf, one\.pth\): name the file"):
        loaded(tmp_path)


@pytest.fixture
def foreign(monkeypatch):
    """Libraries that aren't installed where the file is read."""

    def define(name: str, base: type = object, **body) -> type:
        module, _, attribute = name.rpartition(".")
        made = types.ModuleType(module)
        kind = type(attribute, (base,), {"__module__": module, **body})
        setattr(made, attribute, kind)
        parent = module.partition(".")[0]
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, module, made)
        return kind

    return define


def test_plain_containers_beside_the_weights_are_read_as_data(tmp_path, foreign, monkeypatch):
    """As training scripts leave them: yacs, OmegaConf, easydict, a class of the script's own."""
    node = foreign("yacs.config.CfgNode", dict)
    config = node(MODEL=node(TYPE="vit"))
    config.__dict__["__immutable__"] = True
    meter = foreign("utils.meters.Meter")()
    meter.values = [0.1, torch.ones(2)]
    names = foreign("omegaconf.listconfig.ListConfig", list)(["a", "b"])
    content = {
        "model": WEIGHTS,
        "config": config,
        "meter": meter,
        "names": names,
        "best": np.float64(0.3),
        "curve": np.ones(3),
        "path": tmp_path,
        "args": types.SimpleNamespace(lr=0.1),
    }
    zipped = saved(content, tmp_path / "new.pth")
    old = saved(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("yacs.config", "utils.meters", "omegaconf.listconfig"):
        monkeypatch.delitem(sys.modules, name)
    assert equal(loaded(zipped))
    assert equal(loaded(old, key="model"))


class Runs:
    """A payload: what it names is called where a pickle is loaded without care."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return (self.call, self.args)


@pytest.mark.parametrize("beside", [False, True])
def test_payloads_are_refused_beside_containers_too(tmp_path, foreign, monkeypatch, beside):
    import builtins
    import os

    node = foreign("yacs.config.CfgNode", dict)() if beside else {}
    for number, payload in enumerate(
        (
            Runs(os.system, f"touch {tmp_path / 'owned'}"),
            Runs(builtins.eval, f"open({str(tmp_path / 'owned')!r}, 'w')"),
            Runs(open, str(tmp_path / "owned"), "w"),
            Runs(getattr, {}, "clear"),
        )
    ):
        path = saved({"c": node, "model": WEIGHTS, "x": payload}, tmp_path / f"{number}.pth")
        with pytest.raises(IceprobeError, match="can't be read as data") as caught:
            loaded(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_a_function_that_rebuilds_tensors_cant_be_changed(tmp_path):
    """A pickle may hand state to what it has on its stack; here to torch's own function."""
    before = torch._utils._rebuild_tensor_v2.__defaults__
    attack = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__N\x8cs\x86b."
    ).replace(b"N\x8cs", b"Ns")
    stream = io.BytesIO()
    torch.save({"a": 1}, stream)
    source = zipfile.ZipFile(io.BytesIO(stream.getvalue()))
    path = tmp_path / "attack.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, attack if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(IceprobeError, match="can't be read"):
        loaded(path)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_a_whole_module_is_answered_with_its_state_dict(tmp_path):
    path = saved({"net": nn.Linear(2, 2)}, tmp_path / "net.pth")
    with pytest.raises(IceprobeError, match=r"whole torch\.nn\..*Linear.*state_dict\(\)"):
        loaded(path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.arange(4.0).to_sparse(), r"0\.bias is sparse \(sparse_coo\): call to_dense\(\)"),
        (torch.empty(4, device="meta"), r"0\.bias has a shape and no values"),
        (
            torch.quantize_per_tensor(torch.arange(4.0), 0.1, 0, torch.qint8),
            r"0\.bias is quantised \(qint8\): call dequantize\(\)",
        ),
        (torch.arange(4, dtype=torch.int8), r"0\.bias holds int8, where the model has float32"),
        (
            torch.zeros(4).to(torch.float8_e4m3fn),
            r"0\.bias holds float8_e4m3fn with a separate scale",
        ),
    ],
)
def test_tensors_without_plain_numbers_are_refused(tmp_path, tensor, message):
    path = saved({**WEIGHTS, "0.bias": tensor}, tmp_path / "c.pth")
    with pytest.raises(IceprobeError, match=message):
        loaded(path)
