"""The variance of a mean over test examples × replicates, both of them drawn from many.

    y_ri = μ + a_r + b_i + e_ri        r of R replicates (or seeds), i of n examples
    mean = Σ_i w_i ȳ_·i                w_i of :mod:`iceprobe.tasks.metrics`, Σ_i w_i = 1

    V_rows  = Var_r(Σ_i w_i y_ri) / R                        = MS_rows  / (R n) where w_i = 1/n
    V_cols  = Σ_c n_c/(n_c − 1) Σ_{i∈c} (w_i ȳ_·i − m_c)²    = MS_cols  / (R n)
    V_error = the same of the residuals of both, / (R (R−1)) = MS_error / (R n)

    Var(mean) = V_cols + G,        G = max(0, V_rows − 0.6 V_error)
    half² = z² V_cols + t²_{R−1} G

For two crossed random factors Var(mean) is (MS_rows + MS_cols − MS_error) / (R n) (Cornfield and Tukey
1956; Searle, Casella and McCulloch 1992, "Variance components", 4.6). V_rows has R − 1 degrees of freedom
and falls below V_error by chance more often than not, so what replicates add is never below 0, and two
fifths of V_error stay in it. Each part has its own quantile (Howe 1974, "Approximate confidence limits on
the mean of X + Y"): one t at Satterthwaite's degrees of freedom is far too wide where replicates don't
differ and too narrow where they do. The 0.6 is by simulation: benchmarks/verdicts.py, docs/verdicts.md.

One of many comparisons is called clear at a p far below 5%, and there the chance that R − 1 degrees of
freedom show no V_rows at all is no longer small beside p. So a family also has

    Ḡ = max(0, mean over its pairs of V_rows − V_error)        t at the degrees of freedom of all

and a pair's p is the larger of the two: its own G guards a pair whose replicates differ more than the
others' do, Ḡ one whose own don't show it.

A mean per class has its classes c as strata, whose examples are drawn and whose number is not; m_c is a
mean inside one, and V_cols has Satterthwaite's degrees of freedom in place of z.

Where examples come in groups g, of which alone one is independent of another, groups are drawn:

    V_cols = Σ_g Z_g²        Z_g = Σ_{i∈g} √(G_c/(G_c − 1)) w_i (ȳ_·i − ȳ_c)        c: the stratum of i

with G_c the number of groups in stratum c and ȳ_c the mean there (the ultimate cluster variance of a ratio:
Kish and Frankel 1974; Binder 1983), and V_error the same of the residuals: replicate × group. G groups of
one size have G − 1 degrees of freedom; in general they are those of a sum of Z² whose variances are as if
the examples of a group and stratum were copies of each other (:func:`_df_of_groups`).
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iceprobe.results.units import cells_of, codes_of, worth
from iceprobe.tasks.metrics import even_strata

KEPT = 0.4  # of V_error in what replicates add


@dataclass(frozen=True)
class Spread:
    """A mean and how it would move with other examples and other replicates."""

    mean: float  # over both
    examples: float  # variance of the mean over other examples, the disagreement of seeds included
    replicates: float  # variance G that other replicates add to it
    unbiased: float  # V_rows − V_error, which may fall below 0; 0 where neither has several rows
    df_examples: float  # degrees of freedom; infinite for a plain mean of fractions
    df_replicates: float  # R − 1; of two sets of rows by Satterthwaite
    size: float  # n where all examples count alike, 1/Σ w_i² otherwise
    rows: int  # R; the smaller of two sets
    plain: bool  # whether this is one row whose examples all count alike, and are independent
    units: float  # size, or of groups their number; 1/Σ W_g² where they don't count alike

    @property
    def variance(self) -> float:
        return self.examples + self.replicates

    def quantile(self, confidence: float) -> float:
        """Half the width of an interval, in standard errors √variance."""
        of_examples = self.quantile_examples(confidence)
        if not self.replicates:
            return of_examples
        of_replicates = self.quantile_replicates(confidence)
        squares = of_examples**2 * self.examples + of_replicates**2 * self.replicates
        return math.sqrt(squares / self.variance)

    def quantile_examples(self, confidence: float) -> float:
        """That of √examples alone."""
        return _quantile(confidence, self.df_examples)

    def quantile_replicates(self, confidence: float) -> float:
        """That of √replicates alone."""
        return _quantile(confidence, self.df_replicates)

    def within(self, confidence: float) -> tuple[float, float]:
        """The interval mean ± q·√variance."""
        half = self.quantile(confidence) * math.sqrt(self.variance)
        return self.mean - half, self.mean + half

    def departure(self, delta: float) -> float:
        """Standard errors by which the mean lies above ``delta``."""
        distance = self.mean - delta
        if abs(distance) < 1e-12 or self.variance:
            return distance / math.sqrt(self.variance or 1.0)
        return math.copysign(math.inf, distance)

    def p(self, departure: float) -> float:
        """Two-sided p of a mean that lies ``departure`` standard errors off."""
        distance = abs(departure)
        if not self.replicates:
            return 2 * _tail(distance, self.df_examples)
        # quantile() falls as p grows, between those of its two parts.
        low, high = sorted(2 * _tail(distance, df) for df in (self.df_examples, self.df_replicates))
        for _ in range(60):
            middle = math.sqrt(low * high) if low > 0 else high / 2
            if self.quantile(1 - middle) > distance:
                low = middle
            else:
                high = middle
        return high

    def effective(self, single: float) -> float:
        """The effective number of examples of variance ``single``: at most R n.

        Where none differ it is n, or the number of groups: a group may have one fate.
        """
        if self.plain or not single > 0:
            return self.units
        most = self.rows * self.size
        return min(most, single / self.variance) if self.variance else self.rows * self.units


def pooled(
    spreads: Sequence[Spread], pairs: Sequence[tuple[Hashable, Hashable]]
) -> list[Spread | None]:
    """Each pair's spread with Ḡ in place of its own G, and its degrees of freedom; None of single rows.

    V_rows of K pairs of m probes is the mean of K squares that share their probes. If the replicates of all
    probes vary alike, it has

        (R − 1) (2K)² / (2K + Σ d²)

    degrees of freedom, where a probe is in d pairs (the trace of AAᵀ squared over that of its square, with
    the K × m incidence matrix A): (R − 1)(m − 1) for all pairs, up to 4 (R − 1) where one reference is in all.

    Args:
        spreads: of differences.
        pairs: what each is the difference of; no pair twice.
    """
    several = [k for k, one in enumerate(spreads) if one.unbiased]  # seeds against one row as well
    if not several:
        return [None] * len(spreads)
    together = max(0.0, float(np.mean([spreads[k].unbiased for k in several])))
    degrees = Counter(probe for k in several for probe in pairs[k])
    twice = 2 * len(several)
    worth = twice**2 / (twice + sum(d * d for d in degrees.values()))
    df = worth * float(np.mean([spreads[k].df_replicates for k in several]))
    return [
        replace(one, replicates=together, df_replicates=df) if one.unbiased else None
        for one in spreads
    ]


def spread(
    y: ArrayLike,
    classes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    fractions: bool = True,
) -> Spread:
    """Mean and variance of ``y (R, n)``.

    Args:
        y: what each replicate (or seed) scores on each example, or a paired difference of it.
        classes: ``(n,)``; for the mean of each class's mean. None for the plain mean.
        groups: ``(n,)``, equal for examples that aren't independent. None: all are.
        fractions: whether scores are bound to [0, 1]: score intervals of their plain mean take z, the mean
            of others has n − 1 degrees of freedom.

    Raises:
        ValueError: without an example.
    """
    values = _distinct(_rows(y))
    design = _Design.of(values.shape[1], classes, groups, fractions)
    rows, columns, error = _parts(values, design)
    mean = float((values @ design.weights).mean())
    return _summed(columns, [(rows, error)], mean, design, [len(values)])


def spread_of_difference(
    a: ArrayLike,
    b: ArrayLike,
    classes: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    paired: bool,
    fractions: bool = True,
) -> Spread:
    """Mean and variance of a − b on the same examples.

    Args:
        a: ``(R, n)``.
        b: ``(R', n)``.
        classes, groups, fractions: as of :func:`spread`.
        paired: whether row r of both is the same replicate, with R = R'. Seeds aren't paired: those of
            two probes are independent, and each adds its variance.

    Raises:
        ValueError: if the numbers of examples, or of paired replicates, differ.
    """
    a, b = _rows(a), _rows(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a paired difference needs the same images: {a.shape[1]} against {b.shape[1]}"
        )
    if paired:
        if len(a) != len(b):
            raise ValueError(f"replicates pair by number: {len(a)} against {len(b)}")
        return spread(a - b, classes, groups, fractions=fractions)
    a, b = _distinct(a), _distinct(b)
    design = _Design.of(a.shape[1], classes, groups, fractions)
    between = [_parts(one, design) for one in (a, b)]
    columns = _parts((a.mean(0) - b.mean(0))[None], design)[1]
    mean = float((a @ design.weights).mean() - (b @ design.weights).mean())
    rows = [(rows, error) for rows, _, error in between]
    return _summed(columns, rows, mean, design, [len(a), len(b)])


@dataclass(frozen=True)
class _Part:
    """An estimated variance of the mean and its degrees of freedom."""

    variance: float
    df: float


@dataclass(frozen=True)
class _Design:
    """What each example counts, and with which it belongs."""

    weights: NDArray[np.float64]  # (n,)
    strata: NDArray[np.int64]  # (n,) 0 … C − 1, each with two units at least
    counts: NDArray[np.float64]  # (C,) units in each
    groups: NDArray[np.int64] | None  # (n,) 0 … G − 1; None: each example is alone
    fractions: bool

    @classmethod
    def of(
        cls, n: int, classes: ArrayLike | None, groups: ArrayLike | None, fractions: bool
    ) -> "_Design":
        """Classes with one unit are one stratum together; if there is only one, it joins the smallest."""
        codes = codes_of(groups, n)
        if classes is None:
            strata, weights = np.zeros(n, np.int64), np.full(n, 1 / n)
            return cls(weights, strata, _units_in(strata, codes), codes, fractions)
        labels = np.asarray(classes)
        if labels.shape != (n,):
            raise ValueError(f"{n} images are scored but {len(labels)} are labelled")
        _, strata = np.unique(labels, return_inverse=True)
        counts = _units_in(strata, codes)
        merged = np.arange(len(counts))
        alone = np.flatnonzero(counts == 1)
        if len(alone) == 1 and len(counts) > 1:
            alone = np.argsort(counts, kind="stable")[:2]
        merged[alone] = alone[0] if len(alone) else 0
        _, strata = np.unique(merged[strata], return_inverse=True)
        return cls(even_strata(labels), strata, _units_in(strata, codes), codes, fractions)

    @property
    def stratified(self) -> bool:
        return len(self.counts) > 1

    @property
    def enlarged(self) -> NDArray[np.float64]:
        """What a stratum's variance is multiplied by; a single unit shows none."""
        return self.counts / np.maximum(self.counts - 1, 1)


def _units_in(strata: NDArray[np.int64], groups: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """How many units each stratum has: ``(n,)`` → ``(C,)``."""
    if groups is not None:
        strata, _, _ = cells_of(strata, groups)
    return np.bincount(strata).astype(np.float64)


def _summed(
    columns: _Part,
    rows: list[tuple[_Part, _Part]],
    mean: float,
    design: _Design,
    numbers: list[int],
) -> Spread:
    variances = np.array([row.variance for row, _ in rows])
    errors = sum(error.variance for _, error in rows)
    size = worth(design.weights) if design.stratified else float(len(design.weights))
    return Spread(
        mean=mean,
        examples=columns.variance,
        replicates=max(0.0, float(variances.sum()) - (1 - KEPT) * errors),
        unbiased=float(variances.sum()) - errors,
        df_examples=columns.df,
        df_replicates=_df(variances, np.array([row.df for row, _ in rows])),
        size=size,
        rows=min(numbers),
        plain=max(numbers) == 1 and not design.stratified and design.groups is None,
        units=size if design.groups is None else worth(design.weights, design.groups),
    )


def _parts(values: NDArray[np.float64], design: _Design) -> tuple[_Part, _Part, _Part]:
    """V_rows, V_cols and V_error of ``values (R, n)``."""
    rows, u = len(values), values * design.weights
    if design.groups is not None:
        sums = _of_groups(values, design, design.groups)
        columns = sums.mean(0)
        df = _df_of_groups(values.mean(0), design, design.groups)
        cols = _Part(float(columns @ columns), df)
        left = max(0.0, float((sums**2).sum()) - rows * cols.variance)
        error = _Part(left / max(rows * (rows - 1), 1), (rows - 1) * cols.df)
    else:
        strata, counts = design.strata, design.counts
        inside = _squares(u.mean(0)[None], strata, counts)
        of_class = design.enlarged * inside
        df = _df(of_class, counts - 1)
        if not design.stratified:
            df = math.inf if design.fractions else max(1.0, df)
        cols = _Part(float(of_class.sum()), df)
        residual = np.maximum(_squares(u, strata, counts) - rows * inside, 0)
        of_class = design.enlarged * residual / max(rows * (rows - 1), 1)
        error = _Part(float(of_class.sum()), (rows - 1) * _df(of_class, counts - 1))
    if rows == 1:
        return _Part(0.0, 1.0), cols, _Part(0.0, 1.0)
    return _Part(float(u.sum(1).var(ddof=1)) / rows, rows - 1.0), cols, error


def _of_groups(
    values: NDArray[np.float64], design: _Design, groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Z of each row and group: ``(R, n)`` → ``(R, G)``."""
    weights, strata = design.weights, design.strata
    mass = np.bincount(strata, weights)
    counted = weights * np.sqrt(design.enlarged)[strata]
    found = []
    for row in values:
        mean = np.bincount(strata, weights * row) / mass
        found.append(np.bincount(groups, counted * (row - mean[strata])))
    return np.array(found)


def _df_of_groups(values: NDArray[np.float64], design: _Design, groups: NDArray[np.int64]) -> float:
    """(Σ_g A_g)² / Σ_g A_g², less one for each stratum's mean, of working variances A_g = Σ_c W_gc² s_c².

    W_gc is the weight of group g in stratum c, s_c² the variance of ``values (n,)`` there.
    """
    of_stratum, of_unit, place = cells_of(design.strata, groups)
    weights = np.bincount(place, design.weights)
    counts = np.bincount(design.strata)
    mean = np.bincount(design.strata, values) / counts
    variances = np.bincount(design.strata, (values - mean[design.strata]) ** 2) / counts
    if not variances.any():
        variances = np.ones(len(counts))
    each = weights**2 * variances[of_stratum]
    of_class = np.bincount(of_stratum, each)
    left = float((of_class / design.enlarged).sum() / of_class.sum())
    of_group = np.bincount(of_unit, each)
    return max(1.0, left * float(of_group.sum()) ** 2 / float(of_group @ of_group))


def _squares(
    u: NDArray[np.float64], strata: NDArray[np.int64], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """By stratum, Σ over rows and examples of the squared distance from the row's mean there."""
    total = np.zeros(len(counts))
    for row in u:
        mean = np.bincount(strata, row) / counts
        total += np.bincount(strata, (row - mean[strata]) ** 2)
    return total


def _df(parts: NDArray[np.float64], dfs: NDArray[np.float64]) -> float:
    """Satterthwaite's degrees of freedom of a sum."""
    noise = float(np.divide(parts**2, dfs, out=np.zeros_like(parts), where=dfs > 0).sum())
    return float(parts.sum()) ** 2 / noise if noise else float(dfs.sum())


def _distinct(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A single row if all are the same: seeds of something that isn't random."""
    return values[:1] if (values == values[0]).all() else values


def _rows(y: ArrayLike) -> NDArray[np.float64]:
    values = np.atleast_2d(np.asarray(y, dtype=np.float64))
    if values.ndim != 2 or not values.size:
        raise ValueError(f"correct is (seeds, images) with at least one image, not {values.shape}")
    return values


def _quantile(confidence: float, df: float) -> float:
    """Two-sided, of t or of the normal law."""
    tail = (1 - confidence) / 2
    from scipy.special import ndtri, stdtrit  # `iceprobe ls` does without

    return -float(ndtri(tail) if math.isinf(df) else stdtrit(df, tail))


def _tail(departure: float, df: float) -> float:
    """The probability of more than ``departure``, of t or of the normal law."""
    from scipy.special import stdtr

    return float(stdtr(1e300 if math.isinf(df) else df, -departure))
