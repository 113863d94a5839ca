"""The catalogue's sets, read from tiny copies: which image is where, and what it is labelled."""

import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as torchvision_datasets

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import CATALOGUE, Dataset, load_dataset
from iceprobe.store import extract_in_memory
from tests.datasets import layouts
from tests.datasets.layouts import number_of
from tests.store.conftest import make_backbone

# Of each split: class of each image by the image's number, written from the layouts alone.
TRUTH = {
    "cub200": (
        {2: "Black footed Albatross", 3: "Laysan Albatross"},
        {1: "Black footed Albatross", 4: "Laysan Albatross", 5: "Laysan Albatross"},
    ),
    "aircraft": (
        {1: "Boeing 717", 2: "A300B4", 3: "F/A-18", 4: "A300B4", 5: "F/A-18"},
        {6: "Boeing 717", 7: "A300B4", 8: "F/A-18"},
    ),
    "aircraft?split=val": (
        {1: "Boeing 717", 2: "A300B4", 3: "F/A-18"},
        {4: "A300B4", 5: "F/A-18"},
    ),
    "cars": (
        {1: "smart fortwo", 2: "AM General Hummer", 3: "Acura RL"},
        {11: "Acura RL", 12: "smart fortwo"},
    ),
    "food101": ({1: "waffles", 2: "waffles", 3: "apple_pie"}, {4: "apple_pie", 5: "waffles"}),
    "dtd": ({1: "woven", 2: "banded", 3: "banded", 4: "woven"}, {5: "woven", 6: "banded"}),
    "dtd?split=val": ({1: "woven", 2: "banded"}, {3: "banded", 4: "woven"}),
    "pets": (
        {1: "Abyssinian", 2: "Yorkshire Terrier", 3: "American Bulldog"},
        {4: "American Bulldog", 5: "Abyssinian"},
    ),
    "sun397": ({1: "zoo", 2: "abbey", 3: "apse/indoor"}, {4: "apse/indoor", 5: "zoo"}),
    "places365": ({1: "/a/alley", 2: "/z/zoo", 3: "/a/apse/indoor"}, {11: "/a/apse/indoor", 12: "/z/zoo"}),
    "stl10": (
        dict(
            enumerate(
                ["truck", "ship", "monkey", "horse", "dog", "deer", "cat", "car", "bird", "airplane"],
                1,
            )
        ),
        {11: "airplane", 12: "truck", 13: "deer", 14: "deer"},
    ),
    "cifar100": ({1: "worm", 2: "apple", 3: "bear"}, {11: "bear", 12: "worm"}),
}  # fmt: skip
CLASSES = {
    "cub200": ["Black footed Albatross", "Laysan Albatross"],
    "aircraft": ["Boeing 717", "A300B4", "F/A-18"],
    "cars": ["AM General Hummer", "Acura RL", "smart fortwo"],
    "food101": ["apple_pie", "waffles"],
    "dtd": ["banded", "woven"],
    "pets": ["Abyssinian", "American Bulldog", "Yorkshire Terrier"],
    "sun397": ["abbey", "apse/indoor", "zoo"],
    "places365": ["/z/zoo", "/a/alley", "/a/apse/indoor"],
    "cifar100": ["apple", "bear", "worm"],
}
# Sets without a training split.
TEST_ALONE = {
    "imagenet-v2": {
        1: "tench, Tinca tinca",
        2: "brambling, Fringilla montifringilla",
        3: "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias",
        4: "toilet tissue, toilet paper, bathroom tissue",
        5: "crane (n02012849)",
    },
    "imagenet-a": {1: "stingray", 2: "acorn", 3: "goldfinch, Carduelis carduelis"},
    "imagenet-r": {1: "goldfish, Carassius auratus", 2: "espresso"},
    "imagenet-sketch": {
        1: "toilet tissue, toilet paper, bathroom tissue",
        2: "tench, Tinca tinca",
        3: "crane (n02012849)",
    },
    "objectnet": {1: "Banana", 2: "Alarm clock", 4: "Banana"},
}
BARE = sorted({spec.split("?")[0] for spec in TRUTH} | {"flowers102", "imagenet1k", *TEST_ALONE})
BOTH = [name for name in BARE if name not in TEST_ALONE]


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A folder with a tiny copy of each set; read, not changed."""
    made = {name: tmp_path_factory.mktemp(name) for name in BARE}
    for name, root in made.items():
        getattr(layouts, name.replace("-", "_"))(root)
    return made


@pytest.fixture
def copy(roots, tmp_path):
    """A copy of a set that a test may spoil."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(roots[name], tmp_path / name))

    return make


