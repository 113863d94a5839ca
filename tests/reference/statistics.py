"""Mean squares and score intervals by their plain formulas, with loops and scipy's solvers."""

import math

from scipy import optimize


def mean_squares(y):
    """MS_rows, MS_cols and MS_error of ``y (R, n)``: the two-way table without replication."""
    rows, n = len(y), len(y[0])
    grand = sum(sum(row) for row in y) / (rows * n)
    row_means = [sum(row) / n for row in y]
    col_means = [sum(y[r][i] for r in range(rows)) / rows for i in range(n)]
    ss_rows = n * sum((m - grand) ** 2 for m in row_means)
    ss_cols = rows * sum((m - grand) ** 2 for m in col_means)
    ss_error = sum(
        (y[r][i] - row_means[r] - col_means[i] + grand) ** 2 for r in range(rows) for i in range(n)
    )
    ms_error = ss_error / ((rows - 1) * (n - 1)) if rows > 1 else 0.0
    return ss_rows / (rows - 1) if rows > 1 else 0.0, ss_cols / (n - 1), ms_error


def tango(b, c, n, q):
    """Tango's interval from counts: the constrained likelihood is maximised by search."""

    def likeliest(delta):
        def loss(p_c):
            p_b = p_c + delta
            rest = 1 - p_b - p_c
            parts = ((b, p_b), (c, p_c), (n - b - c, rest))
            if any(p < 0 or (p == 0 and count) for count, p in parts):
                return math.inf
            return -sum(count * math.log(p) for count, p in parts if count)

        low, high = max(0.0, -delta), (1 - delta) / 2
        found = optimize.minimize_scalar(
            loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
        )
        return found.x

    def statistic(delta):
        variance = 2 * likeliest(delta) + delta * (1 - delta)
        return (b - c - n * delta) / math.sqrt(n * variance)

    middle = (b - c) / n
    low = optimize.brentq(lambda d: statistic(d) - q, -1 + 1e-9, middle)
    high = optimize.brentq(lambda d: statistic(d) + q, middle, 1 - 1e-9)
    return low, high


def pooled_degrees(pairs, df):
    """Of the mean of sums of squares of contrasts that share their terms: tr(S)²/tr(S²), S = AAᵀ (Box 1954)."""
    names = sorted({name for pair in pairs for name in pair})
    rows = [[(name == a) - (name == b) for name in names] for a, b in pairs]
    products = [[sum(x * y for x, y in zip(r, s, strict=True)) for s in rows] for r in rows]
    trace = sum(products[k][k] for k in range(len(rows)))
    return df * trace**2 / sum(value**2 for row in products for value in row)
