"""Entries of ``analysis.json``. Nothing here imports torch.

Shares and accuracies are fractions; every interval is the 95% percentile bootstrap over images, or over groups of
images that aren't independent. Of metrics that are no means over images (mAP, R²), what is drawn are linearised
values (`iceprobe.analysis.scoring`). The interval of what another background costs is that of any comparison of
two probes (`iceprobe.results.intervals`).
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
    """One predictor of one fitted seed; None where its data have no boxes or masks."""

    seed: int  # of the fit
    predictor: int  # j, from 1
    # What the leading metric loses, positive if it gets worse, where it alone is uniform; None where it can't
    # be replaced.
    importance: Estimate | None
    entropy: Estimate  # of its map, 1 where uniform
    centroid_in_box: Estimate | None  # share of images whose box holds the map's centroid
    mass_in_box: Estimate | None  # of its attention
    mass_in_mask: Estimate | None  # of its attention
    prefix_share: float  # of its attention, before maps were renormalised


@dataclass(frozen=True)
class Shortcut:
    """What is lost when everything outside the object's box is exchanged."""

    background: str  # what replaces it: ``"clutter of other images"`` or ``"mean colour"``
    images: int  # those with a box
    accuracy: Estimate | None  # the leading metric on them as they are; None where it's no accuracy
    replaced: Estimate  # the same with the other background
    drop: Estimate  # how much worse it is, paired over images
    score: Estimate | None = (
        None  # the leading metric as they are; earlier versions had accuracies only
    )


@dataclass(frozen=True)
class Evidence:
    """Where the evidence for what is true lies (`iceprobe.analysis.evidence`), measured like attention.

    It is one map an image: positive evidence for its class, or for the tags that it has, or the magnitude of
    evidence about its numbers. Images without any are left out.
    """

    centroid_in_box: Estimate | None
    mass_in_box: Estimate | None
    mass_in_mask: Estimate | None
    max_box_accuracy: dict[str, float]
    above_attention: dict[str, Estimate]  # by measure, minus the mean over predictors, paired


@dataclass(frozen=True)
class Analysis:
    """Where one probe looks, means over its predictors and seeds.

    The backbone's own heads, where they were asked for, are one more entry, `HEADS`: their predictors are
    heads, and they have no accuracy, importance, seeds or retrieval.
    """

    probe: str  # label in the run
    store: str  # identity of the tokens
    split: str  # whose images were measured
    images: int
    images_with_box: int
    images_with_mask: int
    seeds: list[int]  # fits that were pooled
    accuracy: Estimate | None  # top-1 on these images; None without classes
    entropy: Estimate
    centroid_in_box: Estimate | None
    mass_in_box: Estimate | None
    mass_in_mask: Estimate | None
    prefix_share: float
    uniform: dict[str, float]  # what uniform attention scores, by measure
    # Of the maps of an image, by formula: cosine, intersection.
    complementarity: dict[str, Estimate]
    max_box_accuracy: dict[str, float]  # of the mean map: by δ, and ``"mean"``, MaxBoxAccV2
    recall: dict[str, Estimate]  # by K, of the pooled descriptors
    correlation: dict[str, Correlation]  # of importance over all predictors, by measure
    predictors: list[Predictor]  # by importance, the largest first
    notes: list[str] = field(default_factory=list)  # what is missing here, and why
    shortcut: Shortcut | None = None  # the background test, where it was asked for
    metric: str = "top1"  # of importance and shortcut: the one that leads
    score: Estimate | None = None  # its value on these images
    evidence: Evidence | None = None  # where boxes or masks are and logits are sums over patches
    groups: int | None = None  # which intervals are over; None: images
    caveat: str | None = None  # why intervals can't be trusted
    # Of tokens on no grid, such as those of bags: effective_tokens, and how much of the attention the largest
    # weights have, top_percent of 1% of an example's tokens and top_10 of ten of them. Otherwise empty.
    concentration: dict[str, Estimate] = field(default_factory=dict)
    example: str = "image"  # what ``images`` are: image, bag, recording or clip
