"""From a number with its interval to a verdict, by a rule that was fixed beforehand.

    above: x    holds where the whole 95% interval lies above x, fails where it lies below
    below: x    the other way round
    within: m   holds where the 90% interval lies inside ±m (two one-sided tests at 5%),
                fails where the 95% interval lies outside of ±m

Whatever lies between is undecided: an interval that straddles the border says neither.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Verdict(StrEnum):
    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"
    SHOWN = ""  # a number without a rule: shown beside the others, no vote


Interval = tuple[float, float]


class Rule(BaseModel):
    """One of the three kinds and its border, in the unit of the statistic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    above: float | None = None
    below: float | None = None
    within: float | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [name for name in ("above", "below", "within") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a rule is one of above, below, within, not {given}")
        if self.within is not None and self.within <= 0:
            raise ValueError(f"within: {self.within} is no margin, give a number above 0")
        return self

    @property
    def kind(self) -> Literal["above", "below", "within"]:
        return (
            "above" if self.above is not None else "below" if self.below is not None else "within"
        )

    def __str__(self) -> str:
        border = getattr(self, self.kind)
        sign = "±" if self.kind == "within" else ""
        return f"{self.kind} {sign}{border:g}".replace("-", "−")

    def decide(self, interval: Interval, ninety: Interval) -> Verdict:
        """The verdict on a 95% interval and, for ``within``, the 90% interval of the same number.

        A number without uncertainty, such as a count, is an interval of no width.
        """
        low, high = interval
        if self.within is not None:
            inside = -self.within < ninety[0] and ninety[1] < self.within
            outside = low > self.within or high < -self.within
        elif self.above is not None:
            inside, outside = low > self.above, high < self.above or low == high == self.above
        else:
            assert self.below is not None
            inside, outside = high < self.below, low > self.below or low == high == self.below
        return Verdict.HOLDS if inside else Verdict.FAILS if outside else Verdict.UNDECIDED


@dataclass(frozen=True)
class Finding:
    """One number of a claim.

    Attributes:
        what: is said of which probe, in words.
        value: in ``unit``; None where nothing could be run.
        interval: 95%, None for a number without uncertainty.
        unit: "points", "×", "ρ" …
        rule: in words; "" where the number is only shown.
        verdict: by the rule.
        note: why it isn't there, or what it is made of.
    """

    what: str
    value: float | None = None
    interval: Interval | None = None
    unit: str = "points"
    rule: str = ""
    verdict: Verdict = Verdict.SHOWN
    note: str = ""


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """A claim holds where every part of it does, and fails where one fails.

    A part that couldn't be run leaves it undecided unless another one fails.
    """
    voting = [verdict for verdict in verdicts if verdict is not Verdict.SHOWN]
    if Verdict.FAILS in voting:
        return Verdict.FAILS
    if voting and all(verdict is Verdict.HOLDS for verdict in voting):
        return Verdict.HOLDS
    return Verdict.UNDECIDED
