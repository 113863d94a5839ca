"""Linear probes under `heldout` beside scikit-learn's cross-validated logistic regression.

    python benchmarks/linear_optimum.py STORE [--input mean] [--draws 5]

For 2, 5, 20, 50 and 100 images a class and 2,000 images of a store, over seeded draws of images that
both learn from: test accuracy of `linear`, and of StandardScaler + LogisticRegressionCV (accuracy,
5 folds, C from 1e-4 to 1e4 in ten steps). Of 2 and 3 images a class it gets as many folds.
"""

import argparse
import json
import statistics
import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import iceprobe
from iceprobe.protocols.lowshot import draw
from iceprobe.store.reader import Store

SHOTS = (2, 5, 20, 50, 100)
IMAGES = 2000


def features(store: Store, split: str, source: str) -> np.ndarray:
    vectors = store[split].mean if source == "mean" else store[split].class_token
    assert vectors is not None
    return vectors.double().numpy()


def scikit_learn(store: Store, rows: np.ndarray, source: str, seed: int) -> float:
    x, y = features(store, "train", source)[rows], store["train"].labels[rows]
    folds = min(5, int(np.bincount(y).min()))
    model = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
            max_iter=5000,
            tol=1e-3,
            scoring="accuracy",
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
    return float(model.score(features(store, "test", source), store["test"].labels))


def ours(store: Store, rows: np.ndarray, source: str, seed: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        (result,) = iceprobe.fit(
            store.take("train", rows),
            [f"linear?input={source}"],
            output=Path(folder) / "run",
            seeds=1,
            run_seed=seed,
            progress=False,
        )
    return result.top1.mean, float(result.selected["weight_decay"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--input", default="mean", choices=["mean", "class"])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--sizes", default="", help="shots, a comma between them; 2000: images")
    arguments = parser.parse_args()
    store = Store.open(arguments.store)
    labels, classes = store["train"].labels, store.classes
    sizes = [int(s) for s in arguments.sizes.split(",") if s] or [*SHOTS, IMAGES]
    for size in sizes:
        pairs, decays = [], []
        for seed in range(arguments.draws):
            shots = {"shots": size} if size != IMAGES else {"fraction": IMAGES / len(labels)}
            rows = draw(labels, classes, seed=seed, **shots)
            mine, decay = ours(store, rows, arguments.input, seed)
            pairs.append((100 * mine, 100 * scikit_learn(store, rows, arguments.input, seed)))
            decays.append(decay)
        mine, other = ([pair[i] for pair in pairs] for i in (0, 1))
        row = {
            "size": size,
            "ours": round(statistics.mean(mine), 2),
            "sd": round(statistics.stdev(mine), 2) if len(mine) > 1 else None,
            "scikit_learn": round(statistics.mean(other), 2),
            "scikit_learn_sd": round(statistics.stdev(other), 2) if len(other) > 1 else None,
            "difference": round(statistics.mean(a - b for a, b in pairs), 2),
            "decays": decays,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
