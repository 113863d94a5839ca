"""What commands make of their arguments: a file or a store, and keys that override."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iceprobe.adaptation import adaptation_label
from iceprobe.cli.config import RunConfig
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.probes import parse_probe, probe_label

if TYPE_CHECKING:
    from iceprobe.results import FittedResult

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.YAML KEY=VALUE...", help="A file, and keys that override what it says."
    ),
]
StoreArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STORE|CONFIG.YAML KEY=VALUE...",
        help="A feature store that `iceprobe extract` made, or a file that names one as its "
        "store; then keys that override.",
    ),
]


def given(values: Mapping[str, Any], schema: type[RunConfig] = RunConfig) -> dict[str, Any]:
    """Of a command's local variables, those that are keys of the configuration."""
    return {key: value for key, value in values.items() if key in schema.model_fields}


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """A configuration file, if the first argument names one, and the overrides."""
    if arguments and (is_config(arguments[0]) or "=" not in arguments[0]):
        return Path(arguments[0]), arguments[1:]
    return None, arguments


def is_config(argument: str) -> bool:
    """Whether it is the name of a configuration file."""
    return argument.endswith((".yaml", ".yml"))


def named_result(results: Sequence["FittedResult"], probe: str) -> "FittedResult":
    """The result of a run that ``probe`` names, however it is spelled.

    Raises:
        IceprobeError: if there is no such probe, the run hasn't it (with those it has), or has
            it several times.
    """
    labels = {result.label for result in results}
    label = probe if probe in labels else _canonical(probe)
    found = [result for result in results if result.label == label]
    if not found:
        raise IceprobeError(unknown("probe of the run", probe, labels))
    if len(found) > 1:
        raise IceprobeError(
            f"the run is a campaign with {len(found)} results of {label}: name the folder of one "
            f"of its runs, {found[0].run}/cells/…"
        )
    return found[0]


def _canonical(name: str) -> str:
    """The label of a probe, or of one on an adapted backbone."""
    adaptation, plus, probe = name.partition("+")
    label = probe_label(parse_probe((probe if plus else name).strip()))
    return f"{adaptation_label(adaptation.strip())} + {label}" if plus else label
