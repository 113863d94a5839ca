"""Files of finished trainings, so that a killed run doesn't repeat them.

``trainings/KEY.safetensors`` holds a training's curve and seconds and, for a refit, the probe's
weights and the record of the reported examples. The key is a hash of all that the outcome depends on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from iceprobe.adaptation.training import Training
from iceprobe.core.checksums import check_tensors, tensors_digest
from iceprobe.fitting.run_folder import TRAININGS
from iceprobe.machine.files import write_atomically
from iceprobe.results.curves import CurveRow

VERSION = 4  # raise it when the same task trains differently or saves something else


@dataclass(frozen=True)
class Finished:
    """Attributes:
    rows: one an epoch.
    seconds: of training and evaluation.
    counts: parameters by part.
    record: what the task recorded of the reported examples, ``(1, n, …)``; empty for a selection.
    probe: its weights; empty for a selection.
    """

    rows: list[CurveRow]
    seconds: float
    counts: dict[str, int]
    record: Mapping[str, Tensor]
    probe: Mapping[str, Tensor]


class Trainings:
    """The finished trainings of a run folder.

    Args:
        folder: of the run.
        common: what else the outcomes depend on, as JSON values.
        resume: whether to use the files of an earlier process.
    """

    def __init__(self, folder: Path, common: Mapping[str, Any], resume: bool):
        self.folder, self.common, self.resume = folder / TRAININGS, common, resume

    def load(self, task: Training) -> Finished | None:
        path = self._path(task)
        if not self.resume or not path.exists():
            return None
        try:
            with safe_open(path, "np") as file:
                metadata = file.metadata()
            tensors = load_file(path)
        except (SafetensorError, OSError):
            return None  # incomplete after a crash of the machine: train again
        remedy = "remove it and run the same again: this training is done anew"
        check_tensors(path, tensors, metadata, "training", remedy)
        about = json.loads(metadata["training"])
        rows = [CurveRow.model_validate(row) for row in about["rows"]]
        parts: dict[str, dict[str, Tensor]] = {"record": {}, "probe": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        return Finished(rows, about["seconds"], about["counts"], **parts)

    def save(self, task: Training, finished: Finished) -> None:
        about = {
            "rows": [row.model_dump() for row in finished.rows],
            "seconds": finished.seconds,
            "counts": finished.counts,
        }
        parts = {"record": finished.record, "probe": finished.probe}
        tensors = {
            f"{part}.{name}": tensor.cpu().contiguous()
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        text = json.dumps(about)
        metadata = {"training": text, "sha256": tensors_digest(tensors, text)}
        write_atomically(self._path(task), save(tensors, metadata=metadata))

    def _path(self, task: Training) -> Path:
        content = json.dumps({"version": VERSION, **asdict(task), **self.common}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.safetensors"
