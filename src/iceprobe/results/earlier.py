"""Entries of ``results.json`` as earlier versions wrote them → those of the present format."""

from typing import Any

_METRICS = ("top1", "top5", "mean_per_class")  # of format 1, each in a field of its own


def converted(entry: Any, version: int) -> Any:
    """An entry of format ``version`` in the present one; what is no entry stays as it is."""
    return _from_1(entry) if version == 1 and isinstance(entry, dict) else entry


def _from_1(entry: dict[str, Any]) -> dict[str, Any]:
    """Metrics had a field each; ``headline`` was the name of the primary one."""
    kept = {name: value for name, value in entry.items() if name not in ("headline", *_METRICS)}
    metrics = {name: entry[name] for name in _METRICS if entry.get(name) is not None}
    return {**kept, "primary": entry.get("headline", "top1"), "metrics": metrics}
