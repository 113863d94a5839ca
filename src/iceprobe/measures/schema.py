"""What was measured, and how it goes with what probes scored. Nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measured:
    """The measures of one store.

    Attributes:
        store: its identity.
        path: its folder; ``None`` in memory.
        backbone: spec.
        layer: of the backbone, from 0; ``None`` where that isn't known.
        dataset: spec.
        split: that was read.
        input: which vectors: ``"class"``, ``"mean"``, ``"patches"`` ….
        examples: n, that were read.
        vectors: how many vectors those were, more than n of patch tokens.
        dim: D.
        values: numbers by name: of each measure (`MEASURES`), and what belongs to it (``alpha_r2``,
            ``alpha_last``, ``uniformity_vectors``, ``views``).
        missing: why a measure has no value here, by its name.
        notes: what else to know of these numbers, in sentences.
        others: of measures that compare two stores, their numbers by the identity of the other store.
    """

    store: str
    path: str | None
    backbone: str
    layer: int | None
    dataset: str
    split: str
    input: str
    examples: int
    vectors: int
    dim: int
    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: dict[str, dict[str, float]] = field(default_factory=dict)

    def row(self) -> Mapping[str, Any]:
        """Its cells in a table, by column."""
        head = ("backbone", "layer", "dataset", "split", "input", "examples", "vectors", "dim")
        return {
            **{name: getattr(self, name) for name in head},
            **self.values,
            "store": self.store,
            "path": self.path,
        }


@dataclass(frozen=True)
class Coefficient:
    """A correlation over stores and its 95% bootstrap interval over them."""

    value: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:+.2f} [{low:+.2f}, {high:+.2f}]"


@dataclass(frozen=True)
class Point:
    """One store: its measure and what the probe scored on it."""

    store: str
    x: float
    y: float


@dataclass(frozen=True)
class Correlation:
    """How one measure goes with what one probe scored, over stores.

    Attributes:
        measure: its name.
        probe: label.
        on: data set, draw, protocol and split of the scores, in words.
        metric: name of the primary metric.
        points: the stores.
        spearman, pearson: None where there are fewer than four stores, or one side is constant.
        why: there is none, in a clause.
    """

    measure: str
    probe: str
    on: str
    metric: str
    points: list[Point]
    spearman: Coefficient | None = None
    pearson: Coefficient | None = None
    why: str = ""
