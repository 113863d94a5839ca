"""The rule of `results/undertrained.py` beside what longer fits show.

    python benchmarks/undertrained.py

A fit *is* undertrained if the same fit of four times the epochs, its learning rate chosen anew, reads clearly
more of the same test images (the paired 95% interval lies above 0, or the difference is 3 points or more).
The rule sees the first fit alone. Printed are all fits, the table of both, and the pairs of probes that are
clearly in one order after E epochs and clearly in the other after 4E.

The first time takes half an hour of one core; the fits stay under ``--output``, so the next time judges them by
the rule as it is then. `CHOSEN` are the cases that the rule's numbers were chosen on, `CHECKED` those that they
were held against afterwards.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import iceprobe
from iceprobe.results import Result, compare_pair
from iceprobe.results.curves import FILE_NAME, read_curves
from iceprobe.results.undertrained import FEW_STEPS, signs_of_undertraining

LONGER = 4
CLEAR = 0.03  # of top-1, where the interval alone doesn't say so
PROBES = ("linear", "ep4", "ep12", "abmilp?depth=1", "simpool1")
LIGHT = ("linear", "ep4", "ep12")
SLOW = ("linear", "ep4", "abmilp?depth=1", "simpool1")


@dataclass(frozen=True)
class Case:
    """Fits that differ in their epochs alone."""

    backbone: str
    data: str
    images: int
    batch: int
    epochs: tuple[int, ...]
    probes: tuple[str, ...] = PROBES
    seeds: int = 2

    @property
    def name(self) -> str:
        return f"{self.backbone} {self.data} {self.images} by {self.batch}"


CHOSEN = (
    Case("mae-tiny", "fashion", 200, 256, (1, 2, 4, 8, 16, 32, 64)),
    Case("mae-tiny", "fashion-clutter", 2000, 64, (1, 2, 4, 5, 8, 20), LIGHT, seeds=1),
    Case("dino-tiny", "fashion-clutter", 500, 256, (2, 8, 32), seeds=1),
    Case("supervised-tiny", "fashion", 200, 256, (2, 8, 32), seeds=1),
)
CHECKED = (
    Case("supervised-tiny", "fashion", 1000, 64, (1, 2, 4, 8, 32), SLOW, seeds=1),
    Case("mae-tiny", "fashion-clutter", 6000, 256, (2, 5, 8, 20), LIGHT[:2], seeds=1),
    Case("mae-tiny", "fashion", 600, 128, (1, 4, 16), seeds=1),
    Case("dino-tiny", "fashion-clutter", 100, 256, (3, 6, 12, 24), seeds=1),
    Case("dino-tiny", "fashion-clutter", 1000, 256, (1, 2, 4, 8), seeds=1),
)


@dataclass(frozen=True)
class Judged:
    """One fit: what the rule says of it, and what the longer one showed."""

    case: Case
    probe: str
    epochs: int
    steps: int
    top1: float
    gain: float
    interval: tuple[float, float]
    signs: list[str]

    @property
    def undertrained(self) -> bool:
        return self.interval[0] > 0 or self.gain >= CLEAR

    @property
    def outcome(self) -> str:
        named = "named" if self.signs else "not named"
        return f"{'undertrained' if self.undertrained else 'trained'}, {named}"

    def __str__(self) -> str:
        low, high = (100 * end for end in self.interval)
        return (
            f"{self.case.name:37} {self.probe:14} {self.epochs:3} epochs {self.steps:4} steps "
            f"{100 * self.top1:5.1f} {100 * self.gain:+6.1f} [{low:+5.1f}, {high:+5.1f}] {self.outcome}"
        )


def fits(case: Case, folder: Path) -> Iterator[tuple[int, list[Result]]]:
    """Epochs and results of each fit of a case; finished ones are read."""
    limit = max(1000, case.images)
    names = f"bundled:{case.backbone}", f"bundled:{case.data}"
    store = iceprobe.extract(*names, folder / "features", limit=limit)
    store = store.take("train", np.arange(case.images))
    for epochs in case.epochs:
        yield (
            epochs,
            iceprobe.fit(
                store,
                case.probes,
                seeds=case.seeds,
                epochs=epochs,
                batch_size=case.batch,
                output=folder / case.name.replace(" ", "-") / str(epochs),
            ),
        )


def judged(case: Case, short: Iterable[Result], long: Iterable[Result]) -> Iterator[Judged]:
    for one, longer in zip(short, long, strict=True):
        curves = read_curves(one.run, one.files.digests[FILE_NAME])
        epochs = one.training["epochs"]
        steps = epochs * -(-case.images // one.training["images_per_step"])
        difference = compare_pair(longer, one).difference
        signs = signs_of_undertraining(
            [row for row in curves if row.probe == one.probe],
            one.selected,
            classes=one.classes,
            epochs=epochs,
            steps=steps,
            learning_rates=one.training["learning_rates"],
        )
        yield Judged(
            case,
            one.probe,
            epochs,
            steps,
            one.top1.mean,
            difference.mean,
            difference.interval,
            signs,
        )


def orders(short: Iterable[Result], long: Iterable[Result]) -> Iterator[str]:
    """Pairs clearly in one order after the short fit and clearly in the other after the long one."""
    pairs = zip(itertools.combinations(short, 2), itertools.combinations(long, 2), strict=True)
    for now, later in pairs:
        before, after = compare_pair(*now).difference, compare_pair(*later).difference
        if before.clear and after.clear and before.mean * after.mean < 0:
            yield (
                f"  order of {now[0].probe} and {now[1].probe}: {100 * before.mean:+.1f} points, "
                f"then {100 * after.mean:+.1f}"
            )


def tell(cases: Iterable[Case], folder: Path) -> None:
    """Fit, judge and print."""
    counted: Counter[tuple[bool, str]] = Counter()
    for case in cases:
        found = dict(fits(case, folder))
        for epochs, short in found.items():
            if (long := found.get(LONGER * epochs)) is None:
                continue
            rows = list(judged(case, short, long))
            print(*rows, *orders(short, long), sep="\n")
            counted += Counter((row.steps >= FEW_STEPS, row.outcome) for row in rows)
    for (many, outcome), count in sorted(counted.items()):
        print(f"{FEW_STEPS} steps {'or more' if many else 'not reached'}: {outcome} {count}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/undertrained"))
    options = parser.parse_args()
    print("The fits that the rule's numbers were chosen on")
    tell(CHOSEN, options.output)
    print("Those that it was held against afterwards")
    tell(CHECKED, options.output)


if __name__ == "__main__":
    main()
