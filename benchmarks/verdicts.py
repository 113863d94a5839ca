"""How often intervals and verdicts are right, by simulation: before (bootstraps) and now.

    python -m benchmarks.verdicts                      # the tables of docs/verdicts.md, 15 minutes on a core
    python -m benchmarks.verdicts --trials 200 --only advice

Whether replicate r of probe k reads example i:   μ_k + a_rk + b_i + e_rik > 0,   all normal.

b, what is hard about an image, is shared by probes and replicates; e is each one's own; a moves a whole
replicate, by ``sd`` points of accuracy. μ_k is such that probe k is right on a share p_k of all images in
all replicates, which is what intervals are to hold and verdicts to be about. "Before" is what iceprobe 0.1
did: percentile bootstraps over images, of replicates over both, uncorrected.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtri

from iceprobe.results.crossed import KEPT
from iceprobe.results.statistics import (
    Difference,
    accuracy_interval,
    holm,
    paired_difference,
    same_within,
    together,
)

DRAWS = 400  # of the bootstraps
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """Test images and probes.

    Attributes:
        images: n.
        rows: R, seeds or replicates.
        sd: what a replicate moves accuracy by, as a fraction.
        shared: of the variance of b + e, what b has.
        paired: whether half of a replicate's variance is common to all probes (its draw).
    """

    images: int
    rows: int
    sd: float = 0.0
    shared: float = 0.7
    paired: bool = False

    @property
    def described(self) -> str:
        """``"3 seeds"``."""
        noun = "replicate" if self.paired else "seed"
        return f"{self.rows} {noun}{'s' if self.rows > 1 else ''}"

    def draw(self, rng: np.random.Generator, accuracies: Sequence[float]) -> Right:
        """``(K, R, n)``: what K probes of these true accuracies read."""
        k, p = len(accuracies), np.array(accuracies)
        a_sd = self.sd / (np.exp(-(ndtri(p) ** 2) / 2) / np.sqrt(2 * np.pi))
        level = ndtri(p) * np.sqrt(1 + a_sd**2)
        common = 0.5 if self.paired else 0.0
        a = np.sqrt(1 - common) * rng.standard_normal((k, self.rows))
        a += np.sqrt(common) * rng.standard_normal(self.rows)
        b = np.sqrt(self.shared) * rng.standard_normal(self.images)
        e = np.sqrt(1 - self.shared) * rng.standard_normal((k, self.rows, self.images))
        return (level[:, None] + a_sd[:, None] * a)[..., None] + b + e > 0


# Before.


def bootstrap(
    y: NDArray[np.float64], both: bool, rng: np.random.Generator, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of ``y (R, n)``: images resampled, and rows where ``both``."""
    patterns, counts = np.unique(
        y if both else y.mean(0, keepdims=True), axis=1, return_counts=True
    )
    n, rows = int(counts.sum()), len(patterns)
    means = rng.multinomial(n, counts / n, size=DRAWS) @ patterns.T / n
    picked = rng.multinomial(rows, [1 / rows] * rows, size=DRAWS) / rows
    tail = (1 - confidence) / 2
    low, high = np.quantile((means * picked).sum(1), [tail, 1 - tail])
    return float(low), float(high)


# What is simulated.


def coverage(world: World, p: float, trials: int, seed: int = 0) -> tuple[float, float]:
    """How often the 95% interval of an accuracy holds the true one: before, now."""
    rng, held = np.random.default_rng(seed), np.zeros(2)
    for _ in range(trials):
        (y,) = world.draw(rng, [p])
        intervals = bootstrap(y * 1.0, world.rows > 1 and world.sd > 0, rng), accuracy_interval(y)
        held += [low - 1e-9 <= p <= high + 1e-9 for low, high in intervals]
    return tuple(held / trials)


def false_clear(world: World, p: float, trials: int, seed: int = 0) -> tuple[float, float]:
    """How often a probe is called clearly different from itself, trained again."""
    rng, called = np.random.default_rng(seed), np.zeros(2)
    for _ in range(trials):
        a, b = world.draw(rng, [p, p])
        low, high = bootstrap(a * 1.0 - b * 1.0, world.paired, rng)
        called += [low > 0 or high < 0, paired_difference(a, b, replicates=world.paired).clear]
    return tuple(called / trials)


