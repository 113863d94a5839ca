"""What a probe scored: schema, files, statistics and tables. Nothing here imports torch."""

import importlib
from typing import Any

_HOME = {
    "Score": "schema",
    "Parameters": "schema",
    "Flops": "schema",
    "StoreReference": "schema",
    "Files": "schema",
    "Result": "schema",
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
    "bootstrap_interval": "statistics",
    "bootstrap_mean_per_class": "statistics",
    "equivalent": "statistics",
    "mean_per_class": "statistics",
    "paired_bootstrap": "statistics",
    "Comparison": "comparison",
    "compare": "comparison",
    "compare_pair": "comparison",
    "leaderboard": "leaderboard",
    "to_csv": "leaderboard",
    "to_markdown": "leaderboard",
    "to_rich": "leaderboard",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
