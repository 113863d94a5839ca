"""A run that trained nothing: real probes on small tokens that know where the object is.

Every image holds one bright shape; the tokens on it carry a part code (top, middle, bottom) and
the shape's class, the rest is noise. EP's queries are set to the part codes, so its maps have a
right answer without a fit.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from iceprobe import probes
from iceprobe.results import (
    CurveRow,
    Files,
    FittedResult,
    Flops,
    Parameters,
    Predictions,
    StoreReference,
    environment,
    write_curves,
    write_predictions,
    write_results,
)
from iceprobe.results.building import scores_of
from iceprobe.tokens import Tokens, TokenShape

GRID, PIXELS, DIM, IMAGES = (14, 14), 56, 64, 400
CLASSES = ["coat", "<script>alert(1)</script>", "bag \"x\" & 'y'", "boot", "dress", "shirt", "hat"]
NAME = 'test/it\'s a "file" <b>.png'


@dataclass
class FakeSplit:
    """What the report reads of a ``StoredSplit``."""

    labels: np.ndarray
    boxes: np.ndarray
    kept: torch.Tensor
    prefix: torch.Tensor
    on_grids = True

    def __len__(self) -> int:
        return len(self.labels)

    def patches(self, rows: torch.Tensor) -> torch.Tensor:
        return self.kept[torch.as_tensor(rows)]

    def tokens(self, rows: torch.Tensor) -> Tokens:
        rows = torch.as_tensor(rows)
        return Tokens(self.kept[rows].float(), self.prefix[rows].float(), GRID, True)


class FakeStore:
    """What the report reads of a ``Store``."""

    path = None
    identity = "0123456789abcdef"
    classes, task = CLASSES, "classification"
    grid, dim, num_tokens, num_prefix = GRID, DIM, 196, 1
    has_class = has_patches = True
    pooled_class = False
    shape = TokenShape(DIM, num_tokens, num_prefix, GRID, has_class)
    manifest = SimpleNamespace(  # of images
        backbone=SimpleNamespace(preprocessing={}),
        settings=SimpleNamespace(patches=True),
        shape=shape,
    )

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, len(CLASSES), IMAGES)
        labels[:7] = np.arange(7)
        self._pictures: list[Image.Image] = []
        boxes, tokens = [], []
        for label in labels:
            picture, box = _picture(int(label), rng)
            self._pictures.append(picture)
            boxes.append(box)
            tokens.append(_tokens(int(label), box, rng))
        patches = torch.tensor(np.stack(tokens), dtype=torch.float16)
        prefix = patches.mean(1, keepdim=True)
        self._split = FakeSplit(labels, np.array(boxes, np.float32), patches, prefix)

    def asked_as(self, backbone: str, dataset: str, group: str | None = None) -> "FakeStore":
        return self

    def __getitem__(self, split: str) -> FakeSplit:
        assert split == "test"
        return self._split

    def names(self, split: str, rows: np.ndarray) -> list[str]:
        return [NAME if row == 1 else f"test/{row:05d}.png" for row in rows]

    def images(self, split: str, rows: np.ndarray) -> list[Image.Image]:
        return [self._pictures[int(row)] for row in rows]


def _picture(label: int, rng: np.random.Generator) -> tuple[Image.Image, tuple]:
    """A grey picture with fragments and one shape; the shape's box."""
    picture = Image.new("L", (PIXELS, PIXELS), 0)
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = rng.integers(0, PIXELS - 10, 2)
        draw.rectangle((x, y, x + 9, y + rng.integers(3, 10)), fill=int(rng.integers(40, 120)))
    x0, y0 = (int(v) for v in rng.integers(2, PIXELS - 26, 2))
    width, height = 16 + label, 22 - label
    shape = (x0, y0, x0 + width - 1, y0 + height - 1)
    [draw.rectangle, draw.ellipse][label % 2](shape, fill=215)
    draw.line((x0 + 4, y0 + 4, x0 + width - 5, y0 + height - 5), fill=90, width=2)
    return picture, (x0, y0, x0 + width, y0 + height)


def _tokens(label: int, box: tuple, rng: np.random.Generator) -> np.ndarray:
    tokens = rng.normal(size=(GRID[0], GRID[1], DIM)) * 0.5
    x0, y0, x1, y1 = (end / PIXELS * GRID[0] for end in box)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            if y0 <= row + 0.5 < y1 and x0 <= column + 0.5 < x1:
                down, across = (row + 0.5 - y0) / (y1 - y0), (column + 0.5 - x0) / (x1 - x0)
                tokens[row, column, int(3 * down)] += 4
                tokens[row, column, 3 + int(3 * across)] += 4
                tokens[row, column, 8 + label] += 6
    return tokens.reshape(-1, DIM)


def fitted(label: str) -> torch.nn.Module:
    """A real probe; EP's queries look for parts."""
    torch.manual_seed(0)
    probe = probes.build(label, dim=DIM, num_classes=len(CLASSES), grid=GRID, has_class=True)
    with torch.no_grad():
        for name, parameter in probe.pooling.named_parameters():
            if "quer" in name and parameter.ndim >= 2 and parameter.shape[-1] == DIM:
                parameter.view(-1, DIM)[:, :] *= 5
                for j, query in enumerate(parameter.view(-1, DIM)):
                    query[j % 6] += 7
    return probe


