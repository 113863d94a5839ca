"""What is true of an image and what a probe reads in it, in words; and which images show both, for any task.

Targets are as in a store: a class, tags (uint8) or numbers (`iceprobe.tasks.targets`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iceprobe.results.caveats import listed
from iceprobe.tasks.targets import UNKNOWN, known
from iceprobe.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

MOST = 3  # outputs of an image whose evidence is shown
NAMED = 6  # tags or numbers of an image that are named


@dataclass(frozen=True)
class Asked:
    """An output of an image, and what the probe gives for it: ``"coat 93%"``."""

    output: int
    caption: str


@dataclass(frozen=True)
class Answer:
    """Of one image.

    Attributes:
        label: what is true.
        predicted: what the probe reads.
        correct: whether that is the same; None of numbers.
        asked: outputs to explain, one a column; None: nothing in this column.
    """

    label: str
    predicted: str
    correct: bool | None
    asked: list[Asked | None]


class Namer:
    """Words for targets and what is read.

    Args:
        task: of the targets.
        names: of the outputs.
        units: of numbers, as far as they are known.
    """

    def __init__(self, task: Task, names: Sequence[str], units: Sequence[str] = ()):
        self.task, self.names = task, list(names)
        self.units = [*units, *[""] * len(self.names)]

    def label(self, target: NDArray) -> str:
        """What is true of an image: its class, its tags, its numbers."""
        if target.ndim == 0:
            return self.names[int(target)]
        if target.dtype == np.uint8:
            tags = [self.names[k] for k in np.flatnonzero(target == 1)]
            unknown = int((target == UNKNOWN).sum())
            return _several(tags) + (f" ({unknown} unknown)" if unknown else "")
        return self._numbers(target)

    def read(self, values: NDArray) -> str:
        """What a probe reads: of tags, by their probabilities ``(K,)``, those called at ½; or numbers ``(K,)``."""
        if self.task.outputs == "numbers":
            return self._numbers(values)
        called = [k for k in np.argsort(-values, kind="stable").tolist() if values[k] >= 0.5]
        return _several([self._probable(k, values) for k in called])

    def columns(self, targets: NDArray) -> list[str]:
        """Headings of the evidence of several images."""
        if targets.ndim == 1:
            return ["evidence for its class", "for the class read"]
        if targets.dtype == np.uint8:
            most = min(MOST, int((targets == 1).sum(1).max(initial=0)))
            return ["evidence for its tags", *[""] * (most - 1)] if most else []
        return [f"evidence about {name}" for name in self.names[:MOST]]

    def answers(self, logits: "Tensor", targets: NDArray) -> list[Answer]:
        """Of each image: logits ``(B, K)`` with targets ``(B, …)``."""
        places = [str(k) for k in range(len(self.names))]  # names may be equal
        readings = self.task.readings(logits.cpu(), places, len(places))
        width, best = len(self.columns(targets)), logits.argmax(1).tolist()
        found = []
        for target, read, top in zip(targets, readings, best, strict=True):
            of_place = dict(read)
            values = np.array([of_place[place] for place in places])
            if target.ndim == 0:
                found.append(self._of_class(int(target), int(top), values))
            elif target.dtype == np.uint8:
                found.append(self._of_tags(target, values, width))
            else:
                found.append(self._of_numbers(target, values))
        return found

    def _of_class(self, true: int, read: int, values: NDArray) -> Answer:
        asked = [Asked(k, self._probable(k, values)) for k in (true, read)]
        return Answer(
            self.names[true],
            self.names[read],
            true == read,
            [asked[0], asked[1] if read != true else None],
        )

    def _of_tags(self, target: NDArray, values: NDArray, width: int) -> Answer:
        there = np.flatnonzero(target == 1)[:MOST].tolist()
        asked = [Asked(k, self._probable(k, values)) for k in there]
        wrong = ((values >= 0.5) != (target == 1)) & (target != UNKNOWN)
        return Answer(
            self.label(target),
            self.read(values),
            not wrong.any(),
            [*asked, *[None] * (width - len(asked))],
        )

    def _of_numbers(self, target: NDArray, values: NDArray) -> Answer:
        shown = range(min(MOST, len(values)))
        return Answer(
            self.label(target),
            self.read(values),
            None,
            [Asked(k, f"{_figures(target[k])} → {_figures(values[k])}") for k in shown],
        )

    def _probable(self, output: int, values: NDArray) -> str:
        return f"{self.names[output]} {values[output]:.0%}"

    def _numbers(self, values: NDArray) -> str:
        return _several([self._number(k, value) for k, value in enumerate(values.tolist())])

    def _number(self, output: int, value: float) -> str:
        known_unit = self.units[output] and not np.isnan(value)
        unit = f" {self.units[output]}" if known_unit else ""
        return f"{self.names[output]} {_figures(value)}{unit}"


def spread_rule(targets: NDArray, names: Sequence[str]) -> str:
    """How :func:`spread` chooses, as part of a sentence."""
    if targets.ndim == 2 and targets.dtype != np.uint8:
        return f"spread evenly over the order of their {names[0]}"
    return f"one of each {'class' if targets.ndim == 1 else 'tag'} in the order of the split"


def spread(targets: NDArray, count: int) -> NDArray[np.int64]:
    """``count`` rows of the split, whatever probes predict: spread over classes, over tags, or over the
    quantiles of the first number."""
    if targets.ndim == 1:
        return in_turn([np.flatnonzero(targets == one) for one in np.unique(targets)], count)
    if targets.dtype == np.uint8:
        queues = [np.flatnonzero(column == 1) for column in targets.T]
        rows = in_turn([queue for queue in queues if len(queue)], count)
        return rows if len(rows) else np.arange(min(count, len(targets)))
    there = np.flatnonzero(known(targets)[:, 0])
    if not len(there):
        return np.arange(min(count, len(targets)))
    order = there[np.argsort(targets[there, 0], kind="stable")]
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]


def in_turn(queues: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """``count`` different rows: the first of each queue, then the second of each.

    With more queues than rows, queues are taken at even distances.
    """
    if len(queues) > count > 0:
        queues = [queues[i] for i in np.linspace(0, len(queues) - 1, count).round().astype(int)]
    longest = max((len(queue) for queue in queues), default=0)
    rows = [int(q[turn]) for turn in range(longest) for q in queues if turn < len(q)]
    return np.array(list(dict.fromkeys(rows))[:count], dtype=np.int64)


def _several(words: Sequence[str]) -> str:
    return listed(words, NAMED) or "no tag"


def _figures(value: float) -> str:
    """Three figures: ``"104"``, ``"0.0132"``; ``"?"`` where it isn't known."""
    if np.isnan(value):
        return "?"
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("-", "−")
