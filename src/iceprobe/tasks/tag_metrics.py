"""The metrics of a set of tags an example, mAP first.

They read ``logits (S, n, K)`` of a record and targets ``(n, K)`` of 0, 1 and 255 (unknown); those at the best
threshold read ``thresholds (S, K)`` besides, probabilities found on held-out examples
(`tag_formulas.best_thresholds`), and are None without.
"""

from iceprobe.tasks.linearised import of_fields
from iceprobe.tasks.metrics import BINS, Metric

_POSITIVE = "a tag with a positive example"
_BOTH = "a tag with a positive and a negative example"

METRICS = (
    Metric(
        "map", "mAP", formula=of_fields("tag_formulas:mean_ap", "logits"), needs=_POSITIVE,
        note="average precision, mean over the tags that have a positive example",
    ),
    Metric(
        "auroc", "AUROC", formula=of_fields("tag_formulas:auroc", "logits"), needs=_BOTH,
        note="area under the ROC curve, mean over the tags that have a positive and a negative example",
    ),
    Metric(
        "auroc_micro", "micro-AUROC", formula=of_fields("tag_formulas:auroc_micro", "logits"),
        needs="a positive and a negative cell", counts="cells",
        note="area under the ROC curve of the cells of all tags as one ranking",
    ),
    Metric(
        "f1_macro", "macro-F1", formula=of_fields("tag_formulas:f1_macro", "logits"), needs=_POSITIVE,
        note="F1 at probability 0.5, mean over the tags that have a positive example",
    ),
    Metric(
        "f1_micro", "micro-F1", formula=of_fields("tag_formulas:f1_micro", "logits"), needs=_POSITIVE,
        counts="cells",
        note="F1 at probability 0.5 of the cells of all tags",
    ),
    Metric(
        "f1_macro_best", "macro-F1 at best thresholds", heading="macro-F1*", needs=_POSITIVE,
        formula=of_fields("tag_formulas:f1_macro", "logits", "thresholds"),
        note="macro-F1 at each tag's threshold that is best on held-out examples",
    ),
    Metric(
        "f1_micro_best", "micro-F1 at best thresholds", heading="micro-F1*", needs=_POSITIVE,
        counts="cells",
        formula=of_fields("tag_formulas:f1_micro", "logits", "thresholds"),
        note="micro-F1 at each tag's threshold that is best on held-out examples",
    ),
    Metric(
        "exact_match", "exact match", formula=of_fields("tag_formulas:exact_match", "logits"),
        needs="an example with a known tag", counts="examples",
        note="share of examples whose known tags are all right at probability 0.5",
    ),
    Metric(
        "ece", "calibration error", formula=of_fields("tag_formulas:ece", "logits"), heading="ECE",
        higher_is_better=False, needs="a known tag", counts="examples",
        note=f"expected calibration error of the probabilities of all cells, {BINS} bins of equal mass",
    ),
)  # fmt: skip
