"""Tiny copies of the benchmark sets in the layout of their own archives, written by hand.

Every image is of one colour, its number, and no two of a set have the same: a test knows by the
pixels which image it holds. Numbers on disk are the sets' own: from 1 for CUB, Cars, Flowers and
STL-10, from 0 for Places365 and CIFAR-100. Lists are in no helpful order.
"""

import io
import json
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def picture(path: Path, number: int, size: tuple[int, int] = (6, 4)) -> None:
    """An image of one colour; PNG whatever its name, so that pixels are exact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number % 256, number // 256, 7)).save(path, "PNG", compress_level=0)


def number_of(image: Image.Image) -> int:
    red, green, blue = np.asarray(image.convert("RGB"))[0, 0].tolist()
    assert blue == 7
    return red + 256 * green


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def cub200(root: Path) -> None:
    folder = root / "CUB_200_2011"
    text(folder / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Laysan_Albatross")
    files = ["001.B/b_1.jpg", "001.B/b_2.jpg", "002.L/l_1.jpg", "002.L/l_2.jpg", "002.L/l_3.jpg"]
    text(folder / "images.txt", *(f"{n} {file}" for n, file in enumerate(files, 1)))
    text(folder / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2", "5 2")
    text(folder / "train_test_split.txt", "1 0", "2 1", "3 1", "4 0", "5 0")
    text(
        folder / "bounding_boxes.txt",
        *("1 60.0 27.0 325.0 304.0", "2 1.0 2.0 3.0 1.0", "3 0.0 0.0 6.0 4.0"),
        *("4 2.5 1.0 1.0 2.0", "5 4.0 3.0 1.0 1.0"),
    )
    for n, file in enumerate(files, 1):
        picture(folder / "images" / file, n)


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    text(data / "variants.txt", "Boeing 717", "A300B4", "F/A-18")
    text(
        data / "images_variant_train.txt", "0000003 F/A-18", "0000001 Boeing 717", "0000002 A300B4"
    )
    text(data / "images_variant_val.txt", "0000004 A300B4", "0000005 F/A-18")
    text(
        data / "images_variant_trainval.txt",
        *("0000003 F/A-18", "0000001 Boeing 717", "0000002 A300B4"),
        *("0000004 A300B4", "0000005 F/A-18"),
    )
    text(data / "images_variant_test.txt", "0000007 A300B4", "0000006 Boeing 717", "0000008 F/A-18")
    for n in range(1, 9):
        picture(data / "images" / f"{n:07d}.jpg", n)


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer", "Acura RL", "smart fortwo"], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})

    def annotations(path: Path, rows: list[tuple[int, str]]) -> None:
        fields = [(key, object) for key in ("bbox_x1", "class", "fname")]
        boxed = [(np.uint8(3), np.uint8(label), name) for label, name in rows]
        savemat(path, {"annotations": np.array(boxed, dtype=fields)})

    train = [(3, "00001.jpg"), (1, "00002.jpg"), (2, "00003.jpg")]
    test = [(2, "00001.jpg"), (3, "00002.jpg")]
    annotations(folder / "devkit" / "cars_train_annos.mat", train)
    annotations(folder / "cars_test_annos_withlabels.mat", test)
    for n in (1, 2, 3):
        picture(folder / "cars_train" / f"{n:05d}.jpg", n)
    for n in (1, 2):
        picture(folder / "cars_test" / f"{n:05d}.jpg", 10 + n)


def food101(root: Path) -> None:
    folder = root / "food-101"
    train = {"waffles": ["waffles/1", "waffles/2"], "apple_pie": ["apple_pie/3"]}
    test = {"apple_pie": ["apple_pie/4"], "waffles": ["waffles/5"]}
    for part, content in (("train", train), ("test", test)):
        (folder / "meta").mkdir(parents=True, exist_ok=True)
        (folder / "meta" / f"{part}.json").write_text(json.dumps(content))
        for image in chain(*content.values()):
            picture(folder / "images" / f"{image}.jpg", int(image.split("/")[1]))


def dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    lists = {
        "train1": ["woven/w_1.jpg", "banded/b_2.jpg"],
        "val1": ["banded/b_3.jpg", "woven/w_4.jpg"],
        "test1": ["woven/w_5.jpg", "banded/b_6.jpg"],
        "train2": ["woven/w_5.jpg"],
        "test2": ["woven/w_1.jpg"],
    }
    for name, lines in lists.items():
        text(folder / "labels" / f"{name}.txt", *lines)
        for line in lines:
            picture(folder / "images" / line, int(line[-5]))


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    text(
        folder / "annotations" / "trainval.txt",
        *("Abyssinian_1 1 1 1", "yorkshire_terrier_2 3 2 2", "american_bulldog_3 2 2 1"),
    )
    text(folder / "annotations" / "test.txt", "american_bulldog_4 2 2 1", "Abyssinian_5 1 1 1")
    for name in ("Abyssinian_1", "yorkshire_terrier_2", "american_bulldog_3", "Abyssinian_5"):
        picture(folder / "images" / f"{name}.jpg", int(name[-1]))
    picture(folder / "images" / "american_bulldog_4.jpg", 4)
    (folder / "annotations" / "trimaps").mkdir()
    for path in (folder / "images").iterdir():
        # Background but for a column of border left of one of animal; all of them differ.
        trimap = np.full((4, 6), 2, np.uint8)
        column = int(path.stem[-1]) - 1
        trimap[1:3, column], trimap[1:3, column + 1 : column + 2] = 3, 1
        Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{path.stem}.png")


def flowers102(root: Path) -> None:
    """306 images, three of each class; image i is of class (7 i mod 102) + 1 on disk."""
    folder = root / "flowers-102"
    folder.mkdir(parents=True)
    numbers = np.arange(1, 307)
    savemat(folder / "imagelabels.mat", {"labels": (7 * numbers % 102 + 1).astype(np.uint8)})
    parts = {"trnid": numbers[203::-1][:102], "valid": numbers[:102], "tstid": numbers[204:]}
    savemat(folder / "setid.mat", parts)
    for n in numbers.tolist():
        picture(folder / "jpg" / f"image_{n:05d}.jpg", n)


def sun397(root: Path) -> None:
    folder = root / "SUN397"
    text(folder / "ClassName.txt", "/a/abbey", "/a/apse/indoor", "/z/zoo")
    text(
        folder / "Training_01.txt",
        "/z/zoo/sun_a.jpg",
        "/a/abbey/sun_b.jpg",
        "/a/apse/indoor/sun_c.jpg",
    )
    text(folder / "Testing_01.txt", "/a/apse/indoor/sun_d.jpg", "/z/zoo/sun_e.jpg")
    text(folder / "Training_02.txt", "/a/abbey/sun_f.jpg")
    images = ["z/zoo/sun_a", "a/abbey/sun_b", "a/apse/indoor/sun_c", "a/apse/indoor/sun_d"]
    for n, image in enumerate([*images, "z/zoo/sun_e", "a/abbey/sun_f"], 1):
        picture(folder / f"{image}.jpg", n)


def places365(root: Path) -> None:
    text(root / "categories_places365.txt", "/z/zoo 0", "/a/alley 1", "/a/apse/indoor 2")
    text(
        root / "places365_train_standard.txt",
        *("/a/alley/00000001.jpg 1", "/z/zoo/00000002.jpg 0", "/a/apse/indoor/00000003.jpg 2"),
    )
    text(root / "places365_val.txt", "Places365_val_00000002.jpg 0", "Places365_val_00000001.jpg 2")
    picture(root / "data_256_standard" / "a/alley/00000001.jpg", 1)
    picture(root / "data_256_standard" / "z/zoo/00000002.jpg", 2)
    picture(root / "data_256_standard" / "a/apse/indoor/00000003.jpg", 3)
    picture(root / "val_256" / "Places365_val_00000001.jpg", 11)
    picture(root / "val_256" / "Places365_val_00000002.jpg", 12)


def stl10(root: Path) -> None:
    """Ten training and four test images, planes stored by columns; image n has its number all over
    but for a mark at row 2, column 5 of its green plane."""
    folder = root / "stl10_binary"
    classes = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    text(folder / "class_names.txt", *classes)
    for part, numbers, labels in (
        ("train", range(1, 11), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ("test", range(11, 15), [1, 10, 5, 5]),
    ):
        planes = np.zeros((len(labels), 3, 96, 96), np.uint8)
        planes[:, 0], planes[:, 2] = np.array(numbers)[:, None, None], 7
        planes[:, 1, 2, 5] = 200
        planes.swapaxes(2, 3).tofile(folder / f"{part}_X.bin")
        np.array(labels, np.uint8).tofile(folder / f"{part}_y.bin")


def cifar100(root: Path) -> None:
    """Pickles as Python 2 wrote the published ones, opcode by opcode."""

    def short(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    def array(rows: list[np.ndarray]) -> bytes:
        raw = np.stack(rows).tobytes()
        kind = b"cnumpy\ndtype\n" + short("u1") + b"K\x00K\x01\x87R"
        kind += b"(K\x03" + short("|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        shape = b"K" + bytes([len(rows)]) + b"M\x00\x0c\x86"
        text = b"T" + len(raw).to_bytes(4, "little") + raw
        return empty + b"(K\x01" + shape + kind + b"\x89" + text + b"tb"

    def rows(items: list[bytes]) -> bytes:
        return b"](" + b"".join(items) + b"e"

    def file(name: str, **entries: bytes) -> None:
        content = b"".join(short(key) + value for key, value in entries.items())
        (folder / name).write_bytes(b"\x80\x02}(" + content + b"u.")

    def image(number: int) -> np.ndarray:
        planes = np.zeros((3, 32, 32), np.uint8)
        planes[0], planes[2] = number, 7
        planes[1, 2, 5] = 200
        return planes.reshape(-1)

    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    file("meta", fine_label_names=rows([short(name) for name in ("apple", "bear", "worm")]))
    for part, numbers, labels in (("train", (1, 2, 3), (2, 0, 1)), ("test", (11, 12), (1, 2))):
        file(
            part,
            filenames=rows([short(f"image_s_{n:06d}.png") for n in numbers]),
            fine_labels=rows([b"K" + bytes([label]) for label in labels]),
            coarse_labels=rows([b"K\x09" for _ in labels]),
            data=array([image(n) for n in numbers]),
        )


def imagenet1k(root: Path) -> None:
    """One training image a synset and three of val; boxes in ``annotations/``."""
    from timm.data import ImageNetInfo

    # Only the set of names is taken from timm: what the order has to be is in the test.
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (0, 0, 7)).save(stream, "PNG")
    for synset in sorted(ImageNetInfo("imagenet-1k").label_names(), reverse=True):
        folder = root / "train" / synset
        folder.mkdir(parents=True)
        (folder / f"{synset}_1.JPEG").write_bytes(stream.getvalue())
    picture(root / "train" / "n01443537" / "n01443537_1.JPEG", 2)
    for n, synset in enumerate(("n15075141", "n01440764", "n03126707"), 11):
        picture(root / "val" / synset / f"ILSVRC2012_val_{n:08d}.JPEG", n)

    def xml(path: Path, *boxes: tuple[int, int, int, int]) -> None:
        objects = "".join(
            f"<object><name>n0</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for x0, y0, x1, y1 in boxes
        )
        size = "<size><width>6</width><height>4</height><depth>3</depth></size>"
        text(path, f"<annotation>{size}{objects}</annotation>")

    folder = root / "annotations"
    xml(folder / "val" / "ILSVRC2012_val_00000011.xml", (1, 2, 4, 3))
    xml(folder / "val" / "ILSVRC2012_val_00000012.xml", (0, 0, 1, 1), (2, 1, 8, 4))
    xml(folder / "train" / "n01443537" / "n01443537_1.xml", (1, 0, 5, 4))


def _in_folders(folder: Path, images: dict[int, str], ending: str = "jpg") -> None:
    for number, name in images.items():
        picture(folder / name / f"{number}.{ending}", number)


def imagenet_v2(root: Path) -> None:
    folder = root / "imagenetv2-matched-frequency-format-val"
    _in_folders(folder, {1: "0", 2: "10", 3: "2", 4: "999", 5: "134"}, "jpeg")


def imagenet_a(root: Path) -> None:
    text(root / "imagenet-a" / "README.txt", "n01498041 stingray")
    _in_folders(root / "imagenet-a", {1: "n01498041", 2: "n12267677", 3: "n01531178"})


def imagenet_r(root: Path) -> None:
    text(root / "imagenet-r" / "README.txt", "n01443537 goldfish")
    _in_folders(root / "imagenet-r", {1: "n01443537", 2: "n07920052"})


def imagenet_sketch(root: Path) -> None:
    _in_folders(root / "sketch", {1: "n15075141", 2: "n01440764", 3: "n02012849"}, "JPEG")


def objectnet(root: Path) -> None:
    """A red border of a pixel around each image; of its three classes ImageNet has two."""
    folder = root / "objectnet-1.0"
    labels = {"alarm_clock": "Alarm clock", "air_freshener": "Air freshener", "banana": "Banana"}
    to_imagenet = {"Banana": "banana", "Alarm clock": "analog clock; digital clock"}
    for name, content in (
        ("folder_to_objectnet_label", labels),
        ("objectnet_to_imagenet_1k", to_imagenet),
    ):
        path = folder / "mappings" / f"{name}.json"
        text(path, json.dumps(content))
    for number, name in ((1, "banana"), (2, "alarm_clock"), (3, "air_freshener"), (4, "banana")):
        path = folder / "images" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (12, 10), (255, 0, 0))
        image.paste((number, 0, 7), (1, 1, 11, 9))
        image.save(path)
