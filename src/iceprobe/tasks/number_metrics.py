"""The metrics of one or several numbers an example, R² first.

They read ``predicted (S, n, K)`` of a record and targets ``(n, K)``, NaN where unknown. Each is the mean over
the outputs for which it is defined.
"""

from iceprobe.tasks.linearised import of_fields
from iceprobe.tasks.metrics import Metric

_VARIES = "an output with two different values"
_KNOWN = "a known value"

METRICS = (
    Metric(
        "r2", "R²", formula=of_fields("number_formulas:mean_r2", "predicted"), needs=_VARIES,
        range=(None, 1.0), percent=False,
        note="share of the variance that is predicted, mean over outputs; below 0 worse than the mean",
    ),
    Metric(
        "mae", "MAE", formula=of_fields("number_formulas:mean_mae", "predicted"), needs=_KNOWN,
        higher_is_better=False, range=(0.0, None), percent=False, unit_of_target=True,
        note="mean absolute error, mean over outputs",
    ),
    Metric(
        "rmse", "RMSE", formula=of_fields("number_formulas:mean_rmse", "predicted"), needs=_KNOWN,
        higher_is_better=False, range=(0.0, None), percent=False, unit_of_target=True,
        note="root of the mean squared error of an output, mean over outputs",
    ),
    Metric(
        "pearson", "Pearson's r", formula=of_fields("number_formulas:mean_pearson", "predicted"),
        needs=_VARIES, range=(-1.0, 1.0), percent=False,
        note="linear correlation of predictions and targets, mean over outputs",
    ),
    Metric(
        "spearman", "Spearman's ρ", needs=_VARIES, range=(-1.0, 1.0), percent=False,
        formula=of_fields("number_formulas:mean_spearman", "predicted"),
        note="correlation of the ranks of predictions and targets, mean over outputs",
    ),
)  # fmt: skip
