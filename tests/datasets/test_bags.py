"""Bags of images: which are whose, their tokens against each image's own, and what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import iceprobe
from iceprobe.backbones import Preprocessing, load_backbone
from iceprobe.backbones.kinds import Ragged
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import load_dataset
from iceprobe.datasets.bags import bags_below
from iceprobe.reporting.attention import check_maps
from iceprobe.store.noted import assumed_of_files

MODEL = "bundled:mae-tiny"
BAGS = {"s1": 3, "s2": 1, "s3": 2, "s4": 4, "s5": 1, "s6": 2}


def tile(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (30, 30), np.uint8)


def table(folder: Path, **changed: str) -> Path:
    """Tiles of six slides, their rows mixed; ``changed`` replaces lines by their image."""
    numbers = {name: [10 * int(name[1]) + k for k in range(count)] for name, count in BAGS.items()}
    order = sorted((k % 10, name, k) for name, ks in numbers.items() for k in ks)
    lines = ["slide,tile,grade,patient,split"]
    for _, name, k in order:
        Image.fromarray(tile(k)).save(folder / f"{k}.png")
        grade, split = "ab"[int(name[1]) % 2], "train" if int(name[1]) < 5 else "test"
        lines.append(changed.get(f"t{k}", f"{name},{k}.png,{grade},p{int(name[1]) // 3},{split}"))
    (folder / "tiles.csv").write_text("\n".join(lines))
    return folder / "tiles.csv"


def spec(folder: Path, **changed: str) -> str:
    return (
        f"bags:{table(folder, **changed)}?example=slide&image=tile&target=grade&split=split"
        "&group=patient"
    )


def test_images_of_a_bag_are_those_of_its_rows(tmp_path) -> None:
    data = load_dataset(spec(tmp_path))
    assert data.kind == "bag"
    train = data.splits["train"]
    assert train.names == ["s1", "s2", "s3", "s4"]
    assert [list(data.classes)[label] for label in train.labels] == ["b", "a", "b", "a"]
    assert [len(train.example(row)) for row in range(4)] == [3, 1, 2, 4]
    assert np.array_equal(np.asarray(train.example(3).image(2)), tile(42))
    assert np.array_equal(np.asarray(train.image(2)), tile(30))
    groups = data.groups("train")
    assert groups is not None
    assert [group == groups[0] for group in groups] == [True, True, False, False]
    before = train.fingerprint()
    Image.fromarray(tile(99)).save(tmp_path / "42.png")
    assert load_dataset(spec(tmp_path)).splits["train"].fingerprint() != before


@pytest.mark.parametrize("each", ["pooled", "patches"])
def test_tokens_are_each_image_s(each: str, tmp_path) -> None:
    """Ends in a store whose examples differ in their number of tokens."""
    image, reads = load_backbone(MODEL), load_backbone(f"{MODEL}?reads=bags&each={each}")
    data = load_dataset(spec(tmp_path))
    store = iceprobe.extract(reads, data, tmp_path / "features", tokens="float32")
    tokens = store["train"].tokens(np.arange(4), "cpu")
    count = 1 if each == "pooled" else image.num_tokens
    assert store.grid is None
    assert store.shape.lengths == (count, 4 * count)
    assert tokens.mask is not None
    for row, name in enumerate(["s1", "s2", "s3", "s4"]):
        numbers = [10 * int(name[1]) + k for k in range(BAGS[name])]
        pictures = [image.preprocessing.transform(Image.fromarray(tile(k))) for k in numbers]
        own = image(torch.stack(pictures))
        expected = own.class_token if each == "pooled" else own.patches.flatten(0, 1)
        assert tokens.mask[row].sum() == count * BAGS[name]
        assert torch.allclose(tokens.patches[row, tokens.mask[row]], expected, atol=1e-5)
        assert torch.allclose(tokens.prefix[row], own.prefix.mean(0), atol=1e-5)
    again = Preprocessing.from_dict(store.manifest.backbone.preprocessing)
    assert again == reads.preprocessing


def test_probes_are_fitted_on_bags(tmp_path) -> None:
    backbone = f"{MODEL}?reads=bags"
    store = iceprobe.extract(backbone, spec(tmp_path), tmp_path / "features")
    results = iceprobe.fit(
        store,
        ["knn", "linear", "abmilp"],
        epochs=2,
        seeds=1,
        protocol="paper",
        output=tmp_path / "run",
    )
    assert [result.probe for result in results] == ["knn", "linear", "abmilp"]
    assert all(result.test_images == 2 for result in results)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"t11": "s1,11.png,a,p0,train"}, r"example 's1' has 'a' and 'b' in column 'grade'"),
        ({"t11": "s1,11.png,b,p2,train"}, r"example 's1' has 'p2' and 'p0' in column 'patient'"),
        ({"t11": "s1,11.png,b,p0,test"}, r"example 's1' is in (test|train) and in (test|train)"),
        ({"t11": ",11.png,b,p0,train"}, r"row \d+ .* names no example in column 'slide'"),
        ({"t11": "s1,gone.png,b,p0,train"}, "no image 'gone.png'"),
    ],
)
def test_wrong_rows_are_named(changed: dict[str, str], error: str, tmp_path) -> None:
    with pytest.raises(IceprobeError, match=error):
        load_dataset(spec(tmp_path, **changed))


def test_what_is_missing_is_named(tmp_path) -> None:
    with pytest.raises(IceprobeError, match="which images belong together, example=COLUMN"):
        load_dataset(f"bags:{table(tmp_path)}?image=tile&target=grade")
    with pytest.raises(
        IceprobeError, match=r"holds bags of images: add reads=bags to the backbone"
    ):
        iceprobe.extract(MODEL, spec(tmp_path), tmp_path / "features")
    with pytest.raises(IceprobeError, match="frames=2 is of clips and reads=bags of bags"):
        load_backbone(f"{MODEL}?reads=bags&frames=2")
    data = load_dataset(f"{spec(tmp_path)}&alpha=black")
    assert data.splits["train"].reading == iceprobe.datasets.pixels.Reading(alpha="black")


def test_an_image_that_cannot_be_read_names_itself(tmp_path) -> None:
    where = spec(tmp_path)
    (tmp_path / "21.png").unlink(missing_ok=True)
    (tmp_path / "40.png").write_bytes(b"no image")
    with pytest.raises(IceprobeError, match=r"40\.png' can't be read"):
        iceprobe.extract(f"{MODEL}?reads=bags", where, tmp_path / "features")
    store = iceprobe.extract(
        f"{MODEL}?reads=bags", where, tmp_path / "features", on_bad_image="skip"
    )
    assert store.manifest.skipped == ["s4"]


def test_bags_are_counted_by_their_images(tmp_path) -> None:
    """Two of the images of one bag, and one of another, are transparent."""
    where = spec(tmp_path)
    for number in (30, 31, 50):
        image = Image.fromarray(tile(number))
        image.putalpha(100)
        image.save(tmp_path / f"{number}.png")
    store = iceprobe.extract(f"{MODEL}?reads=bags", where, tmp_path / "features")
    assert assumed_of_files(store.manifest) == [
        "2 of 6 bags with images with transparent pixels, laid on white (alpha=black, or alpha=drop)"
    ]


def test_processes_read_bags_as_threads_do(tmp_path) -> None:
    stores = [
        iceprobe.extract(f"{MODEL}?reads=bags", spec(tmp_path), tmp_path / name, workers=workers)
        for name, workers in (("threads", 0), ("processes", 1))
    ]
    first, second = (store["train"].tokens(np.arange(4), "cpu") for store in stores)
    assert torch.equal(first.patches, second.patches)
    assert torch.equal(first.mask, second.mask)


def test_large_bags_go_through_in_pieces(tmp_path, monkeypatch) -> None:
    """At most three images a pass, a bag of more alone; the store is the same."""
    whole = iceprobe.extract(f"{MODEL}?reads=bags", spec(tmp_path), tmp_path / "whole")
    passes: list[list[int]] = []
    taken = Ragged.together

    def seen(examples):
        passes.append([len(one.values) for one in examples])
        return taken(examples)

    monkeypatch.setattr("iceprobe.store.work.MOST", 3)
    monkeypatch.setattr(Ragged, "together", seen)
    pieces = iceprobe.extract(f"{MODEL}?reads=bags", spec(tmp_path), tmp_path / "pieces")
    assert sorted(passes) == [[1, 2], [1, 2], [3], [4]]
    for name in ("train", "test"):
        rows = np.arange(len(whole[name]))
        one, other = (store[name].tokens(rows, "cpu") for store in (whole, pieces))
        assert torch.allclose(one.patches, other.patches, atol=2e-3)
        assert torch.equal(one.mask, other.mask)


def placed(folder: Path, **changed: str) -> str:
    """The table with where each image lies: tile 42 at x 2.5, y -42."""
    path = table(folder)
    head, *rows = path.read_text().splitlines()
    at = {row: row.split(",")[1].removesuffix(".png") for row in rows}
    lines = [f"{row},{changed.get(f't{k}', f'{int(k) % 10}.5,-{k}')}" for row, k in at.items()]
    path.write_text("\n".join([f"{head},left,top", *lines]))
    return f"bags:{path}?example=slide&image=tile&target=grade&split=split&x=left&y=top"


@pytest.mark.parametrize("options", ["", "&each=patches", "&layer=1"])
def test_a_token_lies_where_its_image_does(options: str, tmp_path) -> None:
    """y, then x, as `Tokens` have them; of all tokens of an image, its place."""
    store = iceprobe.extract(
        f"{MODEL}?reads=bags{options}", placed(tmp_path), tmp_path / "features"
    )
    assert store.shape.coords == 2
    tokens = store["train"].tokens(np.arange(4), "cpu")
    each = load_backbone(MODEL).num_tokens if "patches" in options else 1
    for row, name in enumerate(["s1", "s2", "s3", "s4"]):
        numbers = [10 * int(name[1]) + k for k in range(BAGS[name])]
        expected = [(-k, k % 10 + 0.5) for k in numbers for _ in range(each)]
        assert tokens.coords[row][tokens.mask[row]].tolist() == [list(one) for one in expected]
    plain = iceprobe.extract(f"{MODEL}?reads=bags{options}", spec(tmp_path), tmp_path / "plain")
    assert plain.shape.coords == 0
    assert torch.equal(plain["train"].tokens(np.arange(4), "cpu").patches, tokens.patches)


def test_a_place_is_a_number_and_both_are_named(tmp_path) -> None:
    with pytest.raises(IceprobeError, match=r"row \d+ of .*: 'left' in column 'left' isn't where"):
        load_dataset(placed(tmp_path, t42="left,3"))
    with pytest.raises(IceprobeError, match="'' in column 'top' isn't where an image lies"):
        load_dataset(placed(tmp_path, t42="3,"))
    with pytest.raises(IceprobeError, match="y= alone doesn't say where an image lies"):
        load_dataset(placed(tmp_path).replace("&x=left", ""))
    before = load_dataset(placed(tmp_path)).splits["train"].fingerprint()
    moved = load_dataset(placed(tmp_path, t42="9,9")).splits["train"]
    assert moved.fingerprint() != before


def test_attention_of_bags_is_written_where_their_images_lie(tmp_path) -> None:
    """As slide tools have it, x first."""
    store = iceprobe.extract(f"{MODEL}?reads=bags", placed(tmp_path), tmp_path / "features")
    results = iceprobe.fit(
        store, ["abmilp"], epochs=1, seeds=1, protocol="paper", output=tmp_path / "run"
    )
    iceprobe.analyze(results, attention=tmp_path / "places")
    with h5py.File(tmp_path / "places" / "abmilp" / "s6.h5") as file:
        assert file["coords"][:].tolist() == [[0.5, -60.0], [1.5, -61.0]]
        assert file["attention_scores"].shape == (2, 1)
    with pytest.raises(IceprobeError, match="tokens of bags lie on no grid"):
        check_maps(store, "test")


def test_folders_of_a_folder_are_bags(tmp_path) -> None:
    """In the order of their images' paths, in which a blank and a dash come before a slash."""
    sizes = {"a": 2, "a b": 1, "a-": 3}
    for number, (name, count) in enumerate(sizes.items()):
        (tmp_path / name).mkdir()
        for k in range(count):
            Image.fromarray(tile(10 * number + k)).save(tmp_path / name / f"{k}.png")
    split = bags_below(tmp_path)
    assert split.names == ["a b", "a-", "a"]
    assert split.parts.tolist() == [1, 3, 2]
    for row, number in enumerate((1, 2, 0)):
        bag = split.example(row)
        for k in range(len(bag)):
            assert np.array_equal(np.asarray(bag.image(k)), tile(10 * number + k))
    Image.fromarray(tile(1)).save(tmp_path / "loose.png")
    with pytest.raises(
        IceprobeError, match=r"'loose.png' isn't directly inside one of the folders"
    ):
        bags_below(tmp_path)