def held(dataset: Dataset, split: str) -> dict[int, str]:
    """Number → class name of every image of a split."""
    part = dataset.splits[split]
    labels = part.labels.tolist()
    return {number_of(part.image(i)): dataset.classes[labels[i]] for i in range(len(part))}


def test_the_tiny_copies_are_of_every_set_there_is():
    assert sorted(CATALOGUE) == BARE


@pytest.mark.parametrize("spec", list(TRUTH))
def test_images_are_in_their_split_with_their_class(roots, spec):
    name = spec.split("?")[0]
    dataset = load_dataset(spec, root=roots[name])
    train, test = TRUTH[spec]
    assert held(dataset, "train") == train
    assert held(dataset, "test") == test
    if name in CLASSES:
        assert list(dataset.classes) == CLASSES[name]
    assert [len(part) for part in dataset.splits.values()] == [len(train), len(test)]
    assert dataset.name == name
    assert load_dataset(dataset.spec).splits["test"].names == dataset.splits["test"].names


def test_flowers_have_their_names_and_three_parts(roots):
    dataset = load_dataset("flowers102", root=roots["flowers102"])
    train, test = held(dataset, "train"), held(dataset, "test")
    assert sorted(train) == list(range(1, 205))
    assert sorted(test) == list(range(205, 307))
    for numbers in (train, test):
        for number, class_name in numbers.items():
            assert class_name == dataset.classes[7 * number % 102]
    assert dataset.classes[0] == "pink primrose"
    assert dataset.classes[101] == "blackberry lily"
    val = load_dataset("flowers102?split=val", root=roots["flowers102"])
    assert sorted(held(val, "train")) == list(range(103, 205))
    assert sorted(held(val, "test")) == list(range(1, 103))


def test_imagenet_follows_the_sorted_synsets(roots):
    dataset = load_dataset("imagenet1k", root=roots["imagenet1k"])
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.labels.tolist() == list(range(1000))
    assert [dataset.classes[i] for i in (0, 1, 134, 517, 999)] == [
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
        "crane (n02012849)",
        "crane (n03126707)",
        "toilet tissue, toilet paper, bathroom tissue",
    ]
    assert train.names[1] == "train/n01443537/n01443537_1.JPEG"
    assert number_of(train.image(1)) == 2
    assert {number_of(test.image(i)): int(test.labels[i]) for i in range(3)} == {
        11: 999,
        12: 0,
        13: 517,
    }
    assert test.boxes is None


def test_pixels_of_sets_in_one_file_are_not_transposed(roots):
    for name in ("stl10", "cifar100"):
        for split in load_dataset(name, root=roots[name]).splits.values():
            green = np.asarray(split.image(1))[:, :, 1]
            assert green[2, 5] == 200
            assert green.sum() == 200


@pytest.mark.parametrize("name", BOTH)
def test_train_and_test_share_no_image(roots, name):
    dataset = load_dataset(name, root=roots[name])
    names = [set(split.names) for split in dataset.splits.values()]
    assert not names[0] & names[1]
    assert [len(split) for split in dataset.splits.values()] == [len(part) for part in names]


@pytest.mark.parametrize("name", BARE)
def test_mean_per_class_is_reported_where_the_field_does(roots, name):
    wanted = "mean_per_class" if name in ("aircraft", "pets", "flowers102") else "top1"
    assert CATALOGUE[name].headline == wanted
    assert load_dataset(name, root=roots[name]).headline == wanted


def test_birds_have_boxes_with_corners(roots):
    splits = load_dataset("cub200", root=roots["cub200"]).splits
    assert splits["train"].boxes.tolist() == [[1, 2, 4, 3], [0, 0, 6, 4]]
    assert splits["test"].boxes.tolist() == [[60, 27, 385, 331], [2.5, 1, 3.5, 3], [4, 3, 5, 4]]


