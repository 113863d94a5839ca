"""What ``run`` and ``plan`` make of their command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from iceprobe.cli.config import RunConfig

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.YAML KEY=VALUE...", help="A file, and keys that override what it says."
    ),
]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's local variables, those that are keys of the configuration."""
    return {key: value for key, value in values.items() if key in RunConfig.model_fields}


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """A configuration file, if the first argument names one, and the overrides."""
    if arguments and (arguments[0].endswith((".yaml", ".yml")) or "=" not in arguments[0]):
        return Path(arguments[0]), arguments[1:]
    return None, arguments
