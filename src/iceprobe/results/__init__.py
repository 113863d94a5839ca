"""What a probe scored: schema, files, statistics and tables. Nothing here imports torch."""

from iceprobe.core.lazy import lazy

_NAMES = {
    "schema": "Score Parameters Flops StoreReference Files Result",
    "fitted": "FittedResult",
    "predictions": "Predictions read_predictions write_predictions",
    "files": "read_results write_results",
    "curves": "CurveRow read_curves write_curves",
    "provenance": "environment git_commit",
    "statistics": "Difference Equivalence accuracy accuracy_interval equivalent holm "
    "mean_per_class paired_difference",
    "frames": "frame records",
    "listing": "Results",
    "advice": "Advice advise",
    "comparison": "Comparison compare compare_pair",
    "tables": "leaderboard to_csv to_html to_markdown to_rich to_rich_matrix",
}
_HOME = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
