"""What groups cost who doesn't name them: a simulation in which examples of a group share a nuisance.

    python -m benchmarks.leakage [--repetitions 60] [--out benchmarks/leakage.json]

A world: 60 patients to learn from, 40 others to test on, 10 examples each. The class is the patient's. An
example's vector is the class's signal, plus a nuisance that all examples of its patient share, plus noise of
its own. Each world is fitted twice by `iceprobe.fit` on the same arrays, without and with ``groups``, and
the truth is the accuracy on 400 further patients (`iceprobe.test`). Told are, of k-NN and of the linear probe:

- held-out − truth: how much too high the score is that the setting was selected by;
- test − truth, and how often the 95% interval of the test score holds the truth;
- the truth itself: what is lost by selecting on examples whose patients are in training.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import iceprobe

PATIENTS, TESTED, TRUTH, EACH, DIM = 60, 40, 400, 10, 32
SIGNAL, NUISANCE, NOISE = 0.45, 1.0, 0.7
PROBES = ["knn", "linear"]


def world(seed: int, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors ``(n, D)``, classes and patients ``(n,)`` of ``patients`` with 10 examples each."""
    rng = np.random.default_rng(seed)
    y = np.arange(patients) % 2
    shared = rng.normal(0, NUISANCE, (patients, DIM)) + SIGNAL * (2 * y[:, None] - 1) * (
        np.arange(DIM) < 8
    )
    x = np.repeat(shared, EACH, 0) + rng.normal(0, NOISE, (patients * EACH, DIM))
    return x.astype(np.float32), np.repeat(y, EACH), np.repeat(np.arange(patients), EACH)


def fitted(seed: int, grouped: bool) -> list[dict[str, float]]:
    """One world's figures by probe."""
    parts = {
        "train": world(3 * seed, PATIENTS),
        "test": world(3 * seed + 1, TESTED),
        "truth": world(3 * seed + 2, TRUTH),
    }
    groups = {name: [f"{name}{patient}" for patient in part[2]] for name, part in parts.items()}
    store = iceprobe.from_tokens(
        {name: part[:2] for name, part in parts.items()}, groups=groups if grouped else None
    )
    with tempfile.TemporaryDirectory() as folder:
        results = iceprobe.fit(
            store, PROBES, output=Path(folder) / "run", seeds=1, run_seed=seed, progress=False
        )
        further = iceprobe.test(results, store, split="truth", progress=False)
    return [
        {
            "held_out": test.selected_score.mean,
            "test": test.score.mean,
            "truth": truth.score.mean,
            "covers": float(test.score.interval[0] <= truth.score.mean <= test.score.interval[1]),
            "width": test.score.interval[1] - test.score.interval[0],
        }
        for test, truth in zip(results, further, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {}
    print("| probe | groups | held-out − truth | test − truth | truth | width | held truth |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for grouped in (False, True):
        rows = [fitted(seed, grouped) for seed in range(args.repetitions)]
        for number, probe in enumerate(PROBES):
            mine = [row[number] for row in rows]
            mean = {key: float(np.mean([one[key] for one in mine])) for key in mine[0]}
            found[f"{probe}, {'groups' if grouped else 'no groups'}"] = mean
            print(
                f"| {probe} | {'named' if grouped else 'not named'} "
                f"| {100 * (mean['held_out'] - mean['truth']):+.1f} "
                f"| {100 * (mean['test'] - mean['truth']):+.1f} | {100 * mean['truth']:.1f} "
                f"| {100 * mean['width']:.1f} | {100 * mean['covers']:.0f}% |"
            )
    if args.out is not None:
        args.out.write_text(json.dumps({"repetitions": args.repetitions, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
