"""What every probe of a run predicted on the reported split: ``predictions.safetensors``.

The file holds the targets once, ``labels``, and for each probe what its task records of every example
(`tasks/`). Of classification: ``labels (n)`` int64, ``LABEL/predicted (S, n)`` int32 and, with more than five
classes, ``LABEL/top5 (S, n)`` bool: whether the true class was among the five with the highest scores. Of
multilabel: ``labels (n, K)`` uint8, 255 where a tag isn't known, ``LABEL/logits (S, n, K)`` float32. Of
regression: ``labels (n, K)`` float64, NaN where a number isn't known, ``LABEL/predicted (S, n, K)`` float32
in the target's unit. Examples are in the order of the store's split. Their ``names`` (bytes of a JSON list,
uint8) are there if the data set was, and not in older files; ``group (n)`` int64 says which aren't
independent, ``LABEL/thresholds (S, K)`` float64 are tags' thresholds, and ``column.NAME (n)`` int64 with the JSON of ``values`` are its slices. Paired statistics and the
report's pictures read the file.

``LABEL/logits (S, n, C)`` float16 are kept for metrics that are computed later; of more than 2,000
classes those of the 20 best, ``LABEL/logits (S, n, 20)``, with their classes ``LABEL/logit_classes`` int32
and ``LABEL/log_sum_exp (S, n)`` float32 over all classes. Those of k-NN are the logarithms of the votes, −∞
for a class without one. ``predicted`` and ``top5`` are of the unrounded logits. Older files have no logits.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from iceprobe.core.checksums import Digest, check_file
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import json_bytes
from iceprobe.machine.files import write_atomically

FILE_NAME = "predictions.safetensors"
LOGITS = ("logits", "logit_classes", "log_sum_exp")
_DTYPES = {  # codes of safetensors, in the order in which it writes them
    "I64": "int64", "F64": "float64", "F32": "float32", "I32": "int32", "F16": "float16",
    "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Logits:
    """The logits of one probe, one row a seed."""

    values: NDArray[Any]  # (S, n, K), or (S, n, 20) of the 20 best classes, best first
    classes: NDArray[np.int32] | None = None  # (S, n, 20), of which classes; None: all, in order
    log_sum_exp: NDArray[np.float32] | None = None  # (S, n), ln Σ exp over all classes; likewise

    @classmethod
    def of(cls, record: Any) -> Self:
        """Of what the task recorded (`tasks.records.Arrays`)."""
        return cls(record.logits, record.logit_classes, record.log_sum_exp)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """By their names in the file, without the probe's."""
        found = zip(LOGITS, (self.values, self.classes, self.log_sum_exp), strict=True)
        return {name: array for name, array in found if array is not None}

    def read(self) -> Self:
        return self

    def rows(self, rows: NDArray[np.bool_]) -> "Logits":
        """Of some examples, ``(n,)``."""
        return Logits(
            self.values[:, rows],
            None if self.classes is None else self.classes[:, rows],
            None if self.log_sum_exp is None else self.log_sum_exp[:, rows],
        )


@dataclass(frozen=True)
class StoredLogits:
    """Logits in a file, mapped while they are used: until then they take no memory, and no open file."""

    path: Path
    probe: str

    def read(self) -> Logits:
        """The logits.

        Raises:
            IceprobeError: if the file can't be read.
        """
        try:
            with self.path.open("rb") as file:
                data = 8 + int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(data - 8))
            return Logits(*(self._mapped(header.get(f"{self.probe}/{n}"), data) for n in LOGITS))
        except (OSError, ValueError) as error:
            message = f"predictions {self.path} can't be read ({error}): fit again"
            raise IceprobeError(message) from error

    def _mapped(self, entry: Mapping[str, Any] | None, data: int) -> Any:
        """The tensor that the header describes so, ``data`` bytes after which the first one begins."""
        if entry is None:
            return None
        begin, shape = data + entry["data_offsets"][0], tuple(entry["shape"])
        return np.memmap(self.path, _DTYPES[entry["dtype"]], "c", begin, shape)