def false_family(
    world: World, probes: int, p: float, trials: int, seed: int = 0
) -> tuple[float, float, float]:
    """How often, among equal probes, the best is clearly above one of them, and a fixed one differs.

    Before and now for the best (all pairs, Holm); now for all against the first (Holm).
    """
    rng, called = np.random.default_rng(seed), np.zeros(3)
    for _ in range(trials):
        y = world.draw(rng, [p] * probes)
        best, worst = np.argmax(y.mean((1, 2))), np.argmin(y.mean((1, 2)))
        low, _ = bootstrap(y[best] * 1.0 - y[worst] * 1.0, world.paired, rng)
        called[0] += low > 0
        pairs = [(i, j) for i in range(probes) for j in range(i)]
        ps = dict(zip(pairs, _ps(y, pairs, world), strict=True))
        corrected = dict(zip(ps, holm(list(ps.values())), strict=True))
        called[1] += min(value for pair, value in corrected.items() if best in pair) < 0.05
        called[2] += min(holm(_ps(y, [pair for pair in pairs if 0 in pair], world))) < 0.05
    return tuple(called / trials)


def equivalence(
    world: World, loss: float, margin: float, trials: int, seed: int = 0
) -> tuple[float, float]:
    """How often a probe that truly loses ``loss`` is shown to be the same within ``margin``."""
    rng, shown = np.random.default_rng(seed), np.zeros(2)
    for _ in range(trials):
        a, b = world.draw(rng, [0.75, 0.75 - loss])
        low, high = bootstrap(a * 1.0 - b * 1.0, world.paired, rng, 0.90)
        same = same_within(paired_difference(a, b, replicates=world.paired), margin)
        shown += [-margin < low and high < margin, same.holds]
    return tuple(shown / trials)


def advice(
    world: World, loss: float, trials: int, seed: int = 0, margin: float = 0.01
) -> tuple[float, float, float]:
    """How often the cheaper of two probes, which truly loses ``loss``, is reported: before, now.

    And how often none is, now.
    """
    rng, reported = np.random.default_rng(seed), np.zeros(3)
    for _ in range(trials):
        best, cheap = world.draw(rng, [0.75, 0.75 - loss])
        lost = bootstrap(best * 1.0 - cheap * 1.0, world.paired, rng)[0]
        difference = paired_difference(cheap, best, replicates=world.paired)
        ps = holm([difference.p_above(-margin), (-difference).p_above(-margin)])
        reported += [difference.mean >= 0 or lost <= 0, ps[0] < 0.05, min(ps) >= 0.05]
    return tuple(reported / trials)


def _ps(y: Right, pairs: Sequence[tuple[int, int]], world: World) -> list[float]:
    found: list[Difference] = [
        paired_difference(y[i], y[j], replicates=world.paired) for i, j in pairs
    ]
    return [one.p for one in together(found, pairs)]


