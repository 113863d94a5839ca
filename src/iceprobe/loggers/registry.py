"""The loggers by name. Importing this imports none of their libraries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from iceprobe.core.registry import Entry, Registry
from iceprobe.core.specs import Spec, one_of, parse_spec, typed_options


def _without_password(text: str) -> str:
    """An address that may be written down."""
    if "@" in urlsplit(text).netloc:
        raise ValueError(
            "a name or password in it would be written down: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    return text


@dataclass(frozen=True)
class LoggerEntry(Entry):
    """A logger: ``target(name, **options) -> Tracker``; ``name`` is None where the spec has none.

    Attributes:
        examples: spec strings to copy.
        options: every option and the function that converts its text.
    """

    examples: tuple[str, ...] = ()
    options: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)


#: In the order in which they are started: those that may still refuse before those that write files.
LOGGERS: Registry[LoggerEntry] = Registry(
    "logger",
    {
        "wandb": LoggerEntry(
            "iceprobe.loggers.wandb_runs:WandbRun",
            "a run of Weights & Biases, in the project named (iceprobe)",
            ("wandb", "wandb:birds?name=ep-sizes", "wandb:birds?entity=lab&mode=offline"),
            {
                **dict.fromkeys(("name", "entity", "group"), str),
                "mode": one_of("online", "offline"),
            },
        ),
        "mlflow": LoggerEntry(
            "iceprobe.loggers.mlflow_runs:MlflowRun",
            "a run of MLflow, in the experiment named (iceprobe), at uri= or MLFLOW_TRACKING_URI",
            ("mlflow", "mlflow:birds?name=ep-sizes", "mlflow:birds?uri=http://tracking:5000"),
            {"name": str, "uri": _without_password},
        ),
        "trackio": LoggerEntry(
            "iceprobe.loggers.trackio_runs:TrackioRun",
            "a run of Trackio, in the project named (iceprobe)",
            ("trackio", "trackio:birds?name=ep-sizes"),
            {"name": str},
        ),
        "tensorboard": LoggerEntry(
            "iceprobe.loggers.tensorboard_files:TensorBoardFiles",
            "event files in the folder named, a folder a run (by default tensorboard/ in the run folder)",
            ("tensorboard", "tensorboard:logs?name=ep-sizes"),
            {"name": str},
        ),
    },
)


def parse_logger(text: str) -> tuple[str, Spec, dict[str, Any]]:
    """Name of the logger, the spec, and its options, converted.

    Raises:
        IceprobeError: for a logger or an option that there isn't, with the nearest ones.
    """
    spec = parse_spec(text)
    name = spec.kind or spec.name
    return name, spec, typed_options(spec, LOGGERS[name].options)
