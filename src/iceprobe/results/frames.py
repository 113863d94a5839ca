"""Results and their examples as arrays, and as tables of pandas.

frame(results)                     a row a result: its scores, its cost, where it comes from
frame(results, per="example")      a row a test example, of each result and seed
frame(measured)                    a row a store: what iceprobe.measure gave
records(result)                    the same examples as arrays
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.core.text import visible
from iceprobe.results.fitted import FittedResult
from iceprobe.results.varying import test_of, value_of, varying
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.targets import UNKNOWN

Per = Literal["result", "example"]
_FIRST = ("label", "probe", "adaptation", "backbone", "layer", "dataset", "task", "primary")
_LAST = (
    "variance", "shots", "fraction", "train_images", "test_images", "protocol", "split", "masked",
    "selected_on", "training_images", "git_commit", "created", "command",
)  # fmt: skip


@runtime_checkable
class HasRow(Protocol):
    """What says itself what stands in its row of a table."""

    def row(self) -> Mapping[str, Any]: ...


def frame(
    results: FittedResult | HasRow | Sequence[FittedResult] | Sequence[HasRow], per: Per = "result"
) -> Any:
    """Results as a ``pandas.DataFrame``, in the given order.

    A row a result has its labels, each metric as four columns (``top1``, ``top1_sd``, ``top1_low``,
    ``top1_high``: mean and deviation over seeds, 95% interval; fractions as in `results.json`),
    ``parameters``, ``flops`` of one image, ``seconds``, the selected setting, and where it comes from. What
    a result doesn't have is missing. Of protocol ``folds`` there are ``folds_mean`` and ``folds_sd``, of the
    primary metric over ``folds``; of a reading on another set its name, ``test``, and whether it is ``masked``.

    A row an example has the ``label`` and ``seed`` of the result (and its ``backbone``, ``dataset``, ``draw``,
    ``protocol``, ``test`` or ``masked`` if there are several), ``name``, ``group`` and ``slice.SITE`` if the
    data set has them, and by the task:

    - classification: ``target`` and ``predicted``, names of classes, whether it is ``right``, and the
      ``probability`` of the predicted class;
    - multilabel: of each tag ``target.TAG`` (1, 0, or missing) and ``probability.TAG``;
    - regression: of each number ``target.NAME`` and ``predicted.NAME``, in the target's unit.

    Args:
        results: of one run or several, or one result; or what :func:`iceprobe.measure` gave.
        per: ``"result"`` or ``"example"``.

    Raises:
        IceprobeError: if pandas isn't installed, ``per`` is something else, predictions weren't kept, or results
            and what was measured are given together.
    """
    if per not in get_args(Per):
        raise IceprobeError(unknown("per", str(per), get_args(Per)))
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise IceprobeError(
            "iceprobe.frame needs the package pandas: pip install 'iceprobe[pandas]'"
        ) from error
    given: list[Any] = [results] if isinstance(results, FittedResult | HasRow) else list(results)
    every = [one for one in given if isinstance(one, FittedResult)]
    if len(every) < len(given):
        if every or per != "result":
            raise IceprobeError(
                "what was measured of stores has a row a store: give it without results, and without per"
            )
        return pandas.DataFrame([one.row() for one in given])
    if per == "example":
        differing = varying(every)
        parts = [pandas.DataFrame(part) for one in every for part in _examples(one, differing)]
        return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()
    rows = [_row(one) for one in every]
    return pandas.DataFrame(rows, columns=_columns(every, rows))


def records(result: FittedResult) -> dict[str, NDArray[Any]]:
    """What was recorded of the n test examples of a result, as arrays by name.

    S is the number of its seeds, K of its classes, tags or numbers. What wasn't recorded isn't there.

    - ``outputs (K,)``: names of the classes, tags or numbers;
    - ``names (n,)`` of the examples; ``groups (n,)``, equal for those that aren't independent;
      ``slice.SITE (n,)``, text, of each column of slices;
    - ``targets``: indices of classes ``(n,)``, tags ``(n, K)`` uint8 (255: unknown) or numbers ``(n, K)``
      (NaN: unknown);
    - ``predicted``: classes ``(S, n)`` (−1: none), or numbers ``(S, n, K)`` in the target's unit;
    - ``logits (S, n, K)`` and ``probabilities (S, n, K)`` float32 of classes or tags. Of more than 2,000
      classes those of the 20 highest logits are there, ``(S, n, 20)``, and ``classes (S, n, 20)`` says whose.

    Raises:
        IceprobeError: if no predictions were kept, or their file can't be read.
    """
    predictions = result.needed_predictions()
    found: dict[str, NDArray[Any]] = {"targets": np.asarray(predictions.labels)}
    if result.class_names:  # results of earlier versions have none
        found = {"outputs": _text(result.class_names), **found}
    if predictions.names is not None:
        found["names"] = _text(predictions.names)
    if predictions.groups is not None:
        found["groups"] = np.asarray(predictions.groups)
    for name, (codes, values) in predictions.slices.items():
        found[f"slice.{name}"] = _named(codes, values)
    if predictions.predicted is not None:
        found["predicted"] = np.asarray(predictions.predicted)
    if (logits := predictions.logits()) is not None:
        found["logits"] = np.asarray(logits.values)
        if logits.classes is not None:
            found["classes"] = np.asarray(logits.classes)
        found["probabilities"] = _probabilities(result, found["logits"], logits.log_sum_exp)
    return found


def _probabilities(
    result: FittedResult, logits: NDArray[Any], log_sum_exp: NDArray[Any] | None
) -> NDArray[np.float32]:
    from scipy.special import expit, softmax

    wide = logits.astype(np.float32)
    if get_task(result.task).several:  # each tag has its own
        found = expit(wide)
    elif log_sum_exp is not None:
        found = np.exp(wide - log_sum_exp[..., None])
    else:
        found = softmax(wide, axis=-1)
    return np.asarray(found, np.float32)


def _row(one: FittedResult) -> dict[str, Any]:
    """A result's cells, by column."""
    scores: dict[str, Any] = {}
    for name, score in one.metrics.items():
        low, high = score.interval or (None, None)
        scores |= {name: score.mean, f"{name}_sd": score.sd}
        scores |= {f"{name}_low": low, f"{name}_high": high}
    if one.folds is not None:
        scores |= {"folds": len(one.folds.values)}
        scores |= {"folds_mean": one.folds.mean, "folds_sd": one.folds.sd}
    return {
        **{name: getattr(one, name) for name in _FIRST},
        **scores,
        "parameters": one.parameters.total,
        "flops": one.flops.per_image,
        "seconds": one.seconds,
        **one.selected,
        "seeds": len(one.seeds),
        "lost_seeds": len(one.lost_seeds),
        **{name: getattr(one, name) for name in _LAST},
        "test": test_of(one) or None,
        "undertrained": "; ".join(one.undertrained),
        "warnings": "; ".join(one.warnings),
        "store": one.store.identity,
        "run": None if one.run is None else str(one.run),
        **{name: one.environment.get(name) for name in ("iceprobe", "torch")},
    }


