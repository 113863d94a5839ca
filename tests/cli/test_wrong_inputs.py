"""What a user can get wrong: one line that names the thing, the value and the remedy, exit code 2.

Nothing may be left behind: neither a run folder nor anything half-written among the features.
"""

import argparse
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.cli.conftest import BACKBONE, write_images
from tests.cli.tiny import build

SMALL = {"train": 4, "test": 2}


class Desk:
    """A working folder with good images, and short words for what the cases need.

    Attributes:
        folder: the working folder.
        images: a good data set in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.images = write_images(folder / "images", SMALL)

    def run(self, *probes: str, backbone: str = BACKBONE, data: str | None = None) -> list[str]:
        """A run that would work, with what is wrong in place of what is right."""
        data = data if data is not None else f"folder:{self.images}"
        words = ["run", "--backbone", backbone, "--data", data, "--output", "mine"]
        words += ["--epochs", "1", "--seeds", "1"]
        return words + [word for probe in probes or ("knn",) for word in ("--probe", probe)]

    def yaml(self, text: str) -> list[str]:
        (self.folder / "c.yaml").write_text(text)
        return ["run", "c.yaml", "output=mine"]


def png_of(width: int, height: int) -> bytes:
    """A valid PNG header that claims a size, with hardly any pixels behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def with_image(content: bytes) -> Callable[[Desk], list[str]]:
    def arrange(desk: Desk) -> list[str]:
        (desk.images / "train" / "grey" / "bad.png").write_bytes(content)
        return desk.run()

    return arrange


def truncated_image(desk: Desk) -> list[str]:
    image = desk.images / "train" / "grey" / "00.png"
    Image.effect_noise((64, 64), 50).save(image)
    image.write_bytes(image.read_bytes()[:1500])
    return desk.run()


def folder_without_classes(desk: Desk) -> list[str]:
    (desk.folder / "bare").mkdir()
    return desk.run(data=f"folder:{desk.folder}/bare")


def empty_split(desk: Desk) -> list[str]:
    for image in desk.images.glob("test/*/*"):
        image.unlink()
    return desk.run()


def class_missing_from_train(desk: Desk) -> list[str]:
    write_images(desk.images, {"test": 1}, ["unseen"])
    return desk.run()


def checkpoint(content: object, key: str = "") -> Callable[[Desk], list[str]]:
    def arrange(desk: Desk) -> list[str]:
        torch.save(content, desk.folder / "c.pth")
        return desk.run(backbone=f"{BACKBONE}&checkpoint={desk.folder}/c.pth{key}")

    return arrange


def checkpoint_that_is_none(desk: Desk) -> list[str]:
    (desk.folder / "c.pth").write_bytes(b"PK no checkpoint")
    return desk.run(backbone=f"{BACKBONE}&checkpoint={desk.folder}/c.pth")


def output_is_a_file(desk: Desk) -> list[str]:
    (desk.folder / "file").write_text("precious")
    return [*desk.run(), "--output", "file"]


def output_holds_something_else(desk: Desk) -> list[str]:
    (desk.folder / "thesis").mkdir()
    (desk.folder / "thesis" / "final.tex").write_text("precious")
    return [*desk.run(), "--output", "thesis"]


def below_a_file(*words: str) -> Callable[[Desk], list[str]]:
    """A command that is to write to ``file/sub``, where ``file`` is a file."""

    def arrange(desk: Desk) -> list[str]:
        (desk.folder / "file").write_text("precious")
        (desk.folder / "folder.html").mkdir()
        (desk.folder / "run").mkdir()
        (desk.folder / "run" / "results.json").write_text('{"format": 1, "results": []}')
        return [*(desk.run() if words[0].startswith("-") else ()), *words]

    return arrange


def flag(*words: str) -> Callable[[Desk], list[str]]:
    return lambda desk: [*desk.run(), *words]


