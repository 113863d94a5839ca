"""The benchmark sets by their bare names: a table. Importing this imports neither images nor torch.

The training split is all but the evaluation split, as in Kornblith et al. ("Do better ImageNet models
transfer better?", CVPR 2019) and the DINO and CLIP evaluations: an official validation part belongs to
train. ``split=val`` evaluates on that part instead, and trains without it. Sizes are of the default
splits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from iceprobe.core.registry import Entry, Registry
from iceprobe.core.specs import boolean

Parts = tuple[str, ...]  # names of official parts that are read one after another
Splits = Mapping[str, tuple[Parts, Parts]]

TRAIN_TEST: Splits = {"test": (("train",), ("test",))}
TEST: Splits = {"test": ((), ("test",))}  # runs on another set are read on it: iceprobe test


@dataclass(frozen=True)
class Benchmark(Entry):
    """A benchmark set: ``target(root, name, parts, **options) -> (Split, class names)``.

    A third value, if there is one, is `Dataset.maps`.

    Attributes:
        classes: how many.
        images: how many in train and in test; 0 in train of a set that has none.
        licence: in a few words; the set's own page is authoritative.
        where: the page to get it from, and which files.
        files: what has to be below ``root``; ``{part}`` is each part that is read.
        splits: parts of train and of test for each value of ``split=``, the default first; no parts of
            train where there is none.
        headline: the accuracy that is conventionally reported on it.
        options: of its reader: each key and the function that converts its text.
        torchvision: the class of ``torchvision.datasets`` that downloads it; empty if none does.
        fetches: keyword arguments of each call of that class that a download takes.
    """

    classes: int = 0
    images: tuple[int, int] = (0, 0)
    licence: str = ""
    where: str = ""
    files: tuple[str, ...] = ()
    splits: Splits = field(default_factory=lambda: TRAIN_TEST)
    headline: str = "top1"
    options: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    torchvision: str = ""
    fetches: tuple[Mapping[str, Any], ...] = ({},)

    @property
    def all_options(self) -> Mapping[str, Callable[[str], Any]]:
        """Every option of its spec string."""
        return {"root": str, "split": str, "download": boolean, **self.options}


CATALOGUE: Registry[Benchmark] = Registry(
    "data set",
    {
        "imagenet1k": Benchmark(
            "iceprobe.datasets.imagenet:read_imagenet",
            "ImageNet-1k: objects; val is the test split; boxes=DIR adds localisation boxes",
            classes=1000,
            images=(1_281_167, 50_000),
            licence="non-commercial research",
            where="https://image-net.org (ILSVRC2012, a folder a synset in train/ and in val/)",
            files=("{part}",),
            splits={"val": (("train",), ("val",))},
            options={"boxes": str},
        ),
        "imagenet-v2": Benchmark(
            "iceprobe.datasets.imagenet_sets:read_v2",
            "ImageNet-V2, matched frequency: the classes of ImageNet-1k again; test only",
            classes=1000,
            images=(0, 10_000),
            licence="MIT (code and labels; images of Flickr)",
            where=(
                "https://github.com/modestyachts/ImageNetV2 (imagenetv2-matched-frequency.tar.gz: folders "
                "0 to 999)"
            ),
            files=("imagenetv2-matched-frequency-format-val",),
            splits=TEST,
        ),
        "imagenet-a": Benchmark(
            "iceprobe.datasets.imagenet_sets:read_a",
            "ImageNet-A: natural images that ResNet-50 gets wrong, 200 classes of ImageNet-1k; test only",
            classes=200,
            images=(0, 7_500),
            licence="MIT (code and labels; images of the web)",
            where="https://github.com/hendrycks/natural-adv-examples (imagenet-a.tar)",
            files=("imagenet-a",),
            splits=TEST,
        ),
        "imagenet-r": Benchmark(
            "iceprobe.datasets.imagenet_sets:read_r",
            "ImageNet-R: art, cartoons, toys, …, 200 classes of ImageNet-1k; test only",
            classes=200,
            images=(0, 30_000),
            licence="MIT (code and labels; images of the web)",
            where="https://github.com/hendrycks/imagenet-r (imagenet-r.tar)",
            files=("imagenet-r",),
            splits=TEST,
        ),
        "imagenet-sketch": Benchmark(
            "iceprobe.datasets.imagenet_sets:read_sketch",
            "ImageNet-Sketch: drawings of the classes of ImageNet-1k; test only",
            classes=1000,
            images=(0, 50_889),
            licence="MIT (code and labels; images of the web)",
            where="https://github.com/HaohanWang/ImageNet-Sketch (ImageNet-Sketch.zip: sketch/)",
            files=("sketch",),
            splits=TEST,
        ),
        "objectnet": Benchmark(
            "iceprobe.datasets.objectnet:read_objectnet",
            "ObjectNet: objects turned and moved, its 113 classes that ImageNet-1k has too; the red border, "
            "2 pixels, is cropped; test only",
            classes=113,
            images=(0, 18_574),
            licence="CC BY 4.0, and no model may be trained or tuned on it",
            where="https://objectnet.dev (objectnet-1.0.zip: images/ and mappings/)",
            files=(
                "objectnet-1.0/images",
                "objectnet-1.0/mappings/folder_to_objectnet_label.json",
                "objectnet-1.0/mappings/objectnet_to_imagenet_1k.json",
            ),
            splits=TEST,
        ),
        "cifar100": Benchmark(
            "iceprobe.datasets.cifar:read_cifar100",
            "CIFAR-100: objects in 32 x 32 pixels",
            classes=100,
            images=(50_000, 10_000),
            licence="none stated",
            where="https://www.cs.toronto.edu/~kriz/cifar.html (the Python version)",
            files=("cifar-100-python/meta", "cifar-100-python/{part}"),
            torchvision="CIFAR100",
        ),
        "places365": Benchmark(
            "iceprobe.datasets.torchvision_sets:read_places365",
            "Places365-Standard: scenes, small images; val is the test split",
            classes=365,
            images=(1_803_460, 36_500),
            licence="non-commercial research and education",
            where="http://places2.csail.mit.edu (the 256 x 256 images and the file lists)",
            files=(
                "categories_places365.txt",
                "places365_train_standard.txt",
                "places365_val.txt",
                "data_256_standard",
                "val_256",
            ),
            splits={"val": (("train-standard",), ("val",))},
            torchvision="Places365",
            fetches=({"split": "train-standard", "small": True}, {"split": "val", "small": True}),
        ),
        "cub200": Benchmark(
            "iceprobe.datasets.cub:read_cub200",
            "CUB-200-2011: birds, each with its box",
            classes=200,
            images=(5_994, 5_794),
            licence="non-commercial research and education",
            where="https://www.vision.caltech.edu/datasets/cub_200_2011",
            files=(
                "CUB_200_2011/images",
                "CUB_200_2011/images.txt",
                "CUB_200_2011/classes.txt",
                "CUB_200_2011/image_class_labels.txt",
                "CUB_200_2011/train_test_split.txt",
                "CUB_200_2011/bounding_boxes.txt",
            ),
        ),
        "aircraft": Benchmark(
            "iceprobe.datasets.torchvision_sets:read_aircraft",
            "FGVC-Aircraft: variants of aircraft; trains on train + val",
            classes=100,
            images=(6_667, 3_333),
            licence="non-commercial research",
            where="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
            files=(
                "fgvc-aircraft-2013b/data/images",
                "fgvc-aircraft-2013b/data/variants.txt",
                "fgvc-aircraft-2013b/data/images_variant_{part}.txt",
            ),
            splits={"test": (("trainval",), ("test",)), "val": (("train",), ("val",))},
            headline="mean_per_class",
            torchvision="FGVCAircraft",
        ),
        "cars": Benchmark(
            "iceprobe.datasets.torchvision_sets:read_cars",
            "Stanford Cars: models of cars",
            classes=196,
            images=(8_144, 8_041),
            licence="non-commercial research",
            where=(
                "https://github.com/pytorch/vision/issues/7545, the authors' page is gone (images, "
                "devkit/ from car_devkit.tgz, and cars_test_annos_withlabels.mat)"
            ),
            files=(
                "stanford_cars/cars_train",
                "stanford_cars/cars_test",
                "stanford_cars/devkit/cars_meta.mat",
                "stanford_cars/devkit/cars_train_annos.mat",
                "stanford_cars/cars_test_annos_withlabels.mat",
            ),
        ),
        "food101": Benchmark(
            "iceprobe.datasets.torchvision_sets:read_food101",
            "Food-101: dishes; the training labels are noisy",
            classes=101,
            images=(75_750, 25_250),
            licence="research, within fair use of the pictures",
            where="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
            files=("food-101/images", "food-101/meta/{part}.json"),
            torchvision="Food101",
        ),
        "stl10": Benchmark(
            "iceprobe.datasets.torchvision_sets:read_stl10",
            "STL-10: objects in 96 x 96 pixels; the unlabelled images are not read",
            classes=10,
            images=(5_000, 8_000),
            licence="none stated (images of ImageNet)",
            where="https://cs.stanford.edu/~acoates/stl10 (the binary files)",
            files=(
                "stl10_binary/class_names.txt",
                "stl10_binary/{part}_X.bin",
                "stl10_binary/{part}_y.bin",
            ),
            torchvision="STL10",
        ),
        "dtd": Benchmark(
            "iceprobe.datasets.torchvision_sets:read_dtd",
            "Describable Textures, first partition; trains on train + val",
            classes=47,
            images=(3_760, 1_880),
            licence="research",
            where="https://www.robots.ox.ac.uk/~vgg/data/dtd",
            files=("dtd/dtd/images", "dtd/dtd/labels/{part}1.txt"),
            splits={"test": (("train", "val"), ("test",)), "val": (("train",), ("val",))},
            torchvision="DTD",
        ),
        "pets": Benchmark(
            "iceprobe.datasets.pets:read_pets",
            "Oxford-IIIT Pets: breeds of cats and dogs, each with its mask; trains on trainval",
            classes=37,
            images=(3_680, 3_669),
            licence="CC BY-SA 4.0",
            where="https://www.robots.ox.ac.uk/~vgg/data/pets",
            files=(
                "oxford-iiit-pet/images",
                "oxford-iiit-pet/annotations/{part}.txt",
                "oxford-iiit-pet/annotations/trimaps",
            ),
            splits={"test": (("trainval",), ("test",))},
            headline="mean_per_class",
            torchvision="OxfordIIITPet",
        ),
        "flowers102": Benchmark(
            "iceprobe.datasets.torchvision_sets:read_flowers102",
            "Oxford Flowers: flowers; trains on train + val",
            classes=102,
            images=(2_040, 6_149),
            licence="none stated",
            where="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
            files=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
            splits={"test": (("train", "val"), ("test",)), "val": (("train",), ("val",))},
            headline="mean_per_class",
            torchvision="Flowers102",
        ),
        "sun397": Benchmark(
            "iceprobe.datasets.sun397:read_sun397",
            "SUN397: scenes, partition 01 of 10",
            classes=397,
            images=(19_850, 19_850),
            licence="research",
            where=(
                "https://vision.princeton.edu/projects/2010/SUN (SUN397.tar.gz, and the lists of "
                "Partitions.zip laid into SUN397/)"
            ),
            files=("SUN397/ClassName.txt", "SUN397/Training_01.txt", "SUN397/Testing_01.txt"),
            torchvision="SUN397",
        ),
    },
)
