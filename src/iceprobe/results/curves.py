"""``curves.csv``: every member after every epoch."""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from iceprobe.core.checksums import Digest, check_file
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import csv_cell, csv_text, utf8
from iceprobe.machine.files import write_atomically

FILE_NAME = "curves.csv"
REMEDY = "put the file back as it was, or fit the run again into another folder"


class CurveRow(BaseModel):
    """One member after one epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probe: str  # canonical label, as in Result.probe
    seed: int
    learning_rate: float
    weight_decay: float
    phase: str  # "select" (on what isn't held out) | "refit" (on all of train) | "paper"
    epoch: int  # 1 after the first pass over the data
    train_loss: float  # mean over the epoch, with its regularisation; not finite: it diverged
    eval_accuracy: float | None = None  # the primary metric on the phase's evaluation images
    fold: int = 0  # number of the held-out part, of a cross-validation

    @property
    def diverged(self) -> bool:
        """Whether the member ended here because it was no longer finite."""
        return not math.isfinite(self.train_loss)

    def is_of(self, selected: Mapping[str, Any]) -> bool:
        """Whether it is of the selected learning rate and weight decay."""
        rate, decay = selected.get("learning_rate"), selected.get("weight_decay", self.weight_decay)
        return same_setting(self.learning_rate, rate) and same_setting(self.weight_decay, decay)


def same_setting(a: float, b: object) -> bool:
    """Equal to the eight figures that curves.csv keeps; never where replicates have several."""
    return isinstance(b, int | float) and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def seed_means(
    rows: Iterable[CurveRow], worst: float | None = 0.0
) -> dict[tuple[float, float], dict[int, float]]:
    """Primary metric of each setting (learning rate, weight decay) of a probe by epoch, mean over seeds and folds.

    A member that has diverged scores ``worst`` from then on; with None it is left out. So are epochs
    without an evaluation.
    """
    values: dict[tuple[float, float], dict[int, list[float]]] = {}
    ended: dict[tuple[float, float], list[int]] = {}
    for row in rows:
        setting = (row.learning_rate, row.weight_decay)
        value = worst if row.diverged and row.eval_accuracy is None else row.eval_accuracy
        if value is not None:
            values.setdefault(setting, {}).setdefault(row.epoch, []).append(value)
        if row.diverged and worst is not None:
            ended.setdefault(setting, []).append(row.epoch)
    return {
        setting: {
            epoch: fmean(v + [worst or 0.0] * sum(end < epoch for end in ended.get(setting, [])))
            for epoch, v in epochs.items()
        }
        for setting, epochs in values.items()
    }


def write_curves(run: str | Path, rows: Iterable[CurveRow]) -> Path:
    """Write ``run/curves.csv`` atomically; returns its path."""
    names = list(CurveRow.model_fields)
    table = [names, *([_text(value) for value in row.model_dump().values()] for row in rows)]
    path = Path(run) / FILE_NAME
    write_atomically(path, utf8(csv_text(table)))
    return path


def read_curves(run: str | Path, digest: Digest | None = None) -> list[CurveRow]:
    """Read ``run/curves.csv``; an empty list where a run has none (k-NN alone).

    Args:
        digest: of the file, as ``results.json`` has it.

    Raises:
        IceprobeError: if the file isn't one of ours, or isn't what was written.
    """
    path = Path(run) / FILE_NAME
    if not path.exists():
        if digest is not None:
            raise IceprobeError(f"curves {path} are missing: {REMEDY}")
        return []
    check_file(path, digest, REMEDY)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = []
        try:
            for row in reader:
                row = {key: csv_cell(value) for key, value in row.items() if value != ""}
                rows.append(CurveRow.model_validate(row))
        except (ValidationError, UnicodeDecodeError, csv.Error) as error:
            line = reader.line_num
            raise IceprobeError(f"curves {path} can't be read, line {line}: fit again") from error
    return rows


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.8g}"
    return str(value)
