"""What every probe of a run predicted on the reported split: ``predictions.safetensors``.

The file holds ``labels (n)`` int64 once, and for each probe ``LABEL/predicted (S, n)`` int32 and,
with more than five classes, ``LABEL/top5 (S, n)`` bool: whether the true class was among the five
with the highest scores. Images are in the order of the store's split. Their ``names`` (bytes of a JSON list,
uint8) are there if the data set was, and not in older files. Paired statistics and the report's pictures
read the file.

``LABEL/logits (S, n, C)`` float16 are kept for metrics that are computed later; of more than 2,000
classes those of the 20 best, ``LABEL/logits (S, n, 20)``, with their classes ``LABEL/logit_classes`` int32
and ``LABEL/log_sum_exp (S, n)`` float32 over all classes. Those of k-NN are the logarithms of the votes, −∞
for a class without one. ``predicted`` and ``top5`` are of the unrounded logits. Older files have no logits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from iceprobe.core.checksums import Digest, check_file
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import json_bytes
from iceprobe.machine.files import write_atomically

LOGITS = ("logits", "logit_classes", "log_sum_exp")


@dataclass(frozen=True)
class Logits:
    """The outputs of one probe, one row a seed."""

    values: NDArray[np.float16]  # (S, n, C), or (S, n, 20) of the 20 best classes, best first
    classes: NDArray[np.int32] | None = None  # (S, n, 20), of which classes; None: all, in order
    log_sum_exp: NDArray[np.float32] | None = (
        None  # (S, n), ln Σ exp over all classes; None likewise
    )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """By their names in the file, without the probe's."""
        found = zip(LOGITS, (self.values, self.classes, self.log_sum_exp), strict=True)
        return {name: array for name, array in found if array is not None}


@dataclass(frozen=True)
class StoredLogits:
    """Logits that stay in their file until they are asked for."""

    path: Path
    probe: str

    def read(self) -> Logits:
        """The logits.

        Raises:
            IceprobeError: if the file can't be read.
        """
        try:
            with safe_open(self.path, framework="numpy") as file:
                keys, names = set(file.keys()), [f"{self.probe}/{name}" for name in LOGITS]
                values, *others = (file.get_tensor(n) if n in keys else None for n in names)
                assert values is not None
        except (SafetensorError, OSError) as error:
            message = f"predictions {self.path} can't be read ({error}): fit again"
            raise IceprobeError(message) from error
        return Logits(values, *others)


@dataclass(frozen=True)
class Predictions:
    """Predictions of one probe, one row a seed.

    Attributes:
        labels: ``(n,)`` int64, the true classes.
        predicted: ``(S, n)`` int32.
        top5: ``(S, n)`` bool, or None with five classes or fewer.
        names: n of the images, or None where they aren't known.
        outputs: logits in memory or in a file; see :meth:`logits`.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int32]
    top5: NDArray[np.bool_] | None = None
    names: Sequence[str] | None = None
    outputs: Logits | StoredLogits | None = None

    @classmethod
    def of(cls, record: Any, labels: NDArray[np.int64]) -> Self:
        """Of what the task recorded (`tasks.records.Arrays`)."""
        logits = None
        if record.logits is not None:
            logits = Logits(record.logits, record.logit_classes, record.log_sum_exp)
        return cls(labels, record.predicted, record.top5, outputs=logits)

    @classmethod
    def joined(cls, parts: "Sequence[Predictions]") -> Self:
        """One of several on the same images, whose seeds follow each other."""
        predicted = np.concatenate([part.predicted for part in parts])
        top5 = [part.top5 for part in parts if part.top5 is not None]
        outputs = [logits.tensors() for part in parts if (logits := part.logits()) is not None]
        logits = None
        if len(outputs) == len(parts):
            every = {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}
            logits = Logits(*(every.get(name) for name in LOGITS))  # type: ignore[arg-type]
        ranked = np.concatenate(top5) if top5 else None
        return cls(parts[0].labels, predicted, ranked, parts[0].names, logits)

    def logits(self) -> Logits | None:
        """The probe's logits, read from the file if need be; None in older files.

        Raises:
            IceprobeError: if the file can't be read any more.
        """
        return self.outputs.read() if isinstance(self.outputs, StoredLogits) else self.outputs

    def __post_init__(self) -> None:
        n = len(self.labels)
        if self.predicted.ndim != 2 or self.predicted.shape[1] != n:
            raise ValueError(f"predicted {self.predicted.shape} doesn't fit {n} labels")
        if self.top5 is not None and self.top5.shape != self.predicted.shape:
            raise ValueError(f"top5 {self.top5.shape} and predicted {self.predicted.shape} differ")
        if self.names is not None and len(self.names) != n:
            raise ValueError(f"{len(self.names)} names don't fit {n} labels")

    @property
    def correct(self) -> NDArray[np.bool_]:
        """``(S, n)``: whether each seed was right on each image."""
        return self.predicted == self.labels


def write_predictions(path: str | Path, predictions: Mapping[str, Predictions]) -> None:
    """Write the predictions of all probes of a run (label → predictions), atomically.

    Raises:
        IceprobeError: if the probes weren't tested on the same images.
    """
    tensors: dict[str, np.ndarray] = {}
    for probe, one in predictions.items():
        labels = np.ascontiguousarray(one.labels, dtype=np.int64)
        if not np.array_equal(tensors.setdefault("labels", labels), labels):
            raise IceprobeError(
                f"probe {probe!r} was tested on other images than the rest: "
                "write its predictions to another run"
            )
        tensors[f"{probe}/predicted"] = np.ascontiguousarray(one.predicted, dtype=np.int32)
        if one.top5 is not None:
            tensors[f"{probe}/top5"] = np.ascontiguousarray(one.top5, dtype=np.bool_)
        if (logits := one.logits()) is not None:
            tensors |= {
                f"{probe}/{name}": np.ascontiguousarray(array)
                for name, array in logits.tensors().items()
            }
        if one.names is not None:
            text = json_bytes(json.dumps(list(one.names), ensure_ascii=False))
            tensors["names"] = np.frombuffer(text, dtype=np.uint8)
    write_atomically(Path(path), save(tensors))


def read_predictions(path: str | Path, probe: str, digest: Digest | None = None) -> Predictions:
    """Read the predictions of one probe; logits stay in the file until they are asked for.

    Args:
        digest: of the file, as ``results.json`` has it.

    Raises:
        IceprobeError: if the file is missing, isn't what was written, or doesn't hold this probe.
    """
    path = Path(path)
    try:
        check_file(path, digest, "put it back as it was, or fit the run again into another folder")
        with safe_open(path, framework="numpy") as file:
            keys = set(file.keys())
            if not {"labels", f"{probe}/predicted"} <= keys:
                raise IceprobeError(f"{path} holds no predictions of {probe!r}: fit it again")
            top5 = file.get_tensor(f"{probe}/top5") if f"{probe}/top5" in keys else None
            labels, predicted = file.get_tensor("labels"), file.get_tensor(f"{probe}/predicted")
            names = json.loads(file.get_tensor("names").tobytes()) if "names" in keys else None
    except FileNotFoundError:
        raise IceprobeError(f"predictions {path} are missing: fit the run again") from None
    except (SafetensorError, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise IceprobeError(f"predictions {path} can't be read ({error}): fit again") from error
    outputs = StoredLogits(path, probe) if f"{probe}/logits" in keys else None
    return Predictions(labels, predicted, top5, names, outputs)
