"""For those with satellite images of 13 bands: a kind of example, an encoder of 13 channels, data in .npy files.

    python examples/satellite/bands.py tiles                      # made-up ones; yours: CLASS/*.npy below train/ and test/
    iceprobe run --data "python:examples/satellite/bands.py:tiles?trust=true&folder=tiles" --probe knn --probe ep8 \\
                 --backbone "python:examples/satellite/bands.py:encoder"

Images of iceprobe are grey or RGB. Other examples are a kind of their own (CONTRIBUTING.md): here an array `(13, H, W)`
of Sentinel-2's level 1C. Replace `encoder` by your model (`?checkpoint=FILE` loads its weights) and its statistics.
What isn't there: GeoTIFF (np.save what rasterio or tifffile read), random views, `segment`, export.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.backbones.kinds import KINDS, ExamplePreprocessing, Kind
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import BadImage, Dataset
from iceprobe.datasets.files import FileSplit
from iceprobe.datasets.folder import Contents, FolderOptions, load_files

BANDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
RED_GREEN_BLUE = [BANDS.index(name) for name in ("B04", "B03", "B02")]
WHITE = 3_000  # reflectance in 1/10,000 that a picture shows as white


@dataclass(frozen=True)
class Bands(ExamplePreprocessing):
    """Reflectance → `(x − mean) / std` by band, resized to a square.

    Attributes:
        mean, std: of each band, in the units of the files.
    """

    kind: ClassVar[str] = "bands"

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.mean), self.image_size, self.image_size

    @property
    def frame(self) -> Preprocessing:
        """How the picture of a tile is cut for reports: not at all."""
        return Preprocessing(self.image_size, (0,), (1,), crop_pct=1.0, resize="squash", channels=1)

    def transform(self, example: np.ndarray) -> Tensor:
        values = torch.from_numpy(example.astype(np.float32))
        size = (self.image_size, self.image_size)
        values = F.interpolate(values[None], size, mode="bicubic", antialias=True)[0]
        mean, std = (torch.tensor(one)[:, None, None] for one in (self.mean, self.std))
        return (values - mean) / std

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
        }


KINDS[Bands.kind] = Kind(Bands, "tiles of 13 bands", "tile")


class TileSplit(FileSplit):
    """Arrays `(13, H, W)` in .npy files."""

    kind = Bands.kind

    def example(self, index: int) -> np.ndarray:
        try:
            array = np.load(self.root / self.names[index], allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadImage(f"tile {self.names[index]!r} can't be read ({error})") from error
        if array.ndim != 3 or len(array) != len(BANDS):
            raise BadImage(
                f"tile {self.names[index]!r} has the shape {array.shape}: (13, H, W) is wanted, bands first"
            )
        if not np.isfinite(array).all():
            raise BadImage(f"tile {self.names[index]!r} has values that aren't finite")
        return array

    def image(self, index: int) -> Image.Image:
        """Red, green and blue of it, for reports."""
        colours = self.example(index)[RED_GREEN_BLUE].transpose(1, 2, 0) / WHITE
        return Image.fromarray((255 * colours.clip(0, 1)).astype(np.uint8))


def tiles(folder: str) -> Dataset:
    """A folder a class, below `train/` and `test/` or drawn."""
    return load_files(
        folder,
        f"folder:{folder}",
        FolderOptions(),
        Contents("folder", "tile", (".npy",), TileSplit),
    )


def encoder() -> nn.Module:
    """A small ViT with random weights; its statistics are those of the made-up tiles."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(
            "vit_tiny_patch16_224", in_chans=len(BANDS), img_size=64, patch_size=8, num_classes=0
        )
    model.preprocessing = Bands(64, (1_500.0,) * 13, (800.0,) * 13)
    return model


def make_up(folder: Path, train: int = 40, test: int = 20) -> None:
    """Fields that look alike in red, green and blue; crops and bare soil differ in the near infrared."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name, infrared in (("crop", 3_000), ("soil", 1_400)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                tile = rng.normal(1_000, 300, (13, 8, 8)).repeat(8, 1).repeat(8, 2)
                tile[[BANDS.index(band) for band in ("B07", "B08", "B8A")]] += infrared - 1_000
                np.save(
                    folder / split / name / f"{number}.npy", tile.clip(0, 10_000).astype(np.uint16)
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where made-up tiles go")
    folder = parser.parse_args().folder
    if folder.exists():
        raise IceprobeError(f"{folder} is there already: name another folder")
    make_up(folder)
    print(f"120 made-up tiles of two classes in {folder}")


if __name__ == "__main__":
    main()
