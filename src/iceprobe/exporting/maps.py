"""Attention overlays as pictures: each image beside its maps, one tile per predictor."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from iceprobe.analysis.maps import gridded
from iceprobe.backbones import NativePreprocessing
from iceprobe.core.errors import IceprobeError
from iceprobe.exporting.exported import ExportedProbe
from iceprobe.reporting.attention import group_predictors, mean_of_groups, patch_attention
from iceprobe.reporting.pictures import enlarged, map_picture, side_by_side
from iceprobe.tokens import Tokens

_GAP = 4  # pixels between tiles


class MapWriter:
    """Writes ``NAME.png`` for each image: the crop that the backbone read, then its maps.

    More than eight predictors are grouped by their maps of the first batch, so that a tile's
    position has the same meaning in every picture.

    Attributes:
        titles: names of the maps, left to right, after the first batch.

    Raises:
        IceprobeError: if the probe has no attention, or its tokens no grid.
    """

    def __init__(self, model: ExportedProbe, folder: Path):
        probe, shape = model.probe, model.shape
        without = shape.grid is None and not isinstance(model.preprocessing, NativePreprocessing)
        if not probe.pooling.num_predictors or without:
            lack = "the tokens have no grid" if without else "the probe has no attention"
            raise IceprobeError(f"there are no maps to draw, {lack}: leave --maps out")
        self.probe, self.folder = probe, folder
        self.titles: list[str] = []
        self._groups: list[Tensor] = []

    def write(self, tokens: Tokens, crops: list[Image.Image], names: list[str]) -> None:
        """Draw a batch of B images.

        Args:
            tokens: on the probe's device.
            crops: what the backbone reads of each image.
            names: paths below the folder, without ``.png``.
        """
        weights = patch_attention(self.probe, tokens)
        if not self._groups:
            self._groups, self.titles = group_predictors(weights)
        maps = gridded(mean_of_groups(weights, self._groups), tokens.grids or [])
        for crop, grids, name in zip(crops, [one.numpy() for one in maps], names, strict=True):
            path = self.folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            tiles = [enlarged(crop), *(map_picture(crop, grid) for grid in grids)]
            side_by_side(tiles, _GAP).save(path)
