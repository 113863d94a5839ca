"""A table of clip art for ranking encoders: what a drawing shows, and which drawings are one series.

    apt-get install openclipart-png          # public domain; 200 MB
    python examples/published_weights/clipart.py clipart.csv

A class is a folder of the package, and its links. What lies in two of these folders has two classes and is left out, as
is what is larger than 20 million pixels; folders that are mostly one series (smileys, stickmen) are no class. Drawings of a series are near duplicates: "cone2", "cone4_bw", a drawing
and its mirror image. They get one name in the column `series`, and lie in one of the five folds, of which each is
tested on what was learned from the others.
"""

import argparse
import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

FOLDERS = {
    "bird": "animals/birds",
    "bug": "animals/bugs",
    "mammal": "animals/mammals",
    "house": "buildings/homes",
    "computer": "computer/hardware",
    "drink": "food/beverages",
    "dessert": "food/desserts",
    "fruit": "food/fruit",
    "body part": "people/bodypart",
    "clothing": "people/clothing",
    "flower": "plants/flowers",
    "music": "recreation/music",
    "sport": "recreation/sports",
    "toy": "recreation/toys",
    "clock": "signs_and_symbols/clocks",
    "weather": "signs_and_symbols/weather",
    "weapon": "tools/weapons",
    "boat": "transportation/boating",
    "road sign": "transportation/roadsigns",
    "vehicle": "transportation/vehicles",
}
SIDE = 32  # of the small pictures that are compared
ALIKE = 0.95  # their correlation from which two are of one series
LARGEST = 20_000_000  # pixels


def drawings(root: Path) -> tuple[list[Path], list[str]]:
    """Files with one class, each once, and their classes."""
    classes = defaultdict(set)
    for name, folder in FOLDERS.items():
        for file in sorted((root / folder).rglob("*.png")):
            classes[file.resolve()].add(name)
    one = {file: names.pop() for file, names in classes.items() if len(names) == 1}
    small = [file for file in sorted(one) if is_small(file)]
    print(
        f"{len(classes) - len(one)} in two classes and {len(one) - len(small)} too large: left out"
    )
    return small, [one[file] for file in small]


def is_small(file: Path) -> bool:
    """Whether it has few enough pixels; Pillow doesn't open the largest."""
    try:
        with Image.open(file) as picture:
            return picture.width * picture.height <= LARGEST
    except Image.DecompressionBombError:
        return False


def stem(file: Path) -> str:
    """What names of a series share: `cone4_bw.png` and `cone2_alt_01.png` are `cone`."""
    words = re.split(r"[^a-z]+", file.stem.lower())
    return " ".join(
        word for word in words if word not in ("", "bw", "alt", "md", "r", "v", "simple")
    )


def small(file: Path) -> np.ndarray:
    """The drawing on white, cut to what isn't white, as a grey vector of length 1."""
    picture = Image.open(file).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("L")
    box = picture.point(lambda value: 255 * (value < 250)).getbbox()
    grey = np.asarray(picture.crop(box).resize((SIDE, SIDE), Image.Resampling.BOX), float)
    grey -= grey.mean()
    return grey / max(np.linalg.norm(grey), 1e-9)


def series(files: list[Path]) -> np.ndarray:
    """The number of each drawing's series: `(n,)`."""
    pictures = np.stack([small(file) for file in files])
    flat = pictures.reshape(len(files), -1)
    alike = np.zeros((len(files), len(files)), bool)
    for turned in (pictures, pictures.transpose(0, 2, 1)):
        for mirrored in (turned, turned[:, :, ::-1], turned[:, ::-1], turned[:, ::-1, ::-1]):
            alike |= mirrored.reshape(len(files), -1) @ flat.T > ALIKE
    stems = np.array([f"{file.parent}/{stem(file)}" for file in files])
    alike |= stems[:, None] == stems
    return connected_components(coo_array(alike), directed=False)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--root", type=Path, default=Path("/usr/share/openclipart/png"))
    options = parser.parse_args()
    if not options.root.is_dir():
        parser.error(f"no folder {options.root}: apt-get install openclipart-png, or --root DIR")
    files, shows = drawings(options.root)
    numbers = series(files)
    folds = np.empty(len(files), int)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for fold, (_, tested) in enumerate(splitter.split(files, shows, numbers)):
        folds[tested] = fold
    with options.table.open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["file", "shows", "series", "fold"])
        for file, name, number, fold in zip(files, shows, numbers, folds, strict=True):
            path = file.relative_to(options.root.resolve())
            rows.writerow([path, name, f"series-{number}", f"fold-{fold}"])
    sizes = Counter(numbers.tolist()).most_common(3)
    print(f"{len(files)} drawings of {len(set(shows))} classes in {numbers.max() + 1} series,")
    print(f"the largest of {', '.join(str(count) for _, count in sizes)}")


if __name__ == "__main__":
    main()
