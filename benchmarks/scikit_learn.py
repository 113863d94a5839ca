"""k-NN and linear probing against scikit-learn on the demo's own features.

    iceprobe run examples/clutter.yaml
    python benchmarks/scikit_learn.py runs/clutter

k-NN must give the classes of scikit-learn's in float64, with the same weighting and what each replicate
chose; linear probes are scikit-learn's logistic regression at the λ that they chose, C = 1/(λ n), taken to
its optimum. Beside it C by scikit-learn's own cross-validation (`linear_optimum.py`: to a tolerance of 1e-3,
short of the optimum where features are nearly dependent).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from linear_optimum import features, scikit_learn
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import iceprobe


def each(result: "iceprobe.Result", name: str) -> list[float]:
    """What every replicate chose: of several that differ the result has ``"50, 15"``."""
    chosen = result.selected[name]
    values = [float(one) for one in chosen.split(", ")] if isinstance(chosen, str) else [chosen]
    return values * (len(result.top1.values) if len(values) == 1 else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run with knn and both linear probes")
    args = parser.parse_args()
    results = {result.probe: result for result in iceprobe.read_results(args.run)}
    store = iceprobe.Store.open(results["knn"].store.path)
    train_labels, test_labels = store["train"].labels, store["test"].labels

    train, test = (features(store, split, "class") for split in ("train", "test"))
    knn, rows = results["knn"], []
    for k, temperature, run in zip(
        each(knn, "k"), each(knn, "temperature"), knn.predictions().predicted, strict=True
    ):
        reference = KNeighborsClassifier(
            int(k), metric="cosine", algorithm="brute",
            weights=lambda d, t=temperature: np.exp((1 - d) / t),
        ).fit(train, train_labels)  # fmt: skip
        theirs = reference.predict(test)
        rows.append(
            {
                "k": int(k),
                "other classes": int((run != theirs).sum()),
                "scikit-learn": round(float((theirs == test_labels).mean()), 4),
                "run": round(float((run == test_labels).mean()), 4),
            }
        )
    figures = {"images": len(test), "knn, by replicate": rows}

    everything = np.arange(len(train_labels))
    for source in ("class", "mean"):
        linear = results[f"linear?input={source}"]
        x, y = features(store, "train", source), train_labels
        rows = []
        for seed, (decay, run) in enumerate(
            zip(each(linear, "weight_decay"), linear.top1.values, strict=True)
        ):
            same = make_pipeline(
                StandardScaler(),
                LogisticRegression(C=1 / (decay * len(y)), tol=1e-6, max_iter=20_000),
            ).fit(x, y)
            rows.append(
                {
                    "λ": decay,
                    "run": round(run, 4),
                    "scikit-learn at this λ": round(
                        same.score(features(store, "test", source), test_labels), 4
                    ),
                    "by its own cross-validation": scikit_learn(store, everything, source, seed),
                }
            )
        figures[f"{linear.probe}, by replicate"] = rows
    print(json.dumps(figures, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