def test_imagenet_boxes_are_the_largest_within_the_image(roots):
    root = roots["imagenet1k"]
    splits = load_dataset("imagenet1k", root=root, boxes=root / "annotations").splits
    boxes = dict(zip(splits["test"].labels.tolist(), splits["test"].boxes.tolist(), strict=True))
    assert boxes[999] == [1, 2, 4, 3]
    assert boxes[0] == [2, 1, 6, 4]
    assert np.isnan(boxes[517]).all()
    assert splits["train"].boxes[1].tolist() == [1, 0, 5, 4]
    assert np.isnan(splits["train"].boxes[[0, 2, 999]]).all()


def test_imagenet_boxes_of_val_alone(copy):
    root = copy("imagenet1k")
    shutil.rmtree(root / "annotations" / "train")
    splits = load_dataset("imagenet1k", root=root, boxes=root / "annotations").splits
    assert splits["train"].boxes is None
    assert splits["test"].boxes.shape == (3, 4)
    shutil.rmtree(root / "annotations" / "val")
    with pytest.raises(IceprobeError, match="no train/ or val/ with XML"):
        load_dataset("imagenet1k", root=root, boxes=root / "annotations")


def test_pets_have_masks_of_animal_and_border(roots):
    dataset = load_dataset("pets", root=roots["pets"])
    for split in dataset.splits.values():
        assert split.masks
        for index in range(len(split)):
            column = number_of(split.image(index)) - 1
            wanted = np.zeros((4, 6), np.uint8)
            wanted[1:3, column : column + 2] = 255
            assert np.array_equal(np.asarray(split.mask(index)), wanted)
    birds = load_dataset("cub200", root=roots["cub200"]).splits["test"]
    assert not birds.masks
    assert birds.mask(0) is None


@pytest.mark.parametrize("tag", [3, 6])
def test_a_mask_turns_with_its_image(copy, tag):
    root = copy("pets")
    before = load_dataset("pets", root=root).splits["test"]
    upright, mask = before.image(0), np.asarray(before.mask(0))
    exif = Image.Exif()
    exif[0x0112] = tag
    upright.save(root / before.names[0], exif=exif)
    turned = load_dataset("pets", root=root).splits["test"]
    quarters = {3: 2, 6: -1}[tag]
    assert turned.image(0).size == Image.fromarray(np.rot90(mask, quarters)).size
    assert np.array_equal(np.asarray(turned.mask(0)), np.rot90(mask, quarters))
    stored = load_dataset("pets", root=root, orientation="ignore").splits["test"]
    assert np.array_equal(np.asarray(stored.mask(0)), mask)
    assert stored.image(0).size == upright.size


def test_boxes_and_masks_reach_the_store_in_pixels_of_the_crop(roots):
    """Images of 6 x 4 pixels become 24 x 16, of which columns 4 to 20 are kept."""
    root = roots["imagenet1k"]
    pets = extract_in_memory(make_backbone(), load_dataset("pets", root=roots["pets"]))
    birds = extract_in_memory(make_backbone(), load_dataset("cub200", root=roots["cub200"]))
    objects = load_dataset("imagenet1k", root=root, boxes=root / "annotations")
    objects = extract_in_memory(make_backbone(), objects, splits=["test"])
    source = load_dataset("pets", root=roots["pets"]).splits["train"]
    for row, mask in enumerate(pets["train"].masks([0, 1, 2]).numpy()):
        column = 4 * (number_of(source.image(row)) - 1) - 4
        wanted = np.zeros((16, 16), np.uint8)
        wanted[4:12, max(column, 0) : column + 8] = 1
        assert np.array_equal(mask, wanted)
    np.testing.assert_allclose(birds["train"].boxes, [[0, 8, 12, 12], [0, 0, 16, 16]], atol=1e-5)
    boxes = dict(zip(objects["test"].labels.tolist(), objects["test"].boxes, strict=True))
    np.testing.assert_allclose(boxes[999], [0, 8, 12, 12], atol=1e-5)
    assert np.isnan(boxes[517]).all()


