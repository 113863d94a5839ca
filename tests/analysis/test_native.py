"""Where probes look in images of their own shape: each on its own grid, against loops over images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import iceprobe
from iceprobe.fitting.fitted import load_fitted
from iceprobe.reporting.attention import Album, draw_gallery
from iceprobe.reporting.paper_figure import figure
from iceprobe.results.fitted import FittedResult
from tests.native import NATIVE, PATCH, Patches, dataset
from tests.reference import analysis as reference


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[FittedResult]:
    place = tmp_path_factory.mktemp("native")
    store = iceprobe.extract(
        iceprobe.load_backbone(Patches()), dataset(), place / "features", tokens="float32"
    )
    return iceprobe.fit(
        store,
        ["linear", "ep4"],
        seeds=1,
        epochs=20,
        min_steps=1,
        learning_rates=[1e-1],
        output=place / "run",
    )


def mean(values) -> float:
    return pytest.approx(np.mean(list(values)), abs=1e-5)


def test_every_number_is_that_of_loops_over_images(results: list[FittedResult]) -> None:
    (found,) = iceprobe.analyze(results, draws=20, thresholds=4, batch_size=5)
    result = results[1]
    store = iceprobe.Store.open(result.store.path)
    part, probe = store["test"], load_fitted(result, store.shape, 0)
    source = dataset().splits["test"]
    each = found.predictors[-1]
    entropies, in_box, in_mask, centred, areas, hits = [], [], [], [], [], []
    for row in range(len(part)):
        image = source.image(row)
        height, width = NATIVE.grid(image.size)
        tokens = part.tokens([row])
        with torch.no_grad():
            weights = probe.pooling.attention(*probe.read_tokens(tokens))[0].double()
        maps = weights / weights.sum(-1, keepdim=True)
        a = maps[each.predictor - 1].tolist()
        assert len(a) == height * width
        cells = [
            (c * PATCH, r * PATCH, (c + 1) * PATCH, (r + 1) * PATCH)
            for r in range(height)
            for c in range(width)
        ]
        (box,) = NATIVE.transform_boxes(source.boxes[row : row + 1], image.size).tolist()
        entropies.append(reference.entropy(a))
        shares = [reference.intersection(cell, box) / PATCH**2 for cell in cells]
        in_box.append(np.dot(a, shares))
        areas.append(reference.area(box) / (height * width * PATCH**2))
        x, y = (
            sum(w * (c[k] + c[k + 2]) / 2 for w, c in zip(a, cells, strict=True)) for k in (0, 1)
        )
        centred.append(box[0] <= x < box[2] and box[1] <= y < box[3])
        if (mask := source.mask(row)) is not None:
            in_mask.append(np.dot(a, NATIVE.cover(mask)))
        one = maps.mean(0).view(height, width)
        one = (one - one.min()) / (one.max() - one.min())
        picture = F.interpolate(one[None, None], (PATCH * height, PATCH * width), mode="bilinear")[
            0, 0
        ]
        hits.append(
            [
                [any(reference.iou(b, box) >= d for b in reference.component_boxes(picture.numpy() >= t)) for d in (0.3, 0.5, 0.7)]
                for t in (0, 0.25, 0.5, 0.75)
            ]
        )  # fmt: skip
    assert each.entropy.mean == mean(entropies)
    assert each.mass_in_box.mean == mean(in_box)
    assert each.mass_in_mask.mean == mean(in_mask)
    assert each.centroid_in_box.mean == mean(centred)
    assert found.uniform["mass_in_box"] == pytest.approx(np.mean(areas), abs=1e-6)
    best = np.array(hits).mean(0).max(0)
    assert [found.max_box_accuracy[key] for key in ("0.3", "0.5", "0.7")] == pytest.approx(best)
    assert 0.1 < np.mean(hits) < 0.9


def test_batches_change_nothing(results: list[FittedResult]) -> None:
    one, other = (
        iceprobe.analyze(results, draws=20, thresholds=4, batch_size=size)[0] for size in (1, 14)
    )
    for a, b in zip(one.predictors, other.predictors, strict=True):
        for name in ("entropy", "mass_in_box", "mass_in_mask", "centroid_in_box"):
            assert getattr(a, name).mean == pytest.approx(getattr(b, name).mean, abs=1e-6)
    assert one.max_box_accuracy == other.max_box_accuracy


def test_pictures_have_the_images_shapes(
    results: list[FittedResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = iceprobe.Store.open(results[1].store.path)
    store = results[1].open_store or store
    monkeypatch.setattr(type(store), "dataset", lambda self: dataset())
    album = Album(store, "test", np.arange(6))
    grids = [NATIVE.grid(dataset().splits["test"].image(row).size) for row in range(6)]
    assert [image.size for image in album.images] == [(w * PATCH, h * PATCH) for h, w in grids]
    maps = album.maps(album.probe(results[1]))
    assert maps is not None
    for one, grid, flat in zip(album.gridded(maps), grids, maps, strict=True):
        assert one.shape == (4, *grid)
        assert torch.equal(one.flatten(1), flat[:, : grid[0] * grid[1]])
        assert one.sum((1, 2)).tolist() == pytest.approx([1] * 4, abs=1e-5)
    gallery = draw_gallery(results[1], album)
    assert gallery is not None
    assert all(
        picture.startswith("data:")
        for row in gallery.rows
        for picture in (row.image, *row.maps[-4:])
    )
    assert figure([results[1]], tmp_path / "maps.svg", images=3).stat().st_size > 1000
    assert "xMidYMid meet" in (tmp_path / "maps.svg").read_text()
