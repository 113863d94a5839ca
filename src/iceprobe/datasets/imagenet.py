"""ImageNet-1k (ILSVRC 2012) in folders, one a synset: ``train/n01440764/…`` and ``val/n01440764/…``.

Labels follow the sorted WordNet ids, as in every published checkpoint; ids and names come from timm,
so the development kit isn't needed and an extra folder can't shift the labels.

``boxes=DIR`` reads the localisation boxes: ``DIR/val/ILSVRC2012_val_00000001.xml`` and, if present,
``DIR/train/n01440764/n01440764_18.xml`` (``Annotations/CLS-LOC`` of the challenge). Of several objects
the largest box is taken. Corners are edges in pixels, clipped to the image, as in most readers.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Split
from iceprobe.datasets.files import FileSplit
from iceprobe.datasets.folder import listing
from iceprobe.datasets.walking import folders_in


def read_imagenet(
    root: Path, name: str, parts: Sequence[str], *, boxes: str | None = None
) -> tuple[Split, list[str]]:
    """Read the parts ``"train"`` or ``"val"``.

    Raises:
        IceprobeError: if a part isn't in folders of synsets, or the folder of boxes is missing.
    """
    synsets = list(names_of_synsets())
    (part,) = parts
    check_folders(root / part, synsets)
    names, labels, _ = listing(root, part, synsets)
    read = None if boxes is None else _boxes(Path(boxes).expanduser(), part, names)
    return FileSplit(name, root, names, labels, read), list(names_of_synsets().values())


@cache
def names_of_synsets() -> dict[str, str]:
    """Class names of ImageNet-1k by their WordNet ids, in the order of labels."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    synsets = info.label_names()
    names = _unique([info.label_name_to_description(s) for s in synsets], synsets)
    return dict(zip(synsets, names, strict=True))


def other_names() -> dict[str, str]:
    """What a class of ImageNet-1k is called elsewhere → its name here: by WordNet id, and by its words
    with the id where they are ambiguous here."""
    named = names_of_synsets()
    return named | {name: name for name in named.values()}


def check_folders(folder: Path, synsets: Sequence[str]) -> None:
    """Check that there are folders of ``synsets`` and no others."""
    found = set(folders_in(folder))
    if not found & set(synsets):
        raise IceprobeError(
            f"{str(folder)!r} has no folders of synsets such as {synsets[0]}: sort its images into "
            "them (torchvision.datasets.ImageNet does, given the archives and the devkit)"
        )
    if stray := sorted(found - set(synsets)):
        raise IceprobeError(
            f"folder {stray[0]!r} in {str(folder)!r} is no synset of ImageNet-1k: remove it, or "
            f"read the images as folder:{folder.parent}"
        )


def _unique(classes: Sequence[str], synsets: Sequence[str]) -> list[str]:
    """Names, with the synset added to those that occur twice (crane, maillot)."""
    counts = Counter(classes)
    return [
        name if counts[name] == 1 else f"{name} ({synset})"
        for name, synset in zip(classes, synsets, strict=True)
    ]


def _boxes(folder: Path, part: str, names: Sequence[str]) -> np.ndarray | None:
    """``(n, 4)``, NaN for images without a file; ``None`` where the part has no folder."""
    if not any((folder / known).is_dir() for known in ("train", "val")):
        raise IceprobeError(
            f"option boxes={str(folder)!r}: no train/ or val/ with XML files in it, take "
            "Annotations/CLS-LOC of ILSVRC2012"
        )
    if not (folder / part).is_dir():
        return None
    boxes = np.full((len(names), 4), np.nan)
    for row, name in enumerate(names):
        synset = name.split("/")[1]
        path = folder / part / (synset if part == "train" else "") / f"{Path(name).stem}.xml"
        if path.is_file():
            boxes[row] = _largest(path)
    return boxes


def _largest(path: Path) -> tuple[float, float, float, float]:
    """The box with the largest area in a file of annotations."""
    tree = ElementTree.parse(path)
    width, height = (float(tree.findtext(f"size/{key}", "nan")) for key in ("width", "height"))
    found = []
    for box in tree.iterfind("object/bndbox"):
        x0, y0, x1, y1 = (float(box.findtext(k, "nan")) for k in ("xmin", "ymin", "xmax", "ymax"))
        found.append((max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)))
    if not found or not np.isfinite(found).all():
        raise ValueError(f"{path} holds no whole box")
    return max(found, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
