"""Linear probing against scikit-learn's logistic regression on the same features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import iceprobe
from iceprobe.datasets.base import ArraySplit, Dataset
from iceprobe.store import extract_in_memory
from tests.store.conftest import make_backbone


def overlapping(name: str, n: int, seed: int) -> ArraySplit:
    """Four classes, each with its own faint texture in every patch, far from separable."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    textures = np.random.default_rng(9).normal(0, 9, (4, 4, 4))
    images = 120 + np.tile(textures[labels], (1, 4, 4)) + rng.normal(0, 45, (n, 16, 16))
    return ArraySplit(
        name,
        images.clip(0, 255).astype(np.uint8),
        labels,
        [f"{name}/{i}" for i in range(n)],
        None,
    )


@pytest.fixture(scope="module")
def store():
    splits = {"train": overlapping("train", 3000, 0), "test": overlapping("test", 3000, 1)}
    data = Dataset(spec="test:overlapping", name="overlapping", classes=list("abcd"), splits=splits)
    return extract_in_memory(make_backbone(), data, tokens="float32")


def test_linear_agrees_with_logistic_regression(store, tmp_path):
    (result,) = iceprobe.fit(
        store,
        ["linear?input=mean"],
        output=tmp_path / "run",
        seeds=2,
        epochs=60,
        learning_rates=[1e-2, 1e-1],
    )

    def features(name: str) -> np.ndarray:
        return store[name].mean.numpy().astype(np.float64)

    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=5000))
    reference.fit(features("train"), store["train"].labels)
    expected = reference.score(features("test"), store["test"].labels)
    assert 0.3 < expected < 0.95  # chance is 0.25: the comparison can fail both ways
    assert result.top1.mean == pytest.approx(expected, abs=0.005)
