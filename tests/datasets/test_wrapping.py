"""Map-style data sets of torch and torchvision given as data: read by value, or one line that says how."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

import iceprobe
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets import BadImage, load_dataset
from tests.datasets.test_layout import lay, reds
from tests.store.conftest import make_backbone


class Pairs:
    """Images of one colour, their number, and whatever labels are given."""

    def __init__(self, numbers, labels, classes=None, make=None):
        self.numbers, self.given, self.make = list(numbers), list(labels), make
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int):
        image = Image.new("RGB", (6, 4), (self.numbers[index], 0, 0))
        return (self.make(image) if self.make else image), self.given[index]


@pytest.fixture
def folders(tmp_path) -> Path:
    return lay(tmp_path, "train/wren", "train/robin", "valid/robin", "valid/wren", images=3)


def pair(train, test, **options):
    return load_dataset({"train": train, "test": test}, **options)


def test_image_folders_are_read_as_folder_reads_them(folders, caplog):
    wrapped = pair(ImageFolder(folders / "train"), ImageFolder(folders / "valid"))
    plain = load_dataset(f"folder:{folders}")
    assert (wrapped.classes, wrapped.name) == (plain.classes, folders.name)
    for split in ("train", "test"):
        ours, theirs = wrapped.splits[split], plain.splits[split]
        assert ours.names == theirs.names
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert reds(ours) == reds(theirs)
        assert ours.fingerprint() == theirs.fingerprint()
    assert wrapped.assumed == []


@pytest.mark.parametrize("key", ["val", "validation", "Test"])
def test_words_for_splits_are_read_and_said(key):
    data = Pairs([1, 2], [0, 1]), Pairs([3, 4], [1, 0])
    dataset = load_dataset({"train": data[0], key: data[1], "extra": data[1]})
    assert reds(dataset.splits["test"]) == [3, 4]
    assert dataset.assumed == [f"'train' is read as train and '{key}' as test; extra left unread"]


def test_halves_of_one_image_folder(folders):
    whole = ImageFolder(folders / "train")  # robin 0 1 2, wren 3 4 5
    dataset = pair(Subset(whole, [5, 0, 3]), Subset(Subset(whole, [1, 2, 4]), [2, 0]))
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert [train.names, test.names] == [
        ["wren/2.png", "robin/0.png", "wren/0.png"], ["wren/1.png", "robin/1.png"]
    ]  # fmt: skip
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0, 1], [1, 0])
    with pytest.raises(IceprobeError, match=r"1 images are in train and in test, 'wren/2.png'"):
        pair(Subset(whole, [5, 0]), Subset(whole, [5, 1]))


def test_names_decide_where_classes_are_listed_in_another_order():
    train = Pairs([1, 2, 3], [0, 1, 2], classes=["ant", "bee", ("cat", "kitty")])
    test = Pairs([4, 5], [0, 1], classes=[("cat", "kitty"), "ant"])
    dataset = pair(train, test)
    assert dataset.classes == ["ant", "bee", "cat, kitty"]
    assert dataset.splits["test"].labels.tolist() == [2, 0]
    with pytest.raises(
        IceprobeError, match=r"class 'yak' is in split 'test' .* missing from train"
    ):
        pair(train, Pairs([4], [0], classes=["yak"]))


@pytest.mark.parametrize(
    ("labels", "classes", "read"),
    [
        ([10, 2, 10], ["2", "10"], [1, 0, 1]),
        ([torch.tensor(1), np.int64(0), 1], ["0", "1"], [1, 0, 1]),
        (["wren", "ant", "wren"], ["ant", "wren"], [1, 0, 1]),
    ],
)
def test_labels_without_names_are_numbered(labels, classes, read):
    dataset = pair(Pairs([1, 2, 3], labels), Pairs([4, 5], labels[:2]))
    assert dataset.classes == classes
    assert dataset.splits["train"].labels.tolist() == read
    assert dataset.splits["test"].labels.tolist() == read[:2]


def test_a_list_of_targets_that_the_items_deny_is_not_taken():
    train = Pairs([1, 2, 3], [0, 1, 1])
    train.targets = [1, 1, 0]
    test = Pairs([4, 5], [1, 0])
    test.targets = torch.tensor([1, 0])
    dataset = pair(train, test)
    assert dataset.splits["train"].labels.tolist() == [0, 1, 1]
    assert dataset.splits["test"].labels.tolist() == [1, 0]


def test_target_transforms_are_applied(folders):
    turned = ImageFolder(folders / "train", target_transform=lambda label: 1 - label)
    dataset = pair(turned, ImageFolder(folders / "valid"))
    assert dataset.splits["train"].labels.tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "make", [np.asarray, v2.PILToTensor(), v2.ToImage()], ids=["array", "tensor", "tv_tensor"]
)
def test_eight_bit_arrays_and_tensors_are_images(make):
    dataset = pair(Pairs([10, 20], [0, 1], make=make), Pairs([30], [1], make=make))
    assert reds(dataset.splits["train"]) == [10, 20]
    assert dataset.splits["train"].image(0).size == (6, 4)


def test_transparency_of_an_item_is_laid_as_that_of_a_file_is(tmp_path):
    """Colour everywhere, shown in one half alone: a file and an item are the same picture."""
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., 0], pixels[:, 3:, 3] = 200, 255
    image = Image.fromarray(pixels, "RGBA")
    item = (
        pair(Pairs([1, 2], [0, 1], make=lambda _: image), Pairs([3], [0])).splits["train"].image(0)
    )
    for name in ("train/a", "test/a"):
        (tmp_path / name).mkdir(parents=True)
        image.save(tmp_path / name / "0.png")
    read = load_dataset(f"folder:{tmp_path}").splits["train"].image(0)
    assert np.array_equal(np.asarray(item.convert("RGB")), np.asarray(read.convert("RGB")))
    assert np.asarray(item.convert("RGB"))[0, 5].tolist() == [200, 0, 0]


def test_fingerprints_follow_pixels_and_labels():
    def prints(*arguments) -> str:
        return pair(Pairs(*arguments), Pairs([9], [0])).splits["train"].fingerprint()

    assert prints([1, 2], [0, 1]) == prints([1, 2], [0, 1])
    assert len({prints([1, 2], [0, 1]), prints([1, 3], [0, 1]), prints([1, 2], [1, 0])}) == 3


def test_other_loaders_and_steady_transforms_give_their_own_images(folders):
    def invert(path: str) -> Image.Image:
        return Image.eval(default_loader(path), lambda value: 255 - value)

    train = DatasetFolder(str(folders / "train"), loader=invert, extensions=(".png",))
    test = ImageFolder(folders / "valid", transform=v2.RandomInvert(p=1.0))
    dataset = pair(train, test)
    assert reds(dataset.splits["train"]) == [254] * 3 + [255] * 3
    assert reds(dataset.splits["test"]) == [253] * 3 + [252] * 3
    (line,) = dataset.assumed
    assert line.startswith("test: the transform of ImageFolder is applied before")


def test_threads_and_processes_read_it():
    split = pair(Pairs([1, 2, 3], [0, 1, 0]), Pairs([4], [1])).splits["train"]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(split.image, [2, 0, 1] * 5))
    assert [np.asarray(image)[0, 0, 0] for image in images] == [3, 1, 2] * 5
    assert reds(pickle.loads(pickle.dumps(split))) == [1, 2, 3]  # noqa: S301


def broken(image: Image.Image):
    if image.getpixel((0, 0))[0] == 2:
        raise OSError("image file is truncated")
    return image


def test_a_broken_image_is_named():
    train = Pairs(range(12), [0, 1] * 6, make=broken)
    with pytest.raises(IceprobeError, match="'item 2 of Pairs' can't be read"):
        pair(train, Pairs([4], [1]))
    train.targets = train.given
    split = pair(train, Pairs([4], [1])).splits["train"]
    assert split.fingerprint() == split.fingerprint()
    with pytest.raises(
        BadImage, match=r"'train/0000002' can't be read \(image file is truncated\)"
    ):
        split.image(2)


class Stream(IterableDataset):
    def __iter__(self):
        yield Image.new("RGB", (2, 2)), 0


good = Pairs([1, 2], [0, 1])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (good, r'a Pairs is one split, .*: pass {"train": DATA, "test": DATA}'),
        (DataLoader(good), r"a DataLoader gives batches: pass .*; its own is in .dataset"),
        (Path("/data/birds"), "'/data/birds' is a path: pass it as 'folder:/data/birds'"),
        (3, "a int is no data set: pass"),
        ({"train": good}, "splits 'train' are given, one train and one test are wanted"),
        ({"a": good, "b": good}, "splits 'a', 'b' are given"),
        ({"train": good, "test": good}, "train and test are the same object"),
        ({"train": Stream(), "test": good}, "split 'train' is a Stream, .* map-style"),
        ({"train": Pairs([], []), "test": good}, "split 'train' is empty"),
        ({"train": [(1, 2, 3)], "test": good}, r"an item of list is a tuple of 3: \(image, label\)"),
        ({"train": Pairs([1], [0.5]), "test": good}, r"label 0.5 of image 0 of split 'train'"),
        ({"train": Pairs([1], [[0, 1]]), "test": good}, r"labels of split 'train' have the shape"),
        ({"train": Pairs([1, 2], [[0], [1, 2]]), "test": good}, "labels of split 'train' make no array"),
        ({"train": Pairs([1], [5], classes=["a"]), "test": good}, "label 5 of image 0 .* has no name"),
        (
            {"train": TensorDataset(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])), "test": good},
            r"is a Tensor of float32 and shape \(4, 4, 3\): .* \(transform=None\)",
        ),
        (
            {"train": Pairs(range(9), [0, 1, 2] * 3, make=v2.RandomCrop(1)), "test": Pairs([1], [0])},
            None,
        ),
        (
            {"train": Pairs(range(9), [0] * 9, make=v2.RandomResizedCrop(8)), "test": Pairs([1], [0])},
            None,
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_wrapped_is_one_line(given, says):
    if says is None:  # a crop of one colour is the same each time
        assert len(load_dataset(given).splits["train"]) == 9
        return
    with pytest.raises(IceprobeError, match=says) as caught:
        load_dataset(given)
    assert "\n" not in str(caught.value)


def test_a_random_transform_is_refused_and_none_is_the_remedy(folders):
    jitter = v2.ColorJitter(brightness=0.9)
    noisy = [ImageFolder(folders / name, transform=jitter) for name in ("valid", "train")]
    with pytest.raises(
        IceprobeError, match=r"another one each time .* without its random transform"
    ):
        pair(*noisy)
    tensors = v2.Compose([v2.Resize(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    with pytest.raises(IceprobeError, match=r"Image of float32 .* \(transform=None\)"):
        pair(ImageFolder(folders / "train", transform=tensors), noisy[0])
    pair(ImageFolder(folders / "train", transform=None), ImageFolder(folders / "valid"))


def test_it_is_taken_wherever_a_data_set_is(folders, tmp_path):
    given = {"train": ImageFolder(folders / "train"), "test": ImageFolder(folders / "valid")}
    backbone = make_backbone()
    plain = load_dataset(f"folder:{folders}")
    store = iceprobe.extract(backbone, given, tmp_path / "features")
    other = iceprobe.extract(backbone, plain, tmp_path / "other")
    rows = np.arange(6)
    assert torch.equal(store["train"].patches(rows), other["train"].patches(rows))
    assert store["test"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    planned = iceprobe.plan(backbone, given, tmp_path / "features", measure_seconds=0)
    assert (planned.images, planned.store) == ({"train": 6, "test": 6}, store.path)
    (result,) = iceprobe.probe(backbone, given, ["knn"])
    (same,) = iceprobe.probe(backbone, plain, ["knn"])
    assert result.top1 == same.top1
    with pytest.raises(IceprobeError, match=r"a ImageFolder is one split"):
        iceprobe.probe(backbone, given["train"], ["knn"])
    assert load_dataset(plain) is plain
    with pytest.raises(IceprobeError, match="option 'split' is for a spec string"):
        load_dataset(given, split="val")
