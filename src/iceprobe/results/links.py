"""From the range of a metric to the whole line: standard errors are taken there, so that ends stay in the range.

f(v) = ln (v − a)/(b − v)    of a range [a, b]        1/f' = (v − a)(b − v)/(b − a)
       −ln (b − v)           of one with an upper end       b − v
       ln (v − a)            of one with a lower end        v − a
       v                     of one without an end          1
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

LONGEST = 1.0  # step of the jackknife where there is an end, which f takes to infinity


@dataclass(frozen=True)
class Link:
    """f of the range from ``low`` (a) to ``high`` (b); None for no end."""

    low: float | None
    high: float | None

    @classmethod
    def of(cls, range: tuple[float | None, float | None]) -> Self:
        return cls(*range)

    @property
    def longest(self) -> float:
        """The longest step in f that one unit makes."""
        return math.inf if self.low is None and self.high is None else LONGEST

    def forward(self, values: ArrayLike) -> NDArray[np.float64]:
        """f of each; infinite at an end."""
        v = np.asarray(values, np.float64)
        with np.errstate(divide="ignore"):
            if self.low is not None and self.high is not None:
                return np.asarray(np.log(v - self.low) - np.log(self.high - v))
            if self.high is not None:
                return np.asarray(-np.log(self.high - v))
            return np.asarray(np.log(v - self.low)) if self.low is not None else v

    def back(self, x: float) -> float:
        """The value of which f is ``x``."""
        x = min(max(x, -700.0), 700.0)  # beyond which exp isn't finite
        if self.low is not None and self.high is not None:
            return self.low + (self.high - self.low) / (1 + math.exp(-x))
        if self.high is not None:
            return self.high - math.exp(-x)
        return self.low + math.exp(x) if self.low is not None else x

    def slope(self, value: float) -> float:
        """f'; infinite at an end."""
        distance = 1.0
        if self.low is not None and self.high is not None:
            distance = (value - self.low) * (self.high - value) / (self.high - self.low)
        elif self.high is not None:
            distance = self.high - value
        elif self.low is not None:
            distance = value - self.low
        return 1 / distance if distance > 0 else math.inf

    def around(self, value: float, half: float) -> tuple[float, float]:
        """What f takes to f(value) ± half; the value alone where that isn't finite."""
        middle = float(self.forward(value))
        if not (math.isfinite(middle) and math.isfinite(half)):
            return value, value
        if self.low is None and self.high is None:
            return value - half, value + half
        return self.back(middle - half), self.back(middle + half)