LONG = 300 * "n"
GOOD_WEIGHTS = build().state_dict()
WRONG: dict[str, tuple[Callable[[Desk], list[str]], list[str]]] = {
    # name: how to get it wrong, and words that the line must have (thing, value, remedy)
    "probe": (lambda d: d.run("lineer"), ["lineer", "linear"]),
    "probe option": (lambda d: d.run("ep4?quries=3"), ["quries", "queries"]),
    "probe number": (lambda d: d.run("linear8"), ["linear8", "linear"]),
    "queries don't divide": (lambda d: d.run("ep5"), ["ep5", "out_dim=12", "ep6"]),
    "backbone kind": (lambda d: d.run(backbone="tim:x"), ["tim", "timm"]),
    "backbone without kind": (lambda d: d.run(backbone="vit"), ["vit", "timm:"]),
    "timm name": (
        lambda d: d.run(backbone="timm:vit_smal_patch16_224"),
        ["vit_smal_patch16_224", "vit_small_patch16_224"],
    ),
    "bundled backbone": (lambda d: d.run(backbone="bundled:mae-tny"), ["mae-tny", "mae-tiny"]),
    "backbone key": (lambda d: d.run(backbone=f"{BACKBONE}&layr=1"), ["layr", "layer"]),
    "python module": (lambda d: d.run(backbone="python:no.such:f?image_size=8"), ["no.such"]),
    "data kind": (lambda d: d.run(data="foldr:/x"), ["foldr", "folder"]),
    "bundled data": (lambda d: d.run(data="bundled:fashon"), ["fashon", "fashion"]),
    "no such folder": (lambda d: d.run(data="folder:/no/such"), ["/no/such"]),
    "folder without classes": (folder_without_classes, ["bare", "class"]),
    "empty split": (empty_split, ["test", "images"]),
    "class missing from train": (class_missing_from_train, ["unseen", "train"]),
    "unreadable image": (with_image(b"no image"), ["grey/bad.png", "--on-bad-image skip"]),
    "truncated image": (truncated_image, ["grey/00.png", "--on-bad-image skip"]),
    "decompression bomb": (
        with_image(png_of(30000, 30000)),
        ["grey/bad.png", "limit", "--on-bad-image skip"],
    ),
    "yaml": (lambda d: d.yaml("a: [1,\nb: 2"), ["c.yaml", "line 2"]),
    "yaml without keys": (lambda d: d.yaml("- a\n- b"), ["c.yaml", "key: value"]),
    "yaml key": (lambda d: d.yaml("backbon: x"), ["backbon", "backbone"]),
    "no such yaml": (lambda d: ["run", "none.yaml"], ["none.yaml", "No such file"]),
    "override": (lambda d: [*d.yaml("seeds: 1"), "epochs"], ["epochs", "key=value"]),
    "override key": (lambda d: [*d.yaml("seeds: 1"), "epoch=3"], ["epoch", "epochs"]),
    "no backbone": (lambda d: d.yaml(yaml.safe_dump({"data": "x"})), ["backbone", "--backbone"]),
    "forward dtype": (flag("--amp", "float8"), ["--forward-dtype", "float8", "bfloat16"]),
    "forward dtype, as tokens are stored": (
        flag("--forward-dtype", "int8"),
        ["--forward-dtype", "int8", "float16"],
    ),
    "stored dtype": (flag("--tokens", "int4"), ["--tokens", "int4", "int8"]),
    "protocol": (flag("--protocol", "papr"), ["--protocol", "papr", "paper"]),
    "seeds": (flag("--seeds", "-1"), ["--seeds", "-1", "greater than or equal to 1"]),
    "memory": (flag("--memory", "lots"), ["--memory", "lots", "8GB"]),
    "shuffle": (flag("--shuffle", "random"), ["--shuffle", "random", "'blocks'"]),
    "limit": (flag("--limit", "0"), ["--limit", "0"]),
    "device": (flag("--device", "gpu"), ["gpu", "cpu"]),
    "option": (flag("--sedes", "3"), ["--sedes", "--seeds"]),
    "option value": (flag("--epochs", "many"), ["--epochs", "iceprobe run --help"]),
    "command": (lambda d: ["rum"], ["rum", "run"]),
    "list": (lambda d: ["ls", "probe"], ["probe", "probes"]),
    "checkpoint missing": (
        lambda d: d.run(backbone=f"{BACKBONE}&checkpoint=/no/such.pth"),
        ["/no/such.pth"],
    ),
    "no checkpoint": (checkpoint_that_is_none, ["c.pth"]),
    "keys of a checkpoint": (checkpoint({"stem.weight": torch.ones(1)}), ["c.pth", "patch.weight"]),
    "checkpoint_key": (
        checkpoint(
            {"teacher": GOOD_WEIGHTS, "args": argparse.Namespace(lr=1)}, "&checkpoint_key=student"
        ),
        ["student", "teacher"],
    ),
    "output is a file": (output_is_a_file, ["file", "--output"]),
    "output below a file": (
        below_a_file("--output", "file/sub"),
        ["--output", "file/sub", "'file'", "choose another"],
    ),
    "output's name": (flag("--output", LONG), ["--output", LONG, "too long", "choose another"]),
    "output's name in a new folder": (
        flag("--output", f"new/{LONG}"),
        ["--output", LONG, "255 bytes", "choose another"],
    ),
    "features is a file": (
        below_a_file("--features", "file"),
        ["--features", "file", "choose another"],
    ),
    "extract's place is a file": (
        lambda d: [
            *below_a_file("extract", "--features", "file")(d),
            *d.run()[1:5],
        ],
        ["--features", "file", "choose another"],
    ),
    "report is a folder": (
        below_a_file("report", "run", "--output", "folder.html"),
        ["--output", "folder.html", "name a file"],
    ),
    "report below a file": (
        below_a_file("report", "run", "--output", "file/x.md"),
        ["--output", "'file'", "choose another"],
    ),
    "report's name": (
        below_a_file("report", "run", "--output", f"{LONG}.md"),
        ["too long", LONG, "choose another"],
    ),
    "store is a file": (below_a_file("fit", "file"), ["file", "choose another"]),
    "several runs, no file": (
        below_a_file("report", "run", "run"),
        ["2 runs", "--output"],
    ),
    "learning rates": (
        flag("--learning-rates", "1e-3,high"),
        ["--learning-rates", "high", "number"],
    ),
    "weight decays": (flag("--weight-decays", "0,-1"), ["--weight-decays", "-1", "equal to 0"]),
    "halving under paper": (
        lambda d: [*d.run("linear"), "--protocol", "paper", "--halving"],
        ["halving", "'paper'", "heldout"],
    ),
    "file without store": (
        lambda d: ["fit", *d.yaml("seeds: 1")[1:]],
        ["no store", "store=VALUE"],
    ),
    "output is no run": (output_holds_something_else, ["thesis", "--output"]),
    "store": (lambda d: ["fit", "features/none", "--probe", "knn"], ["features/none", "extract"]),
    "report's suffix": (lambda d: ["report", "images", "--output", "x.doc"], ["images"]),
    "run without results": (lambda d: ["compare", "images"], ["images", "finished run"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_ends_in_one_line_and_leaves_nothing(iceprobe, tmp_path, name):
    arrange, words = WRONG[name]
    arguments = arrange(Desk(tmp_path))
    before = files(tmp_path)
    ended = iceprobe(*arguments)
    assert ended.code == 2
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("iceprobe: error: ")
    for word in words:
        assert word in ended.err
    assert files(tmp_path) == before


def files(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_the_fit_refuses_leaves_no_run_folder(iceprobe, tmp_path):
    few = write_images(tmp_path / "few", {"train": 1, "test": 1})
    ended = iceprobe(*Desk(tmp_path).run(data=f"folder:{few}"))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "3 training images" in ended.err
    assert "--protocol paper" in ended.err
    assert not Path("mine").exists()
    # The tokens are whole and good for another try.
    assert iceprobe("knn", *Path("features").iterdir(), "--protocol", "paper").code == 0


def test_corrupt_shard_is_named_with_its_remedy(iceprobe, tmp_path):
    desk = Desk(tmp_path)
    store = Path(iceprobe("extract", *desk.run()[1:5]).out.splitlines()[-1])
    shard = sorted(store.glob("train-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    ended = iceprobe("fit", store, "--probe", "knn", "--output", "mine")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert shard.name in ended.err
    assert "iceprobe extract --repair" in ended.err
    assert not Path("mine").exists()


@pytest.mark.parametrize("where", ["file/sub", LONG, f"new/{LONG}"])
def test_an_output_that_cannot_be_made_is_reported_before_anything_is_loaded(
    iceprobe, tmp_path, monkeypatch, where
):
    def load(*_: object) -> None:
        pytest.fail("loaded although the run has no place")

    monkeypatch.setattr("iceprobe.load_backbone", load, raising=False)
    monkeypatch.setattr("iceprobe.store.reader.Store.open", load)
    (tmp_path / "file").write_text("precious")
    for command in (Desk(tmp_path).run(), ["fit", "features/any"]):
        ended = iceprobe(*command, "--output", where)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert where in ended.err


def test_a_limit_that_leaves_a_class_out_is_named(iceprobe, tmp_path):
    ended = iceprobe(*Desk(tmp_path).run("linear"), "--limit", 1, "--protocol", "paper")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "no training image of class" in ended.err
    assert not Path("mine").exists()
    assert "the limit took 1 of 12 training images" in ended.err


def test_verify_names_the_corrupt_shard_and_changes_nothing(iceprobe, tmp_path):
    desk = Desk(tmp_path)
    store = Path(iceprobe("extract", *desk.run()[1:5]).out.splitlines()[-1])
    good = iceprobe("extract", "--verify", store)
    assert (good.code, good.err) == (0, "")
    assert "intact: 2 shards" in good.out
    shard = sorted(store.glob("test-*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(
        content[:-1] + bytes([content[-1] ^ 1])
    )  # of the same size: only read finds it
    before = files(tmp_path)
    ended = iceprobe("extract", "--verify", store)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert shard.name in ended.err
    assert f"iceprobe extract --repair {store}" in ended.err
    assert files(tmp_path) == before
    both = iceprobe("extract", "--verify", store, *desk.run()[1:5])
    assert both.code == 2
    assert "--verify" in both.err


def test_debug_shows_the_traceback_before_the_line(iceprobe, tmp_path):
    ended = iceprobe(*Desk(tmp_path).run("lineer"), "--debug")
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith("iceprobe: error: unknown probe 'lineer'")