def rule(rows: int, kept: float | None) -> tuple[float, float, float]:
    """How the half width is put together, by integration: V_cols = V_error = 1 and known, V_rows ~ χ².

    Args:
        rows: R.
        kept: of V_error in what replicates add; None for one t at Satterthwaite's degrees of freedom.

    Returns:
        Coverage where replicates don't differ, the least coverage however much they do, and the mean
        width where they don't, beside that of an interval that knows it.
    """
    draws = stats.chi2.ppf((np.arange(5_000) + 0.5) / 5_000, rows - 1) / (rows - 1)
    t, z = stats.t.ppf(0.975, rows - 1), stats.norm.ppf(0.975)

    def half(v_rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if kept is None:
            variance = 1 + np.maximum(0, v_rows - 1)
            return stats.t.ppf(0.975, variance**2 * (rows - 1) / v_rows**2) * np.sqrt(variance)
        return np.sqrt(z**2 + t**2 * np.maximum(0, v_rows - (1 - kept)))

    def held(extra: float) -> float:
        ends = half((1 + extra) * draws) / np.sqrt(1 + extra)
        return float((2 * stats.norm.cdf(ends) - 1).mean())

    worst = min(held(extra) for extra in np.geomspace(0.1, 300, 25))
    return held(0.0), worst, float(half(draws).mean() / z)


# Tables.


def rules(trials: int) -> Iterator[str]:
    """Without trials."""
    yield "| R | one t (Satterthwaite) | V_error taken off whole | now: 0.4 of it kept |"
    yield "|---:|---:|---:|---:|"
    for rows in (2, 3, 5, 10):
        cells = [
            f"{_percent(none)}, {_percent(worst)}, × {width:.2f}"
            for none, worst, width in (rule(rows, kept) for kept in (None, 0.0, KEPT))
        ]
        yield f"| {rows} | {' | '.join(cells)} |"


def coverages(trials: int) -> Iterator[str]:
    yield "| R | test images | true accuracy | replicates' sd | before | now |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for rows in (1, 2, 3, 5, 10):
        for images in (20, 200, 2000):
            for p in (0.5, 0.75, 0.9, 0.99):
                for sd in (0.0, 0.01, 0.03) if rows > 1 and p < 0.99 else (0.0,):
                    if sd and images == 20:
                        continue
                    before, now = coverage(World(images, rows, sd), p, trials)
                    warned = "*" if rows == 2 else ""
                    yield (
                        f"| {rows}{warned} | {images:,} | {p} | {100 * sd:g} | {_percent(before)} | "
                        f"{_percent(now)} |"
                    )


def clears(trials: int) -> Iterator[str]:
    yield "| rows | test images | sd | before | now |"
    yield "|---|---:|---:|---:|---:|"
    for paired, numbers in ((False, (1, 3, 5)), (True, (2, 3, 5, 10))):
        for rows in numbers:
            for images in (200, 2000):
                for sd in (0.0, 0.005, 0.02) if rows > 1 else (0.0,):
                    world = World(images, rows, sd, paired=paired)
                    before, now = false_clear(world, 0.75, trials)
                    star = "*" if rows == 2 else ""
                    yield (
                        f"| {world.described}{star} | {images:,} | {100 * sd:g} | {_percent(before)} | "
                        f"{_percent(now)} |"
                    )


def families(trials: int) -> Iterator[str]:
    yield "| rows | test images | sd | best, before | best, now | one reference, now |"
    yield "|---|---:|---:|---:|---:|---:|"
    for rows, paired, sd in (
        (1, False, 0.0), (3, False, 0.005), (3, False, 0.02), (3, True, 0.02),
        (5, True, 0.0), (5, True, 0.01), (5, True, 0.02), (10, True, 0.02),
    ):  # fmt: skip
        world = World(1000, rows, sd, paired=paired)
        found = false_family(world, 27, 0.75, max(50, trials // 4))
        shown = " | ".join(map(_percent, found))
        yield f"| {world.described} | 1,000 | {100 * sd:g} | {shown} |"


def equivalences(trials: int) -> Iterator[str]:
    yield "| replicates | sd | truly loses | before | now |"
    yield "|---:|---:|---:|---:|---:|"
    for rows in (3, 5, 10):
        for sd in (0.0, 0.005):
            for loss in (0.0, 0.01):
                world = World(2000, rows, sd, paired=True)
                before, now = equivalence(world, loss, 0.01, trials)
                yield (
                    f"| {rows} | {100 * sd:g} | {100 * loss:g} | {_percent(before)} | {_percent(now)} |"
                )


def powers(trials: int) -> Iterator[str]:
    """How often rules of docs/claims.md decide: 2,000 test images, replicates that differ by half a point."""
    yield "| replicates | no difference, within ±1.5 | no difference, above −1.5 | 2 points, above 0 | 3 points, above 0 |"
    yield "|---:|---:|---:|---:|---:|"
    for rows in (3, 5, 10):
        world, shares = World(2000, rows, 0.005, paired=True), []
        for loss, decided in (
            (0.0, lambda found: same_within(found, 0.015).holds),
            (0.0, lambda found: found.interval[0] > -0.015),
            (0.02, lambda found: found.interval[0] > 0),
            (0.03, lambda found: found.interval[0] > 0),
        ):
            rng, count = np.random.default_rng(0), 0
            for _ in range(trials):
                a, b = world.draw(rng, [0.75, 0.75 - loss])
                count += decided(paired_difference(a, b, replicates=True))
            shares.append(_percent(count / trials))
        yield f"| {rows} | {' | '.join(shares)} |"


def advices(trials: int) -> Iterator[str]:
    yield "| rows | truly loses | test images | before | now | now undecided |"
    yield "|---|---:|---:|---:|---:|---:|"
    for rows, paired in ((1, False), (5, True)):
        for loss in (0.05, 0.0):
            for images in (50, 100, 200, 500, 2000, 10_000):
                if images == 10_000 and loss:
                    continue
                world = World(images, rows, shared=0.8, paired=paired)
                shown = " | ".join(map(_percent, advice(world, loss, trials)))
                yield f"| {world.described} | {100 * loss:g} | {images:,} | {shown} |"


TABLES: dict[str, Callable[[int], Iterator[str]]] = {
    "rule": rules,
    "coverage": coverages,
    "clear": clears,
    "family": families,
    "equivalence": equivalences,
    "power": powers,
    "advice": advices,
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--only", choices=TABLES, action="append")
    options = parser.parse_args()
    for name in options.only or TABLES:
        print(f"\n{name}, {options.trials:,} trials\n", flush=True)
        for line in TABLES[name](options.trials):
            print(line, flush=True)


if __name__ == "__main__":
    main()