def make_result(
    label: str, accuracy: float, *, protocol: str = "heldout", seconds: float = 12.0, seed: int = 0
) -> tuple[FittedResult, Predictions]:
    """A result whose predictions are right on about ``accuracy`` of the images."""
    store_labels = np.random.default_rng(0).integers(0, len(CLASSES), IMAGES)
    store_labels[:7] = np.arange(7)
    hard = np.random.default_rng(1).random(IMAGES)  # the same images are hard for every probe
    rng, knn = np.random.default_rng(seed + 7), label == "knn"
    seeds = [] if knn else [0, 1, 2]
    noise = rng.normal(scale=0.12, size=(max(1, len(seeds)), IMAGES))
    right = hard + noise < accuracy
    wrong = (store_labels + rng.integers(1, len(CLASSES), right.shape)) % len(CLASSES)
    predicted = np.where(right, store_labels, wrong).astype(np.int32)
    predictions = Predictions(store_labels, predicted, right | (rng.random(right.shape) < 0.9))
    if knn:
        parameters, flops = Parameters(pooling=0, classifier=0, total=0), 2 * 2000 * DIM
        selected: dict = {"k": 20, "temperature": 0.07}
    else:
        probe = fitted(label)
        counts = probe.num_parameters()
        parameters, flops = Parameters(**counts), probe.flops(196)
        selected = {"learning_rate": 0.003, "weight_decay": 0.0, "epoch": 14}
    result = FittedResult(
        probe=label,
        method="knn" if knn else "trained",
        backbone="bundled:mae-tiny",
        paradigm="masked image modelling",
        dataset="bundled:fashion-clutter",
        protocol=protocol,
        classes=len(CLASSES),
        train_images=2000,
        test_images=IMAGES,
        dim=DIM,
        num_tokens=196,
        grid=GRID,
        primary="top1",
        metrics=scores_of(predictions, "classification"),
        selected=selected,
        selected_on="held-out 10% of train" if protocol == "heldout" else "reported split (test)",
        settings_tried=21 if knn else 5,
        best_minus_median=0.011,
        parameters=parameters,
        flops=Flops(per_image=flops),
        seconds=seconds,
        seeds=seeds,
        store=StoreReference(path=None, identity=FakeStore.identity),
        environment=environment(),
        command="iceprobe run --backbone bundled:mae-tiny --data bundled:fashion-clutter "
        "--probe knn --probe linear --probe 'ep12?value=identity'",
        created="2026-11-23T02:00:00+00:00",
        files=Files(
            probes=[]
            if knn
            else [f"probes/{label.replace('?', '-')}-{s}.safetensors" for s in seeds],
            predictions="predictions.safetensors",
        ),
    )
    return result, predictions


PROBES = {
    "knn": 0.46, "linear?input=class": 0.52, "linear?input=mean": 0.56, "mean_value": 0.60,
    "ep4": 0.74, "ep32": 0.83, "ep4?value=identity": 0.69, "aim4": 0.75, "abmilp": 0.63,
}  # fmt: skip


def make_run(
    folder: Path, store: FakeStore, *, protocol: str = "heldout", chosen: dict | None = None
) -> list[FittedResult]:
    """Write a whole run folder and give its results back, the store attached."""
    results, predictions, curves = [], {}, []
    for number, (label, accuracy) in enumerate((chosen or PROBES).items()):
        result, predicted = make_result(
            label, accuracy, protocol=protocol, seconds=3.1 * 2**number, seed=number
        )
        results.append(result)
        predictions[label] = predicted
        if label == "knn":
            continue
        probe = fitted(label)
        for name in result.files.probes:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in probe.state_dict().items()}, folder / name)
        curves += _curves(label, accuracy, protocol)
    write_predictions(folder / "predictions.safetensors", predictions)
    write_curves(folder, curves)
    write_results(folder, results)
    return [result.replaced(run=folder, open_store=store) for result in results]


def _curves(label: str, accuracy: float, protocol: str) -> list[CurveRow]:
    phase = "paper" if protocol == "paper" else "select"
    rng = np.random.default_rng(len(label))
    rows = []
    for place, rate in enumerate((0.0003, 0.001, 0.003, 0.01, 0.03)):
        level = accuracy - 0.02 * (place - 2) ** 2
        for seed in range(3):
            for epoch in range(1, 21):
                reached = level * (1 - np.exp(-epoch / 3)) + rng.normal(scale=0.006)
                rows.append(
                    CurveRow(
                        probe=label,
                        seed=seed,
                        learning_rate=rate,
                        weight_decay=0.0,
                        phase=phase,
                        epoch=epoch,
                        train_loss=1.9 * np.exp(-epoch / 5) + 1 - level,
                        eval_accuracy=float(np.clip(reached, 0, 1)),
                    )
                )
    return rows


@pytest.fixture(scope="session")
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, store: FakeStore) -> list[FittedResult]:
    return make_run(tmp_path_factory.mktemp("run"), store)
