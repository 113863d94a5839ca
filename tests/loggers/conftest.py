"""A small fit, and one that is killed in its middle."""

import numpy as np
import pytest

import iceprobe

PROBES = ["linear?input=mean", "ep2"]
ASKED = {"epochs": 4, "seeds": 1, "learning_rates": [0.01, 0.1], "command": "iceprobe fit"}


def tokens_of(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Twelve tokens of 16 numbers, one of which says the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    tokens = random.normal(size=(n, 12, 16)).astype(np.float32)
    tokens[np.arange(n), random.integers(0, 12, n), labels] += 6
    return tokens, labels


@pytest.fixture(scope="session")
def store():
    return iceprobe.from_tokens({"train": tokens_of(60, 0), "test": tokens_of(30, 1)})


@pytest.fixture
def fit(store, one_part):
    """Of a run folder; ``stop_after`` steps it is interrupted, its state saved after every epoch."""

    def run(output, log=None, stop_after=None, **more):
        steps = 0

        def progress(stage, done, total):
            nonlocal steps
            steps += stage.startswith(("select", "refit"))
            if steps == stop_after:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("iceprobe.fitting.phases.SECONDS_BETWEEN_CHECKPOINTS", -1.0)
            return iceprobe.fit(
                store, PROBES, output=output, log=log, progress=progress, **{**ASKED, **more}
            )

    return run
