"""An exported folder is the fitted probe on its backbone, by itself, and says so when it isn't."""

import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm import create_model

import iceprobe
from iceprobe.core.checksums import seal, unseal
from iceprobe.core.errors import IceprobeError
from iceprobe.exporting import writing
from iceprobe.exporting.rebuilding import architecture_spec
from iceprobe.results import read_results
from iceprobe.store.format import BackboneRecord
from tests.cli.conftest import BACKBONE as TINY
from tests.cli.conftest import write_images
from tests.cli.tiny import Tiny
from tests.exporting.models import Bright
from tests.reference import probes as reference


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pixels(dataset, count=5):
    preprocessing = iceprobe.load_backbone("bundled:mae-tiny").preprocessing
    split = dataset.splits["test"]
    return torch.stack([preprocessing.transform(split.image(i)) for i in range(count)])


@pytest.mark.parametrize(
    ("probe", "source", "backbone_weights"),
    [("linear", "memory", True), ("ep12", "disk", True), ("ep12", "memory", False)],
)
def test_logits_are_those_of_the_fitted_probe(
    results, clutter, tmp_path, offline, probe, source, backbone_weights
):
    result = results[probe]
    if source == "disk":
        result = {one.probe: one for one in read_results(result.run)}[probe]
    folder = iceprobe.export(result, tmp_path / "out", seed=1, backbone_weights=backbone_weights)
    names = {"probe.safetensors", "model.json"}
    assert {f.name for f in folder.iterdir()} == names | (
        {"backbone.safetensors"} if backbone_weights else set()
    )
    model = iceprobe.load_probe(folder)
    images = pixels(clutter)
    with torch.no_grad():
        tokens = iceprobe.load_backbone("bundled:mae-tiny")(images)
        expected = results[probe].probes[-1].eval()(tokens)
    assert torch.equal(model(images), expected)
    if len(results[probe].seeds) > 1:  # a linear probe is the same for every seed
        assert not torch.equal(expected, results[probe].probes[0].eval()(tokens))
    assert model.classes == list(clutter.classes)
    assert model.preprocessing == iceprobe.load_backbone("bundled:mae-tiny").preprocessing


def test_card_says_what_it_is_and_where_it_comes_from(results, exported):
    card, result = json.loads((exported / "model.json").read_text()), results["ep12"]
    assert (card["probe"], card["input"], card["seed"]) == ("ep12", "patches", 1)
    assert (card["num_classes"], len(card["classes"]), card["shape"]["dim"]) == (10, 10, 192)
    assert card["shape"]["grid"] == [14, 14]
    assert card["backbone"]["spec"] == "bundled:mae-tiny"
    assert card["backbone"]["preprocessing"]["image_size"] == 56
    assert card["store"] == result.store.identity
    assert card["measured"]["top1"] == result.top1.values[1]
    assert card["versions"]["torch"] == torch.__version__.split("+")[0]


def test_predict_takes_pictures_and_paths(exported, clutter, tmp_path):
    model, split = iceprobe.load_probe(exported), clutter.splits["test"]
    pictures = [split.image(i) for i in range(5)]
    pictures[1].save(tmp_path / "one.png")
    logits = model(pixels(clutter)).double()
    found = model.predict([pictures[0], tmp_path / "one.png", *pictures[2:]], top=3, batch_size=2)
    for row, best in zip(logits.exp() / logits.exp().sum(1, keepdim=True), found, strict=True):
        order = sorted(range(10), key=lambda c: -row[c])[:3]
        assert [name for name, _ in best] == [clutter.classes[c] for c in order]
        assert [p for _, p in best] == pytest.approx([float(row[c]) for c in order], rel=1e-3)
    (tmp_path / "two.png").write_text("no image")
    with pytest.raises(IceprobeError, match=r"two\.png"):
        model.predict([tmp_path / "two.png"])


def test_attention_is_the_formula(exported, clutter):
    model, images = iceprobe.load_probe(exported), pixels(clutter)
    tokens = model.backbone(images).patches.double()
    weights = load_file(exported / "probe.safetensors")
    names = ("query", "value.weight")
    _, expected = reference.ep(
        tokens, {name: weights[f"pooling.{name}"].double() for name in names}
    )
    torch.testing.assert_close(model.attention(images).double(), expected, rtol=1e-4, atol=1e-7)


def timm_run(folder: Path, spec: str) -> iceprobe.Result:
    images = write_images(folder / "images", {"train": 6, "test": 2})
    backbone, dataset = iceprobe.load_backbone(spec), iceprobe.load_dataset(f"folder:{images}")
    store = iceprobe.extract(backbone, dataset, folder / "features")
    options = {"seeds": 1, "epochs": 1, "learning_rates": [0.1]}
    return iceprobe.fit(store, ["ep4"], output=folder / "run", **options)[0]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights that neither timm's seed nor its hub gives."""
    torch.manual_seed(7)
    state = create_model("test_vit", num_classes=0).state_dict()
    save_file(state, tmp_path / "last.safetensors")
    return tmp_path / "last.safetensors"


def test_a_checkpoint_is_in_the_folder_and_not_needed_again(checkpoint, tmp_path, offline):
    spec = f"timm:test_vit?checkpoint={checkpoint}&image_size=32&layer=-2"
    result = timm_run(tmp_path, spec)
    folder = iceprobe.export(result, tmp_path / "out")
    backbone, images = iceprobe.load_backbone(spec), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = result.probes[0].eval()(backbone(images))
    checkpoint.unlink()
    assert torch.equal(iceprobe.load_probe(folder)(images), expected)


