"""What every probe of a run predicted on the reported split: ``predictions.safetensors``.

The file holds ``labels (n)`` int64 once, and for each probe ``LABEL/predicted (S, n)`` int32 and,
with more than five classes, ``LABEL/top5 (S, n)`` bool: whether the true class was among the five
with the highest scores. Images stand in the order of the store's split; ``names`` (bytes of a JSON
list, uint8) has theirs where the data set was at hand, and is absent from older files. Statistics that pair two
probes, and the report's pictures, read it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from iceprobe.core.checksums import Digest, check_file
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import json_bytes
from iceprobe.machine.files import write_atomically


@dataclass(frozen=True)
class Predictions:
    """Predictions of one probe, one row a seed.

    Attributes:
        labels: ``(n,)`` int64, the true classes.
        predicted: ``(S, n)`` int32.
        top5: ``(S, n)`` bool, or None with five classes or fewer.
        names: n of the images, or None where they aren't known.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int32]
    top5: NDArray[np.bool_] | None = None
    names: Sequence[str] | None = None

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
        if one.names is not None:
            text = json_bytes(json.dumps(list(one.names), ensure_ascii=False))
            tensors["names"] = np.frombuffer(text, dtype=np.uint8)
    write_atomically(Path(path), save(tensors))


def read_predictions(path: str | Path, probe: str, digest: Digest | None = None) -> Predictions:
    """Read the predictions of one probe.

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
    return Predictions(labels, predicted, top5, names)
