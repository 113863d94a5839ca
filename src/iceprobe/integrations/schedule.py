"""When a look is due, and whether its time is within the budget. No torch, no clock of its own."""

import re
from dataclasses import dataclass
from typing import Any

from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import duration, shown

UNITS = ("epoch", "step")


@dataclass
class Every:
    """``"5 epochs"`` or ``"1000 steps"``: a look is due whenever the count passes a multiple.

    Attributes:
        number: of epochs or steps.
        unit: ``"epoch"`` or ``"step"``.
    """

    number: int
    unit: str
    _before: int | None = None

    @classmethod
    def of(cls, text: Any) -> "Every":
        """Of a text, a number and its unit.

        Raises:
            IceprobeError: for anything else.
        """
        match = re.fullmatch(r"(\d[\d,_]*)\s*(epoch|step)s?", str(text).strip().lower())
        number = int(re.sub("[,_]", "", match[1])) if match else 0
        if not match or not isinstance(text, str) or number < 1:
            raise IceprobeError(
                f"every={shown(text)}: write a number of epochs or of steps, every='1 epoch' or "
                "every='1000 steps'"
            )
        return cls(number, match[2])

    def begin(self) -> None:
        """Training begins, at any count."""
        self._before = None

    def due(self, count: int) -> bool:
        """Whether a multiple was passed since the last call; at first: whether ``count`` is one.

        Args:
            count: of the epochs or steps that are done.
        """
        before = max(count - 1, 0) if self._before is None else self._before
        self._before = count
        return count // self.number > before // self.number

    def __str__(self) -> str:
        return f"{self.number:,} {self.unit}{'s' * (self.number != 1)}"


def share_of(at_most: Any) -> float | None:
    """``"5%"`` or 0.05 → 0.05.

    Raises:
        IceprobeError: for what is no share above 0 and up to 1.
    """
    if at_most is None:
        return None
    text = str(at_most).strip()
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(%?)", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share <= 1 or isinstance(at_most, bool):
        raise IceprobeError(
            f"at_most={shown(at_most)}: give the share of training time that looks may take, "
            "at_most='5%' or at_most=0.05"
        )
    return share


class Budget:
    """The time that looks may take.

    With T seconds of training so far (looks not counted), L seconds of looks so far, e seconds of the last
    look and a share s, a look is taken if ``L + e <= s * T``. The first one is always taken, since e isn't
    known. So looks take at most s of the training time whenever one ends, apart from the first, and from
    how much longer the last one took than the one before.

    Args:
        share: s; ``None``: no limit.
        began: seconds on the clock when training began.
    """

    def __init__(self, share: float | None, began: float):
        self.share, self.began = share, began
        self.spent = 0.0
        self.last: float | None = None

    def trained(self, now: float) -> float:
        """T, at ``now`` on the clock."""
        return now - self.began - self.spent

    def fits(self, now: float) -> bool:
        """Whether a look may be taken ``now``."""
        if self.share is None or self.last is None:
            return True
        return self.spent + self.last <= self.share * self.trained(now)

    def took(self, seconds: float) -> None:
        """A look has taken so long."""
        self.spent, self.last = self.spent + seconds, seconds

    def wait(self, now: float) -> float:
        """Seconds of training from ``now`` until the next look fits; 0 if it does."""
        if self.share is None or self.last is None:
            return 0.0
        return max(0.0, (self.spent + self.last) / self.share - self.trained(now))

    def said(self, now: float) -> str:
        """What looks have taken so far, in words."""
        return f"{duration(self.spent)} beside {duration(self.trained(now))} of training"