def _columns(results: Sequence[FittedResult], rows: Sequence[dict[str, Any]]) -> list[str]:
    """All columns, each metric and each selected value beside those of its kind."""
    tasks = dict.fromkeys(one.task for one in results)
    metrics = [
        f"{name}{end}"
        for task in tasks
        for name in get_task(task).metrics
        for end in ("", "_sd", "_low", "_high")
        if any(name in one.metrics for one in results)
    ]
    selected = [name for one in results for name in one.selected]
    ends = [name for row in rows for name in row]
    costs = ["parameters", "flops", "seconds"]
    return list(dict.fromkeys([*_FIRST, *metrics, *costs, *selected, *ends]))


def _examples(result: FittedResult, differing: Sequence[str]) -> list[dict[str, Any]]:
    """Columns of the examples, for each seed."""
    found, task = records(result), get_task(result.task)
    targets, outputs = found["targets"], found.get("outputs")
    alike: dict[str, Any] = {}
    whose = {name: value_of(result, name) for name in differing} | {"label": result.label}
    if "names" in found:
        alike["name"] = _text([visible(name) for name in found["names"]])
    if "groups" in found:
        alike["group"] = found["groups"]
    alike |= {name: column for name, column in found.items() if name.startswith("slice.")}
    many = len(found["predicted"] if "predicted" in found else found["logits"])
    seeds = result.seeds if len(result.seeds) == many else range(many)  # k-NN has none
    parts = []
    for row, seed in enumerate(seeds):
        columns: dict[str, Any] = {**whose, "seed": seed, **alike}
        if task.several:
            columns |= _of_outputs(found, outputs, row)
        else:
            columns |= _of_classes(found, outputs, row)
        parts.append({name: _full(column, len(targets)) for name, column in columns.items()})
    return parts


def _of_classes(
    found: dict[str, NDArray[Any]], outputs: NDArray[Any] | None, row: int
) -> dict[str, Any]:
    targets, predicted = found["targets"], found["predicted"][row]
    columns: dict[str, Any] = {
        "target": targets if outputs is None else _named(targets, outputs),
        "predicted": predicted if outputs is None else _named(predicted, outputs),
        "right": predicted == targets,
    }
    if "probabilities" in found:
        p = found["probabilities"][row]
        if "classes" in found:
            own = np.where(found["classes"][row] == predicted[:, None], p, 0).max(-1)
        else:
            own = np.take_along_axis(p, np.maximum(predicted, 0)[:, None].astype(int), 1)[:, 0]
        columns["probability"] = np.where(predicted >= 0, own, np.nan)
    return columns


def _of_outputs(
    found: dict[str, NDArray[Any]], outputs: NDArray[Any] | None, row: int
) -> dict[str, Any]:
    targets = found["targets"]
    if targets.dtype.kind == "u":  # tags
        targets = np.where(targets == UNKNOWN, np.nan, targets.astype(np.float64))
    what = "predicted" if "predicted" in found else "probability"
    values = found["predicted" if "predicted" in found else "probabilities"][row]
    names = range(targets.shape[1]) if outputs is None else map(visible, outputs)
    columns: dict[str, Any] = {}
    for k, name in enumerate(names):
        columns |= {f"target.{name}": targets[:, k], f"{what}.{name}": values[:, k]}
    return columns


def _named(codes: NDArray[Any], names: Sequence[str] | NDArray[Any]) -> NDArray[Any]:
    """``names[codes]`` as text; None where a code is −1."""
    return np.array([*map(visible, names), None], object)[codes]


def _text(values: Sequence[str] | NDArray[Any]) -> NDArray[Any]:
    return np.array(list(values), object)


def _full(column: Any, count: int) -> NDArray[Any]:
    """A column of ``count`` cells, also if all have one value."""
    return column if isinstance(column, np.ndarray) else np.array([column] * count)
