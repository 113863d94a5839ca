"""How often the intervals of metrics hold the truth, by simulation.

    python -m benchmarks.intervals        # benchmarks/intervals.json, about half an hour on a core
    python -m benchmarks.intervals --trials 200 --only AUROC --images 100

An example i of group g has the outputs of probe k

    z_ik = s_k y_i + √.2 u_g + √.2 v_gk + √.3 b_i + √.3 e_ik        all normal, an entry an output

u and v are what a group's examples share (with all probes, with one), b what is hard about an example, s_k how
well probe k reads; without groups z_ik = s_k y_i + √.5 b_i + √.5 e_ik. Classes come in groups as well: each group
has its own shares of them, drawn from Dirichlet's law, tags and numbers a common part with two fifths of the variance.
Of numbers s_k is how large the error is, z = y + s_k (…). The truth is the mean of the metric over five samples
of 200,000 examples.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from iceprobe.results.enough import caveat
from iceprobe.results.intervals import Method, difference_of, interval_of
from iceprobe.tasks import get_task
from iceprobe.tasks.metrics import Metric

FILE = Path(__file__).parent / "intervals.json"
IMAGES = (20, 100, 1_000)
GROUP = 10  # examples in a group
TARGET = (0.92, 0.98)
Floats = NDArray[np.float64]
Groups = NDArray[np.int64] | None


@dataclass(frozen=True)
class Case:
    """A metric, and what it is simulated on.

    Attributes:
        task, metric: by name.
        draw: examples and group size → targets, and outputs ``(2, n, K)`` of two probes.
    """

    name: str
    task: str
    metric: str
    draw: Callable[[np.random.Generator, int, int], tuple[NDArray, Floats]]

    @property
    def measured(self) -> Metric:
        return get_task(self.task).metrics[self.metric]

    def sample(
        self, rng: np.random.Generator, n: int, size: int
    ) -> tuple[list[Any], NDArray, Groups]:
        """What two probes recorded of n examples, the targets and the groups."""
        targets, outputs = self.draw(rng, n, size)
        if self.task == "regression":
            records = [SimpleNamespace(predicted=one[None].astype(np.float32)) for one in outputs]
        else:
            records = [
                SimpleNamespace(
                    logits=one[None].astype(np.float32), predicted=one.argmax(-1)[None],
                    logit_classes=None, log_sum_exp=None, top5=None, thresholds=None,
                )
                for one in outputs
            ]  # fmt: skip
        return records, targets, groups_of(n, size)


def groups_of(n: int, size: int) -> Groups:
    return None if size == 1 else np.arange(n) // size


def noise(rng: np.random.Generator, n: int, outputs: int, size: int, probes: int = 2) -> Floats:
    """``(probes, n, K)`` of variance 1."""
    own, common = rng.standard_normal((probes, n, outputs)), rng.standard_normal((n, outputs))
    if (groups := groups_of(n, size)) is None:
        return np.sqrt(0.5) * (own + common)
    count = 1 + groups[-1]
    shared = rng.standard_normal((count, outputs)) + rng.standard_normal((probes, count, outputs))
    return np.sqrt(0.2) * shared[:, groups] + np.sqrt(0.3) * (own + common)


def classes(shares: Sequence[float], *signals: float) -> Callable[..., tuple[NDArray, Floats]]:
    """One class an example."""

    def draw(rng: np.random.Generator, n: int, size: int) -> tuple[NDArray, Floats]:
        groups, p = groups_of(n, size), np.array(shares)
        if groups is None:
            of = np.broadcast_to(p, (n, len(p)))
        else:
            each = rng.gamma(6 * p, size=(1 + groups[-1], len(p)))
            of = (each / each.sum(1, keepdims=True))[groups]
        labels = (rng.random((n, 1)) > of.cumsum(1)[:, :-1]).sum(1)
        outputs = noise(rng, n, len(p), size)
        outputs[:, np.arange(n), labels] += np.array(signals)[:, None]
        return labels, outputs

    return draw


def tags(shares: Sequence[float], *signals: float) -> Callable[..., tuple[NDArray, Floats]]:
    """A set of tags an example."""

    def draw(rng: np.random.Generator, n: int, size: int) -> tuple[NDArray, Floats]:
        (levels,) = noise(rng, n, len(shares), size, 1)
        having = (ndtr(levels) < np.array(shares)).astype(np.uint8)
        return having, noise(rng, n, len(shares), size) + np.array(signals)[:, None, None] * having

    return draw


def numbers(*errors: float) -> Callable[..., tuple[NDArray, Floats]]:
    """A number an example."""

    def draw(rng: np.random.Generator, n: int, size: int) -> tuple[NDArray, Floats]:
        (targets,) = noise(rng, n, 1, size, 1)
        return targets, targets + np.array(errors)[:, None, None] * noise(rng, n, 1, size)

    return draw


FOUR = (0.35, 0.25, 0.2, 0.2)
CASES = {
    case.name: case
    for case in (
        Case("accuracy", "classification", "top1", classes(FOUR, 1.9, 1.7)),
        Case("accuracy, high", "classification", "top1", classes(FOUR, 3.3, 3.1)),
        Case("mean per class", "classification", "mean_per_class", classes(FOUR, 1.9, 1.7)),
        Case("macro-F1", "classification", "f1_macro", classes(FOUR, 1.9, 1.7)),
        Case("AUROC", "classification", "auroc", classes((0.7, 0.3), 1.5, 1.3)),
        Case("AUROC, high", "classification", "auroc", classes((0.7, 0.3), 2.4, 2.2)),
        Case("mAP", "multilabel", "map", tags((0.5, 0.3, 0.2), 1.5, 1.3)),
        Case("mAP, high", "multilabel", "map", tags((0.5, 0.3, 0.2), 3.0, 2.8)),
        Case("R²", "regression", "r2", numbers(0.5, 0.6)),
        Case("R², low", "regression", "r2", numbers(0.95, 1.05)),
    )
}


@dataclass
class Cell:
    """What was found for one case, n and group size; shares of the trials.

    Attributes:
        held, below, above: intervals that hold the truth, that lie below it, that lie above it.
        warned: of which the caveat says that they can't be trusted.
        held_unwarned: of those without a caveat, that hold it; None of fewer than 100.
        paired: intervals of the paired difference that hold the true one.
        width: median width of the intervals.
        method: of most of them.
    """

    case: str
    images: int
    group: int
    trials: int
    truth: float
    held: float
    below: float
    above: float
    warned: float
    held_unwarned: float | None
    paired: float
    paired_unwarned: float | None
    width: float
    method: str


@cache
def truth(name: str, size: int) -> tuple[float, float]:
    """The metric of both probes, of a million examples."""
    case, rng, found = CASES[name], np.random.default_rng(99), []
    for _ in range(5):
        records, targets, _ = case.sample(rng, 200_000, size)
        found.append([case.measured.value(one, targets)[0] for one in records])
    a, b = np.mean(found, 0)
    return float(a), float(b)


def simulated(
    name: str, images: int, size: int, trials: int, method: Method | None = None, seed: int = 0
) -> Cell:
    """One cell. Samples for which the metric is undefined are drawn again."""
    case, rng = CASES[name], np.random.default_rng(seed)
    metric, (true, other) = case.measured, truth(name, size)
    rows, methods = [], []
    while len(rows) < trials:
        records, targets, groups = case.sample(rng, images, size)
        if any(metric.missing(one, targets) for one in records):
            continue
        found = interval_of(metric, records[0], targets, groups, method=method)
        low, high = difference_of(metric, *records, targets, groups).interval
        warned = caveat(metric, targets, groups) is not None
        paired = low - 1e-9 <= true - other <= high + 1e-9
        if found is None:
            continue
        rows.append(
            (
                true > found.high + 1e-9,
                true < found.low - 1e-9,
                warned,
                paired,
                found.high - found.low,
            )
        )
        methods.append(found.method)
    below, above, warned, paired, width = np.array(rows, float).T
    held = 1 - below - above
    trusted = warned == 0
    enough = trusted.sum() >= 100
    return Cell(
        name, images, size, trials, true,
        held=float(held.mean()), below=float(below.mean()), above=float(above.mean()),
        warned=float(warned.mean()),
        held_unwarned=float(held[trusted].mean()) if enough else None,
        paired=float(paired.mean()),
        paired_unwarned=float(paired[trusted].mean()) if enough else None,
        width=float(np.median(width)),
        method=max(set(methods), key=methods.count),
    )  # fmt: skip


def row(cell: Cell) -> str:
    """Of the table; what misses the target and isn't warned of is in bold."""
    return (
        f"| {cell.case} | {cell.truth:.3f} | {cell.images:,} | {cell.group} | {cell.method} | "
        f"{_percent(cell.held)} ({_percent(cell.below)}, {_percent(cell.above)}) | {cell.width:.3f} | "
        f"{_percent(cell.paired)} | {_percent(cell.warned)} | {_checked(cell.held_unwarned)} | "
        f"{_checked(cell.paired_unwarned)} |"
    )


def _checked(share: float | None) -> str:
    if share is None:
        return "–"
    shown = _percent(share)
    return shown if TARGET[0] <= share <= TARGET[1] else f"**{shown}**"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1_000, help="two fifths of 1,000 examples")
    parser.add_argument("--only", action="append", help="cases whose name begins so")
    parser.add_argument("--images", type=int, action="append")
    parser.add_argument("--group", type=int, action="append")
    parser.add_argument("--method", choices=("bootstrap", "jackknife", "linearised"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(
        "| metric | truth | examples | in a group | method | holds (below, above) | width | paired | warned "
        "| holds, unwarned | paired, unwarned |\n|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|"
    )
    cells = []
    for name in CASES:
        if options.only and not any(name.startswith(one) for one in options.only):
            continue
        for images in options.images or IMAGES:
            for size in options.group or (1, GROUP):
                slow = images >= 1_000 and CASES[name].measured.formula is not None
                trials = 2 * options.trials // 5 if slow else options.trials
                cells.append(simulated(name, images, size, trials, options.method))
                print(row(cells[-1]), flush=True)
    if not (options.only or options.images or options.group or options.method):
        FILE.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")


if __name__ == "__main__":
    main()
