"""What the analysis of a probe says: the entries of ``analysis.json``. Nothing here imports torch.

Shares and accuracies are fractions; every interval is the 95% percentile bootstrap over images.
"""

from dataclasses import dataclass, field

from iceprobe.analysis.association import Correlation

HEADS = "backbone heads"


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its interval."""

    mean: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Predictor:
    """One predictor of one fitted seed; None where its data have no boxes or masks.

    Attributes:
        seed: of the fit.
        predictor: j, from 1.
        importance: drop in accuracy where it alone is uniform; None where it can't be replaced.
        entropy: of its map, 1 where uniform.
        centroid_in_box: share of images whose box holds the map's centroid.
        mass_in_box: of its attention.
        mass_in_mask: of its attention.
        prefix_share: of its attention, before maps were renormalised.
    """

    seed: int
    predictor: int
    importance: Estimate | None
    entropy: Estimate
    centroid_in_box: Estimate | None
    mass_in_box: Estimate | None
    mass_in_mask: Estimate | None
    prefix_share: float


@dataclass(frozen=True)
class Shortcut:
    """What is lost when everything outside the object's box is exchanged.

    Attributes:
        background: what was put there: ``"clutter of other images"`` or ``"mean colour"``.
        images: how many, those with a box.
        accuracy: top-1 on them as they are.
        replaced: top-1 with the other background.
        drop: their difference, paired over images.
    """

    background: str
    images: int
    accuracy: Estimate
    replaced: Estimate
    drop: Estimate


@dataclass(frozen=True)
class Analysis:
    """Where one probe looks, means over its predictors and seeds.

    The backbone's own heads, where they were asked for, stand among the probes as `HEADS`: their
    predictors are heads, and they have no accuracy, importance, seeds or retrieval.

    Attributes:
        probe: label in the run.
        store: identity of the tokens.
        split: whose images were measured.
        images: how many, ``images_with_box`` of them with a box, likewise with a mask.
        seeds: fits that were pooled.
        accuracy: top-1 on these images.
        uniform: what uniform attention scores, by measure.
        complementarity: of the maps of an image, by formula: ``cosine``, ``intersection``.
        max_box_accuracy: of the mean map over predictors: by δ, and ``"mean"``, MaxBoxAccV2.
        recall: by K, of the pooled descriptors.
        correlation: of importance over all predictors with each measure.
        predictors: by importance, the largest first.
        notes: what is missing here, and why.
        shortcut: the background test, where it was asked for.
    """

    probe: str
    store: str
    split: str
    images: int
    images_with_box: int
    images_with_mask: int
    seeds: list[int]
    accuracy: Estimate | None
    entropy: Estimate
    centroid_in_box: Estimate | None
    mass_in_box: Estimate | None
    mass_in_mask: Estimate | None
    prefix_share: float
    uniform: dict[str, float]
    complementarity: dict[str, Estimate]
    max_box_accuracy: dict[str, float]
    recall: dict[str, Estimate]
    correlation: dict[str, Correlation]
    predictors: list[Predictor]
    notes: list[str] = field(default_factory=list)
    shortcut: Shortcut | None = None