@dataclass(frozen=True)
class Predictions:
    """Predictions of one probe, one row a seed.

    Attributes:
        labels: the true targets as the task has them, ``(n,)`` or ``(n, K)``.
        predicted: ``(S, n)`` int32 classes, or ``(S, n, K)`` float32 numbers; None of tags.
        top5: ``(S, n)`` bool, or None with five classes or fewer.
        names: n of the images, or None where they aren't known.
        outputs: logits of its seeds, in one part or more; see :meth:`logits`.
        groups: ``(n,)`` int64, equal for examples that aren't independent; None: all are.
        slices: columns by whose values metrics are reported as well: codes ``(n,)`` and names of the
            values.
        tuned: what the task set on held-out examples for later metrics, ``(S, …)``: of tags ``thresholds
            (S, K)``, probabilities.
    """

    labels: NDArray[Any]
    predicted: Any
    top5: NDArray[np.bool_] | None = None
    names: Sequence[str] | None = None
    outputs: Sequence[Logits | StoredLogits] = ()
    groups: NDArray[np.int64] | None = None
    slices: Mapping[str, tuple[NDArray[np.int64], Sequence[str]]] = field(default_factory=dict)
    tuned: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Any, labels: NDArray[Any]) -> Self:
        """Of what the task recorded (`tasks.records.Arrays`)."""
        outputs = [Logits.of(record)] if record.logits is not None else []
        return cls(labels, record.predicted, record.top5, outputs=outputs)

    def tuned_to(self, found: Mapping[str, NDArray[Any]]) -> Self:
        """The same, with the same values for every seed of what was set on held-out examples."""
        if not found:
            return self
        arrays = (one for one in (self.predicted, *(o.read().values for o in self.outputs)))
        seeds = next(len(one) for one in arrays if one is not None)
        tuned = {name: np.stack([values] * seeds) for name, values in found.items()}
        return replace(self, tuned=tuned)

    @property
    def record(self) -> "Recorded":
        """What the task recorded, with its fields as attributes, for the metrics."""
        return Recorded(self)

    @classmethod
    def joined(cls, parts: "Sequence[Predictions]") -> Self:
        """One of several on the same images, whose seeds follow each other."""
        first, predicted = parts[0], [p.predicted for p in parts if p.predicted is not None]
        top5 = [part.top5 for part in parts if part.top5 is not None]
        every = all(part.outputs for part in parts)
        return cls(
            first.labels,
            np.concatenate(predicted) if predicted else None,
            np.concatenate(top5) if top5 else None,
            first.names,
            [logits for part in parts for logits in part.outputs] if every else [],
            first.groups,
            first.slices,
            {
                name: np.concatenate([part.tuned[name] for part in parts])
                for name in first.tuned
                if all(name in part.tuned for part in parts)
            },
        )

    def rows(self, rows: NDArray[np.bool_]) -> "Predictions":
        """Those of some examples, ``(n,)``; their logits are read."""
        logits = self.logits()
        return Predictions(
            self.labels[rows],
            None if self.predicted is None else self.predicted[:, rows],
            None if self.top5 is None else self.top5[:, rows],
            None
            if self.names is None
            else [self.names[row] for row in np.flatnonzero(rows).tolist()],
            [] if logits is None else [logits.rows(rows)],
            None if self.groups is None else self.groups[rows],
            {name: (codes[rows], values) for name, (codes, values) in self.slices.items()},
            self.tuned,
        )

    def logits(self) -> Logits | None:
        """What the probe gave for each image; None in older files.

        Raises:
            IceprobeError: if their file can't be read any more.
        """
        parts = [one.read() for one in self.outputs]
        if len(parts) < 2:
            return parts[0] if parts else None
        tensors = [one.tensors() for one in parts]
        return Logits(*(np.concatenate([one[name] for one in tensors]) for name in tensors[0]))

    def __post_init__(self) -> None:
        n, found = len(self.labels), self.predicted
        if found is not None and (found.ndim != self.labels.ndim + 1 or found.shape[1] != n):
            raise ValueError(f"predicted {found.shape} doesn't fit {n} labels")
        if self.top5 is not None and (found is None or self.top5.shape != found.shape):
            raise ValueError(f"top5 {self.top5.shape} and predicted {found and found.shape} differ")
        if self.names is not None and len(self.names) != n:
            raise ValueError(f"{len(self.names)} names don't fit {n} labels")

    @property
    def correct(self) -> NDArray[np.bool_]:
        """``(S, n)``: whether each seed was right on each image, of classification."""
        found: NDArray[np.bool_] = self.predicted == self.labels
        return found


class Recorded:
    """The fields of a task's record (`tasks/records.py`), read when they are asked for; None if missing."""

    def __init__(self, predictions: Predictions):
        self.predicted, self.top5 = predictions.predicted, predictions.top5
        self._read, self._tuned = predictions.logits, predictions.tuned

    @cached_property
    def _logits(self) -> Logits | None:
        return self._read()

    @property
    def logits(self) -> NDArray[Any] | None:
        return None if self._logits is None else self._logits.values

    @property
    def logit_classes(self) -> NDArray[Any] | None:
        return None if self._logits is None else self._logits.classes

    @property
    def log_sum_exp(self) -> NDArray[Any] | None:
        return None if self._logits is None else self._logits.log_sum_exp

    def __getattr__(self, name: str) -> NDArray[Any] | None:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._tuned.get(name)


