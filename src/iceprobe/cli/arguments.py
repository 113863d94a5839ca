"""Arguments of commands: a configuration file and keys that override it, and names of probes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from iceprobe.adaptation import adaptation_label
from iceprobe.cli.config import resolve
from iceprobe.cli.signature import Given
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import Settings
from iceprobe.core.specs import parse_spec, unknown
from iceprobe.probes import PROBES, parse_probe, probe_label
from iceprobe.results import FittedResult

C = TypeVar("C", bound=Settings)


def resolve_arguments(schema: type[C], given: Given, arguments: Sequence[str] | None) -> C:
    """The configuration of a command whose first argument may be a file and others override keys."""
    file, overrides = None, arguments or []
    if overrides and (is_config(overrides[0]) or "=" not in overrides[0]):
        file, overrides = Path(overrides[0]), overrides[1:]
    return resolve(schema, given, file, overrides)


def is_config(argument: str) -> bool:
    """Whether it is the name of a configuration file."""
    return argument.endswith((".yaml", ".yml"))


def named_result(results: Sequence[FittedResult], probe: str) -> FittedResult:
    """The result of the probe that ``probe`` names, in any spelling of its options.

    Raises:
        IceprobeError: if there is no such probe, or the run has no result of it, or several.
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
    """The label of a probe, or of an adaptation with its probe."""
    adaptation, plus, probe = name.partition("+")
    if parse_spec(adaptation.strip() or name).name.rstrip("0123456789") in PROBES:
        plus = ""  # of an input: linear?input=class+mean
    label = probe_label(parse_probe((probe if plus else name).strip()))
    return f"{adaptation_label(adaptation.strip())} + {label}" if plus else label
