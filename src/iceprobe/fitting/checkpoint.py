"""The state of a fit, in one file that is replaced whole: ``RUN/state-0.safetensors``."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from iceprobe.core.checksums import check_tensors, tensors_digest
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.shuffling import ROWS, Shuffle
from iceprobe.machine.processes import world


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint."""

    tensors: dict[str, Tensor]  # of the phase under way
    phase: dict[str, Any]  # description of the phase under way
    before: list[dict[str, Any]]  # descriptions of the phases finished before it
    shuffle: Shuffle = ROWS  # order of its epochs, kept whatever memory is free when it goes on


class Checkpoint:
    """Saves and restores tensors with a JSON description beside them.

    Of several processes the first one saves, and all restore.

    Args:
        path: of the file; ``None`` keeps nothing (a fit in memory).
        fingerprint: of everything that changes the fit's outcome; another one is refused.
    """

    def __init__(self, path: Path | None, fingerprint: str):
        self.path, self.fingerprint = path, fingerprint

    def save(self, saved: Saved) -> None:
        """Replace the file by ``saved``.

        Raises:
            IceprobeError: if it can't be written; the file before stays.
        """
        if self.path is None or not world().main:
            return
        if not self.path.parent.is_dir():
            raise IceprobeError(
                f"{self.path.parent} was removed while the fit was at work: run the same again"
            )
        temporary = self.path.with_suffix(".tmp")
        description = {
            "fingerprint": self.fingerprint,
            "phase": saved.phase,
            "before": saved.before,
            "shuffle": asdict(saved.shuffle),
        }
        contiguous = {name: tensor.contiguous() for name, tensor in saved.tensors.items()}
        try:
            text = json.dumps(description)
            metadata = {"iceprobe": text, "sha256": tensors_digest(contiguous, text)}
            save_file(contiguous, temporary, metadata=metadata)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except (SafetensorError, OSError) as error:
            temporary.unlink(missing_ok=True)
            raise IceprobeError(
                f"{self.path} can't be written ({' '.join(str(error).split())}): make room and run "
                "the same again, it goes on from what was saved before"
            ) from error

    def load(self) -> Saved | None:
        """The last saved state, or ``None`` without any.

        Raises:
            IceprobeError: if the file belongs to another fit, or can't be read.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                meta = json.loads(metadata["iceprobe"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise IceprobeError(
                f"{self.path} can't be read ({type(error).__name__}): remove it to start over"
            ) from error
        check_tensors(self.path, tensors, metadata, "iceprobe", "remove it to start over")
        if meta["fingerprint"] != self.fingerprint:
            raise IceprobeError(
                f"{self.path} is the state of a fit with other settings: give another --output, "
                "or remove the file to start over"
            )
        return Saved(tensors, meta["phase"], meta["before"], Shuffle(**meta["shuffle"]))
