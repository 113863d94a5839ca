"""A real run on the bundled backbone and images, and exported probes that trained nothing."""

from pathlib import Path

import pytest
import torch

import iceprobe
from iceprobe import probes
from iceprobe.datasets.base import Dataset
from iceprobe.exporting import ExportedProbe
from iceprobe.results import Result

IMAGES = 60  # of each split: all ten classes are among them
BRIGHT = "python:tests.exporting.models:bright?image_size=32&mean=0,0,0&std=1,1,1&crop_pct=1&num_prefix=0"


@pytest.fixture(scope="session")
def clutter() -> Dataset:
    return iceprobe.load_dataset("bundled:fashion-clutter")


@pytest.fixture(scope="session")
def results(clutter: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """k-NN, a linear probe and EP, as `fit` returns them; their run folder is on disk."""
    place = tmp_path_factory.mktemp("run")
    backbone = iceprobe.load_backbone("bundled:mae-tiny")
    store = iceprobe.extract(backbone, clutter, place / "features", limit=IMAGES)
    fitted = iceprobe.fit(
        store,
        ["knn", "linear", "ep12"],
        seeds=2,
        epochs=4,
        learning_rates=[1e-1],
        min_steps=20,
        output=place / "run",
    )
    return {result.probe: result for result in fitted}


@pytest.fixture(scope="session")
def exported(results: dict[str, Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EP's second seed."""
    return iceprobe.export(results["ep12"], tmp_path_factory.mktemp("exported") / "ep", seed=1)


def untrained(backbone: str, probe: str, classes: list[str]) -> ExportedProbe:
    """A probe with seeded weights and batch statistics of its own."""
    frozen = iceprobe.load_backbone(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = probes.build(
            probe, frozen.dim, len(classes), grid=frozen.grid, has_class=frozen.has_class
        )
        for name, buffer in fresh.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    return ExportedProbe(frozen, fresh, classes)
