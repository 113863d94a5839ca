"""Bags of tiles in which two are planted, with the places of all of them."""

import math
from dataclasses import dataclass

import numpy as np

import iceprobe

SPACING = 256  # pixels between tiles


@dataclass
class Bags:
    """Of one split: tokens ``(N_i, D)``, classes, places ``(N_i, 2)`` as down, right, and the planted rows."""

    tokens: list[np.ndarray]
    labels: np.ndarray
    places: list[np.ndarray]
    planted: list[np.ndarray]

    @property
    def pair(self):
        return self.tokens, self.labels


def bags(count, seed, dim=12, shortest=6, longest=50):
    """The planted tokens of a bag say its class; the others are noise."""
    rng = np.random.default_rng(seed)
    found = Bags([], np.arange(count) % 2, [], [])
    for label in found.labels:
        length = int(rng.integers(shortest, longest + 1))
        tokens = rng.normal(size=(length, dim)).astype(np.float32)
        needles = np.sort(rng.permutation(length)[:2])
        tokens[needles, 0] += 8
        tokens[needles, 1] += 8 if label else -8
        side = math.ceil(math.sqrt(2 * length))  # half of the cells are empty
        cells = np.divmod(rng.permutation(side * side)[:length], side)
        found.tokens.append(tokens)
        found.places.append((SPACING * np.stack(cells, 1)).astype(np.float32))
        found.planted.append(needles)
    return found


def fitted(train, test, probes=("ep2", "abmilp"), output=None, coords=True, seeds=1, **more):
    """Results of probes on these bags."""
    places = {"coords": {"train": train.places, "test": test.places}} if coords else {}
    given = iceprobe.from_tokens({"train": train.pair, "test": test.pair}, **places, **more)
    return iceprobe.fit(
        given,
        [*probes],
        seeds=seeds,
        epochs=12,
        learning_rates=[1e-1],
        batch_size=16,
        output=output,
    )