@pytest.mark.parametrize("name", BARE)
def test_fingerprint_is_the_same_twice(roots, name):
    one, two = (load_dataset(name, root=roots[name]).splits for _ in range(2))
    marks = {split: one[split].fingerprint() for split in one}
    assert marks == {split: two[split].fingerprint() for split in two}
    assert len(set(marks.values())) == len(marks)


def test_fingerprint_follows_masks(copy):
    root = copy("pets")
    before = load_dataset("pets", root=root).splits["test"].fingerprint()
    trimap = root / "oxford-iiit-pet" / "annotations" / "trimaps" / "Abyssinian_5.png"
    trimap.write_bytes(trimap.read_bytes() + b" ")
    assert load_dataset("pets", root=root).splits["test"].fingerprint() != before
    trimap.unlink()
    with pytest.raises(IceprobeError, match=r"Abyssinian_5\.png.*is gone"):
        load_dataset("pets", root=root).splits["test"].fingerprint()


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_labels_go_by_name_where_a_part_lacks_a_class(copy, part):
    """DTD's lists name only the classes that they hold."""
    root = copy("dtd")
    number, lost = {"train": (1, 2), "val": (4, 3), "test": (5, 6)}[part]
    (root / f"dtd/dtd/labels/{part}1.txt").write_text(f"woven/w_{number}.jpg\n")
    dataset = load_dataset("dtd", root=root)
    assert dataset.classes == ["banded", "woven"]
    found = held(dataset, "train") | held(dataset, "test")
    everything = TRUTH["dtd"][0] | TRUTH["dtd"][1]
    assert found == {n: c for n, c in everything.items() if n != lost}


# --- downloads -----------------------------------------------------------------------------


def test_download_lets_torchvision_fetch_what_is_missing(tmp_path, monkeypatch):
    calls = []

    def fetch(root, **arguments):
        if not calls:
            layouts.places365(Path(root))
        calls.append(arguments)

    monkeypatch.setattr(torchvision_datasets, "Places365", fetch)
    dataset = load_dataset("places365", root=tmp_path / "new", download=True)
    assert held(dataset, "test") == TRUTH["places365"][1]
    assert calls == [
        {"download": True, "split": "train-standard", "small": True},
        {"download": True, "split": "val", "small": True},
    ]


@pytest.mark.parametrize("name", [name for name in CATALOGUE if CATALOGUE[name].torchvision])
def test_network_failures_are_one_line(tmp_path, monkeypatch, name):
    def no_network(*arguments, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(IceprobeError, match=f"downloading {name} .*not known.* by hand") as caught:
        load_dataset(name, root=tmp_path, download=True)
    assert "\n" not in str(caught.value)


# --- what can go wrong ---------------------------------------------------------------------


@pytest.mark.parametrize("name", BARE)
def test_a_set_that_is_not_there_says_where_to_get_it(tmp_path, name):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IceprobeError, match=f"no {name} at ") as caught:
            load_dataset(name, root=root)
        message = str(caught.value)
        assert CATALOGUE[name].where in message
        assert "\n" not in message
        assert ("download=true" in message) == bool(CATALOGUE[name].torchvision)
    with pytest.raises(IceprobeError, match=f"{name}.* needs root=DIR, the folder that holds"):
        load_dataset(name)


def test_the_file_that_is_missing_is_named(copy):
    root = copy("cars")
    (root / "stanford_cars/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(
        IceprobeError, match=r"missed stanford_cars/cars_test_annos_withlabels\.mat:"
    ):
        load_dataset("cars", root=root)


def drop_lines(file: str, word: str):
    def spoil(root: Path) -> None:
        path = root / file
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if word not in line))

    return spoil


def replaced(file: str, old: str, new: str):
    def spoil(root: Path) -> None:
        (root / file).write_text((root / file).read_text().replace(old, new))

    return spoil


def stray_synset(root: Path) -> None:
    (root / "train" / "backup").mkdir()


def flat_val(root: Path) -> None:
    shutil.rmtree(root / "val")
    layouts.picture(root / "val" / "ILSVRC2012_val_00000001.JPEG", 1)


