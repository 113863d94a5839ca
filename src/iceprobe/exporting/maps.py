"""Attention overlays as pictures: each image beside its maps, one tile per predictor.

A clip is a strip of its moments and a recording a spectrogram, as in the report, above their maps.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from iceprobe.analysis.layouts import Layout, layout_of_tokens
from iceprobe.analysis.maps import gridded
from iceprobe.backbones import NativePreprocessing
from iceprobe.backbones.kinds import plural
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.base import Split
from iceprobe.exporting.exported import ExportedProbe
from iceprobe.reporting.attention import group_predictors, mean_of_groups, patch_attention
from iceprobe.reporting.pictures import below_each_other, enlarged, map_picture, side_by_side
from iceprobe.reporting.spectrograms import Spectrograms, with_length
from iceprobe.reporting.strips import Moments, moments_of
from iceprobe.tokens import Tokens

_GAP = 4  # pixels between tiles
Pictures = Sequence[Image.Image] | Moments | Spectrograms


class MapWriter:
    """Writes ``NAME.png`` for each image: the crop that the backbone read, then its maps.

    More than eight predictors are grouped by their maps of the first batch, so that a tile's
    position has the same meaning in every picture.

    Attributes:
        titles: names of the maps, in their order, after the first batch.

    Raises:
        IceprobeError: if the probe has no attention, or its tokens no grid.
    """

    def __init__(self, model: ExportedProbe, folder: Path):
        probe, kind = model.probe, model.preprocessing.kind
        without = _layout(model) == "bag"
        if not probe.pooling.num_predictors or without:
            of = "" if kind == "image" else f" of {plural(kind)}"
            lack = f"the tokens{of} have no grid" if without else "the probe has no attention"
            raise IceprobeError(f"there are no maps to draw, {lack}: leave --maps out")
        self.probe, self.folder = probe, folder
        self.titles: list[str] = []
        self._groups: list[Tensor] = []

    def write(self, tokens: Tokens, pictures: Pictures, names: list[str]) -> None:
        """Draw a batch of B examples.

        Args:
            tokens: on the probe's device.
            pictures: what the backbone reads of each example, as of :func:`pictures_of`.
            names: paths below the folder, without ``.png``.
        """
        weights = patch_attention(self.probe, tokens)
        if not self._groups:
            self._groups, self.titles = group_predictors(weights)
        maps, frames = mean_of_groups(weights, self._groups), 1
        if isinstance(pictures, Moments | Spectrograms):
            cells, frames = [*pictures.shares(maps)], pictures.aside
            images, joined = pictures.strips, below_each_other
        else:
            cells = [one.numpy() for one in gridded(maps, tokens.grids or [])]
            images, joined = [*pictures], side_by_side
        for image, grids, name in zip(images, cells, names, strict=True):
            path = self.folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = [map_picture(image, grid, frames) for grid in grids]
            joined([enlarged(image, frames), *drawn], _GAP).save(path)


def pictures_of(model: ExportedProbe, split: Split, rows: list[int], tokens: Tokens) -> Pictures:
    """What the backbone reads of these rows, as pictures: crops, strips of moments, or spectrograms.

    Args:
        tokens: of them.
    """
    layout, preprocessing, grid = _layout(model), model.preprocessing, model.shape.grid
    if layout == "moments":
        return moments_of(preprocessing, split, rows, grid)
    shown = [preprocessing.shown(split, row) for row in rows]
    if layout != "spectrogram":
        return shown
    lengths = None if tokens.mask is None else np.asarray(tokens.mask.sum(1).cpu())
    whole = None if grid is None else (grid[0], grid[1])
    return Spectrograms([with_length(one) for one in shown], whole, lengths)


def _layout(model: ExportedProbe) -> Layout:
    own_grids = isinstance(model.preprocessing, NativePreprocessing)
    return layout_of_tokens(model.preprocessing.kind, model.shape.grid, own_grids=own_grids)
