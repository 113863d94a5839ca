"""What reading blocks in place of random images costs in accuracy.

    python benchmarks/shuffle_accuracy.py features/STORE

The same probes are fitted on a store with its training images in random order, and in blocks by way
of a buffer of few batches (`fitting/shuffling.py`), with the images lying as they were extracted and
sorted by class, the worst case. A smaller number of blocks in the buffer is what reading whole shards
would be. Each fit has repetitions, each with an initialisation and an order of its own, and its last epoch is
read: which epoch a few held-out images choose is chance that hides the rest. Differences are to the
random order of the same images, paired by repetition and test image, with `iceprobe compare`'s
interval.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

import iceprobe
from iceprobe.fitting import selection, shuffling
from iceprobe.protocols.heldout import Folds
from iceprobe.results import compare_pair
from iceprobe.store import Store


def none_held_out(labels: np.ndarray, *_: object) -> Folds:
    return Folds([], "none")


def fit(store: Store, blocks: int | None, options: argparse.Namespace, folder: str) -> list:
    """The results with ``blocks`` in the buffer, ``None`` for random images."""
    place = Path(folder) / f"{time.monotonic_ns()}"
    with (
        mock.patch.object(shuffling, "BLOCK_BYTES", 2**40),
        mock.patch.object(shuffling, "BLOCKS", blocks or shuffling.BLOCKS),
        mock.patch.object(selection, "folds_of", none_held_out),
    ):
        return iceprobe.fit(
            store,
            options.probe,
            replicates=options.replicates,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rates=[options.learning_rate],
            memory=1,  # so the buffer is as small as it gets
            shuffle="rows" if blocks is None else "blocks",
            output=place,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--probe", action="append")
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--blocks", type=int, nargs="+", default=[64, 8, 2])
    parser.add_argument(
        "--lie", nargs="+", choices=["extracted", "sorted"], default=["extracted", "sorted"]
    )
    options = parser.parse_args()
    options.probe = options.probe or ["ep12", "linear?input=mean"]
    store = Store.open(options.store)
    by_class = np.argsort(store["train"].labels, kind="stable")
    buffer = shuffling.BATCHES * options.batch_size
    print(
        f"{len(by_class)} training images, batches of {options.batch_size}, buffer of {buffer}, "
        f"{options.epochs} epochs, learning rate {options.learning_rate:g}, "
        f"{options.replicates} repetitions"
    )
    views = {"extracted": store, "sorted": store.take("train", by_class)}
    for lie in options.lie:
        view = views[lie]
        with tempfile.TemporaryDirectory(prefix="iceprobe-") as folder:
            rows = fit(view, None, options, folder)
            for result in rows:
                print(f"{lie:9} {result.probe:18} rows               {_percent(result)}")
            for blocks in options.blocks:
                for base, result in zip(rows, fit(view, blocks, options, folder), strict=True):
                    pair = compare_pair(result, base).difference
                    low, high = pair.interval
                    print(
                        f"{lie:9} {result.probe:18} {blocks:3} blocks of {buffer // blocks:3}  "
                        f"{_percent(result)}  difference {100 * pair.mean:+.2f} "
                        f"[{100 * low:+.2f}, {100 * high:+.2f}]",
                        flush=True,
                    )


def _percent(result: iceprobe.Result) -> str:
    values = " ".join(f"{100 * value:.2f}" for value in result.top1.values)
    return f"{100 * result.top1.mean:.2f} ({values})"


if __name__ == "__main__":
    main()