def without_synset(root: Path) -> None:
    shutil.rmtree(root / "train" / "n01443537")


def garbled(root: Path) -> None:
    (root / "flowers-102" / "setid.mat").write_bytes(b"no matrix" * 40)


class Harmful:
    def __reduce__(self):
        return eval, ("1 / 0",)


def harmful(root: Path) -> None:
    (root / "cifar-100-python" / "train").write_bytes(pickle.dumps(Harmful(), protocol=2))


VARIANTS = "fgvc-aircraft-2013b/data/images_variant_"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("aircraft", drop_lines(f"{VARIANTS}trainval.txt", "717"), "class 'Boeing 717' of aircraft is missing from train"),
        ("aircraft", drop_lines(f"{VARIANTS}test.txt", ""), "no aircraft .*missed .*variant_test.txt"),
        ("aircraft", replaced(f"{VARIANTS}test.txt", "A300B4", "A380"), "aircraft .*KeyError: 'A380'"),
        ("places365", replaced("places365_val.txt", "jpg 2", "jpg 3"), "labels of test run from 0 to 3, but 3 classes"),
        ("sun397", replaced("SUN397/Testing_01.txt", "/z/zoo", "/z/zo"), "KeyError: '/z/zo'"),
        ("dtd", replaced("dtd/dtd/labels/test1.txt", "woven", "waffled"), "class 'waffled' of dtd is missing from train"),
        ("cub200", replaced("CUB_200_2011/train_test_split.txt", " 1\n", " 0\n"), "split 'train' of cub200 is empty"),
        ("cub200", replaced("CUB_200_2011/bounding_boxes.txt", "60.0 27.0", "60.0"), "cub200 at .* can't be read"),
        ("food101", replaced("food-101/meta/test.json", "{", ""), "food101 at .* can't be read .JSONDecodeError"),
        ("flowers102", garbled, "flowers102 at .* can't be read"),
        ("cifar100", harmful, "asks for __builtin__.eval"),
        ("imagenet1k", stray_synset, "'backup' .* is no synset"),
        ("imagenet1k", flat_val, "no folders of synsets such as n01440764"),
        ("imagenet1k", without_synset, "class 'goldfish.* missing from train"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_files_is_said(copy, capsys, name, spoil, message):
    root = copy(name)
    spoil(root)
    with pytest.raises(IceprobeError, match=message) as caught:
        load_dataset(name, root=root)
    assert "\n" not in str(caught.value)
    assert "must not be printed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cub20", "unknown data set 'cub20'. Did you mean cub200"),
        ("imagenet", "Did you mean imagenet1k"),
        ("aircraft?root=x&split=valid", "unknown split of aircraft 'valid'. Did you mean val"),
        ("cars?root=x&split=val", "unknown split of cars 'val'.*There are: test"),
        ("cars?root=x&boxes=y", "unknown option of 'cars' 'boxes'"),
        ("cars?root=x&download=yes", "download='yes'.*write true or false"),
        ("cub200?root=x&download=true", "torchvision can't download cub200: .*get it from https"),
    ],
)
def test_wrong_options_are_said(spec, message):
    with pytest.raises(IceprobeError, match=message):
        load_dataset(spec)


def test_a_set_that_is_not_whole_says_so(roots, caplog):
    dataset = load_dataset("cub200", root=roots["cub200"])
    assert dataset.assumed == [
        "cub200: 2 images of train are read, 5,994 are published",
        "cub200: 3 images of test are read, 5,794 are published",
    ]
    assert f"assumed: {dataset.assumed[1]}" in caplog.text
    assert load_dataset("dtd", root=roots["dtd"], split="val").assumed == []  # no number of its own


def test_a_synset_whose_link_leads_nowhere_is_named(roots, tmp_path):
    (tmp_path / "train").symlink_to(roots["imagenet1k"] / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "n01440764").symlink_to(roots["imagenet1k"] / "val" / "n01440764")
    (tmp_path / "val" / "n01443537").symlink_to(tmp_path / "gone")
    with pytest.raises(IceprobeError, match=r"val/n01443537' is a link that leads nowhere"):
        load_dataset("imagenet1k", root=tmp_path)
