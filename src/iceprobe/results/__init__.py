"""What a probe scored: schema, files, statistics and tables. Nothing here imports torch."""

from iceprobe.core.lazy import lazy

_HOME = {
    "Score": "schema",
    "Parameters": "schema",
    "Flops": "schema",
    "StoreReference": "schema",
    "Files": "schema",
    "Result": "schema",
    "FittedResult": "fitted",
    "Predictions": "predictions",
    "read_predictions": "predictions",
    "write_predictions": "predictions",
    "read_results": "files",
    "write_results": "files",
    "CurveRow": "curves",
    "read_curves": "curves",
    "write_curves": "curves",
    "environment": "provenance",
    "git_commit": "provenance",
    "Difference": "statistics",
    "Equivalence": "statistics",
    "accuracy": "statistics",
    "accuracy_interval": "statistics",
    "equivalent": "statistics",
    "holm": "statistics",
    "mean_per_class": "statistics",
    "paired_difference": "statistics",
    "Advice": "advice",
    "advise": "advice",
    "Comparison": "comparison",
    "compare": "comparison",
    "compare_pair": "comparison",
    "leaderboard": "tables",
    "to_csv": "tables",
    "to_markdown": "tables",
    "to_rich": "tables",
    "to_rich_matrix": "tables",
}

__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