def test_without_weights_the_backbone_must_be_the_same(checkpoint, tmp_path):
    result = timm_run(tmp_path, f"timm:test_vit?checkpoint={checkpoint}&image_size=32")
    folder = iceprobe.export(result, tmp_path / "out", backbone_weights=False)
    state = load_file(checkpoint)
    save_file(state | {"norm.bias": state["norm.bias"] + 1}, checkpoint)
    for again in (
        lambda: iceprobe.load_probe(folder),
        lambda: iceprobe.export(result, tmp_path / "b"),
    ):
        with pytest.raises(IceprobeError, match=r"test_vit.*\(weights changed\)"):
            again()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("spec", "identity", "expected"),
    [
        # A bare name with a checkpoint reads the norm; timm's default weights of it are MAE's.
        (
            "timm:vit_huge_patch14_224?checkpoint=a.pth&checkpoint_key=model&strip=x.&ignore=y",
            {"norm": True},
            "timm:vit_huge_patch14_224?norm=true&pretrained=false",
        ),
        (
            "timm:vit_base_patch16_224.mae?layer=-2&image_size=112",
            {"norm": False},
            "timm:vit_base_patch16_224.mae?image_size=112&layer=-2&norm=false&pretrained=false",
        ),
        (f"{TINY}&checkpoint=a.pth", {}, TINY),
        ("bundled:mae-tiny", {"norm": False}, "bundled:mae-tiny?norm=false"),
    ],
)
def test_what_is_needed_of_a_spec_is_its_architecture(spec, identity, expected):
    record = BackboneRecord(
        spec=spec, name="", paradigm="", pooled_class=False, identity=identity, preprocessing={}
    )
    wanted, found = expected.partition("?"), architecture_spec(record).partition("?")
    assert found[0] == wanted[0]
    assert set(found[2].split("&")) == set(wanted[2].split("&"))


def test_half_precision_stays_half(tmp_path, monkeypatch):
    images = write_images(tmp_path / "images", {"train": 6, "test": 2})
    with monkeypatch.context() as patch:
        patch.setattr("tests.cli.tiny.Tiny", lambda: Tiny().to(torch.bfloat16))
        options = {"epochs": 1, "learning_rates": [0.1]}
        (result,) = iceprobe.probe(TINY, f"folder:{images}", ["linear"], **options)
        folder = iceprobe.export(result, tmp_path / "out")
    weight = iceprobe.load_probe(folder).backbone.reader.model.patch.weight
    assert weight.dtype == torch.bfloat16


def test_a_module_in_memory_is_refused_with_what_to_do(tmp_path):
    images = write_images(tmp_path / "images", {"train": 6, "test": 2})
    how = {"image_size": 32, "mean": (0, 0, 0), "std": (1, 1, 1), "num_prefix": 0}
    options = {"epochs": 1, "learning_rates": [0.1]}
    (result,) = iceprobe.probe(Bright(), f"folder:{images}", ["ep4"], **options, **how)
    with pytest.raises(
        IceprobeError, match=r"module:Bright.*python:package.module:factory"
    ) as seen:
        iceprobe.export(result, tmp_path / "out")
    assert "\n" not in str(seen.value)
    assert not (tmp_path / "out").exists()


def test_changed_code_is_noticed(tmp_path, monkeypatch):
    images = write_images(tmp_path / "images", {"train": 6, "test": 2})
    options = {"epochs": 1, "learning_rates": [0.1]}
    (result,) = iceprobe.probe(TINY, f"folder:{images}", ["ep4"], **options)
    folder = iceprobe.export(result, tmp_path / "out")
    iceprobe.load_probe(folder)
    tokens = Tiny.tokens
    monkeypatch.setattr(Tiny, "tokens", lambda self, images: tokens(self, images.flip(3)))
    with pytest.raises(IceprobeError, match="other logits than when it was exported"):
        iceprobe.load_probe(folder)


def flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def edited(**changes: object):
    def edit(folder: Path) -> None:
        card = unseal(json.loads((folder / "model.json").read_text()), folder, "")
        (folder / "model.json").write_text(json.dumps(seal(card | changes)))

    return edit


def restored(folder: Path) -> None:
    """Other statistics to normalise by, which no logits show."""
    card = json.loads((folder / "model.json").read_text())
    card["backbone"]["preprocessing"]["mean"] = [0.75]
    (folder / "model.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: flipped(f / "probe.safetensors"), "probe.safetensors is damaged"),
        (lambda f: flipped(f / "backbone.safetensors"), "backbone.safetensors is damaged"),
        (lambda f: (f / "backbone.safetensors").unlink(), "backbone.safetensors is missing"),
        (lambda f: (f / "model.json").unlink(), "no exported probe at"),
        (lambda f: (f / "model.json").write_text("{"), "model.json is damaged"),
        (lambda f: (f / "model.json").write_text("[]"), "model.json is damaged"),
        (edited(format=2), "format 2, this iceprobe reads 1"),
        (edited(seed="x"), "model.json is damaged"),
        (restored, "model.json is damaged or was changed by hand"),
        (edited(probe="ep6"), "probe.safetensors doesn't fit 'ep6'"),
        (edited(check=[0.0] * 10), "gives other logits"),
    ],
)
def test_damage_is_one_line(exported, tmp_path, damage, words):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    with pytest.raises(IceprobeError, match=words) as seen:
        iceprobe.load_probe(folder)
    assert "\n" not in str(seen.value)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_export_that_is_stopped_leaves_nothing(results, tmp_path, monkeypatch, interruption):
    def stop(*_: object) -> None:
        raise interruption

    monkeypatch.setattr(writing, "write_card", stop)
    with pytest.raises(interruption):
        iceprobe.export(results["linear"], tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(results, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(IceprobeError, match="is not empty"):
        iceprobe.export(results["linear"], tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert iceprobe.export(results["linear"], tmp_path / "empty") == tmp_path / "empty"