def write_predictions(path: str | Path, predictions: Mapping[str, Predictions]) -> None:
    """Write the predictions of all probes of a run (label → predictions), atomically.

    Raises:
        IceprobeError: if the probes weren't tested on the same images.
    """
    tensors: dict[str, list[Part]] = {}

    def add(name: str, array: NDArray[Any], load: Callable[[], NDArray[Any]] | None = None) -> None:
        part = Part(array.dtype, array.shape, load or (lambda: array))
        tensors.setdefault(name, []).append(part)

    every = [np.asarray(one.labels) for one in predictions.values()]
    for probe, one, labels in zip(predictions, predictions.values(), every, strict=True):
        if not same_targets(every[0], labels):
            raise IceprobeError(
                f"probe {probe!r} was tested on other images than the rest: "
                "write its predictions to another run"
            )
        if one.predicted is not None:
            narrow = np.float32 if one.predicted.dtype.kind == "f" else np.int32
            add(f"{probe}/predicted", np.asarray(one.predicted, narrow))
        if one.top5 is not None:
            add(f"{probe}/top5", np.asarray(one.top5, dtype=np.bool_))
        for name, values in one.tuned.items():
            add(f"{probe}/{name}", np.asarray(values, np.float64))
        for logits in one.outputs:
            for name, array in logits.read().tensors().items():
                add(f"{probe}/{name}", array, partial(_tensor, logits, name))
    if every:
        whole = every[0].ndim == 1
        add("labels", every[0].astype(np.int64) if whole else every[0])
        first = next(iter(predictions.values()))
        if first.groups is not None:
            add("group", np.asarray(first.groups, np.int64))
        for name, (codes, _) in first.slices.items():
            add(f"column.{name}", np.asarray(codes, np.int64))
        if first.slices:
            add("values", _as_bytes({name: list(v) for name, (_, v) in first.slices.items()}))
    named = [one.names for one in predictions.values() if one.names is not None]
    if named:
        add("names", _as_bytes(list(named[-1])))
    # In the library's own order, wide numbers first: so each tensor is aligned.
    order = list(_CODES)
    tensors = dict(sorted(tensors.items(), key=lambda t: (order.index(t[1][0].dtype.name), t[0])))
    parts = itertools.chain.from_iterable(tensors.values())
    buffers = (np.ascontiguousarray(part.load()).data for part in parts)
    write_atomically(Path(path), itertools.chain([_header(tensors)], buffers))


def same_targets(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether the targets are the same; those that aren't known are."""
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _as_bytes(value: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json_bytes(json.dumps(value, ensure_ascii=False)), np.uint8)


class Part(NamedTuple):
    """A part of a tensor, which is loaded when it is written."""

    dtype: np.dtype
    shape: tuple[int, ...]
    load: Callable[[], NDArray[Any]]


def _tensor(logits: Logits | StoredLogits, name: str) -> NDArray[Any]:
    return logits.read().tensors()[name]


def _header(tensors: Mapping[str, Sequence[Part]]) -> bytes:
    """Of a safetensors file of these, whose parts follow each other along the first axis.

    The library's own ``save`` wants all of them in memory, joined.
    """
    entries, offset = {}, 0
    for name, parts in tensors.items():
        begin, first = offset, parts[0]
        shape = [sum(part.shape[0] for part in parts), *first.shape[1:]]
        offset += first.dtype.itemsize * math.prod(shape)
        code = _CODES[first.dtype.name]
        entries[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, offset]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_predictions(
    path: str | Path, probe: str, digest: Digest | None = None, *, fresh: bool = False
) -> Predictions:
    """Read the predictions of one probe.

    Args:
        digest: of the file, as ``results.json`` has it.
        fresh: whether this process has just written the file, which then isn't checked.

    Raises:
        IceprobeError: if the file is missing, isn't what was written, or doesn't hold this probe.
    """
    path = Path(path)
    try:
        if not fresh:
            check_file(
                path, digest, "put it back as it was, or fit the run again into another folder"
            )
        with safe_open(path, framework="numpy") as file:
            keys = set(file.keys())
            known = {f"{probe}/predicted", f"{probe}/logits"} & keys
            if not known or "labels" not in keys:
                raise IceprobeError(f"{path} holds no predictions of {probe!r}: fit it again")
            top5 = file.get_tensor(f"{probe}/top5") if f"{probe}/top5" in keys else None
            read = file.get_tensor
            labels, groups = read("labels"), read("group") if "group" in keys else None
            predicted = read(f"{probe}/predicted") if f"{probe}/predicted" in keys else None
            names = json.loads(read("names").tobytes()) if "names" in keys else None
            values = json.loads(read("values").tobytes()) if "values" in keys else {}
            others = [key.removeprefix(f"{probe}/") for key in keys if key.startswith(f"{probe}/")]
            tuned = {n: read(f"{probe}/{n}") for n in {*others} - {*LOGITS, "predicted", "top5"}}
            slices = {name: (read(f"column.{name}"), mine) for name, mine in values.items()}
        outputs = [StoredLogits(path, probe)] if f"{probe}/logits" in keys else []
    except FileNotFoundError:
        raise IceprobeError(f"predictions {path} are missing: fit the run again") from None
    except (SafetensorError, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise IceprobeError(f"predictions {path} can't be read ({error}): fit again") from error
    return Predictions(labels, predicted, top5, names, outputs, groups, slices, tuned)
