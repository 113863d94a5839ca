"""k-NN and linear probing against scikit-learn on the demo's own features.

    iceprobe run examples/clutter.yaml
    python benchmarks/scikit_learn.py runs/clutter

k-NN must give the same classes in float64 with the same weighting; logistic regression (C chosen
by cross-validation on train) must lie within 0.5 points of the linear probe.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import iceprobe
from iceprobe.knn import classify, nearest


def features(store: "iceprobe.Store", split: str, source: str) -> np.ndarray:
    stored = store[split]
    chosen = stored.mean if source == "mean" else stored.prefix[:, 0]
    return chosen.double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run with knn and both linear probes")
    args = parser.parse_args()
    results = {result.probe: result for result in iceprobe.read_results(args.run)}
    store = iceprobe.Store.open(results["knn"].store.path)
    train_labels, test_labels = store["train"].labels, store["test"].labels

    k, temperature = (results["knn"].selected[name] for name in ("k", "temperature"))
    train, test = (torch.from_numpy(features(store, s, "class")) for s in ("train", "test"))
    similarity, index = nearest(test, train, k)
    classes = torch.from_numpy(train_labels)[index]
    ours = classify(similarity, classes, len(store.classes), (k, temperature))[:, 0].numpy()
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    ).fit(train.numpy(), train_labels)
    theirs = reference.predict(test.numpy())
    figures = {"knn": {"images": len(ours), "classes that differ": int((ours != theirs).sum())}}

    for source in ("class", "mean"):
        (probe,) = [r for r in results.values() if r.probe in (f"linear?input={source}",)]
        regression = make_pipeline(
            StandardScaler(), LogisticRegressionCV(Cs=[0.01, 0.1, 1, 10], cv=3, max_iter=2000)
        ).fit(features(store, "train", source), train_labels)
        accuracy = regression.score(features(store, "test", source), test_labels)
        figures[probe.probe] = {
            "linear probe": round(probe.top1.mean, 4),
            "logistic regression": round(accuracy, 4),
            "difference in points": round(100 * (probe.top1.mean - accuracy), 2),
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
