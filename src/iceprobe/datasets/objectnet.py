"""ObjectNet (Barbu et al. 2019): 313 classes, of which 113 are classes of ImageNet-1k too.

``objectnet-1.0/images/alarm_clock/….png``; ``mappings/folder_to_objectnet_label.json`` names the class of
a folder, ``mappings/objectnet_to_imagenet_1k.json`` the classes of ImageNet-1k that stand for it,
``"analog clock; digital clock"``. Images of the other 200 classes aren't read. Each image has a red border,
which its authors ask to crop: of 2 pixels, as in the evaluations of CLIP and its successors.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Split
from iceprobe.datasets.files import FileSplit
from iceprobe.datasets.folder import listing
from iceprobe.datasets.imagenet import other_names

BORDER = 2  # pixels
FOLDER = "objectnet-1.0"


class BorderedSplit(FileSplit):
    """Images without their border of `BORDER` pixels."""

    def image(self, index: int) -> Image.Image:
        image = super().image(index)
        return image.crop((BORDER, BORDER, image.width - BORDER, image.height - BORDER))

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint()} border {BORDER}".encode()).hexdigest()


def read_objectnet(
    root: Path, name: str, parts: Sequence[str]
) -> tuple[Split, list[str], dict[str, list[str]]]:
    """Read the images of classes that ImageNet-1k has too.

    Raises:
        IceprobeError: for a mapping to a class that ImageNet-1k doesn't have.
    """
    mappings = root / FOLDER / "mappings"
    labels = json.loads((mappings / "folder_to_objectnet_label.json").read_text("utf-8"))
    to_imagenet = json.loads((mappings / "objectnet_to_imagenet_1k.json").read_text("utf-8"))
    folders = {label: folder for folder, label in labels.items()}
    known = other_names()
    maps: dict[str, list[str]] = {}
    for label, text in sorted(to_imagenet.items()):
        others = [other.strip() for other in text.split(";")]
        for other in others:
            if other not in known:
                raise IceprobeError(
                    f"{mappings / 'objectnet_to_imagenet_1k.json'}, {label!r}: "
                    f"{other!r} is no class of ImageNet-1k; get it again"
                )
        maps[label] = [known[other] for other in others]
    classes = list(maps)
    names, numbers, _ = listing(root, f"{FOLDER}/images", [folders[label] for label in classes])
    return BorderedSplit(name, root, names, numbers), classes, maps
