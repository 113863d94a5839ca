"""``iceprobe export``: a fitted probe with its backbone as one folder."""

from pathlib import Path
from typing import Annotated

import typer

import iceprobe
from iceprobe.cli.arguments import named_result
from iceprobe.cli.console import at_work, say
from iceprobe.cli.paths import check_writable
from iceprobe.cli.signature import Trust
from iceprobe.core.errors import IceprobeError
from iceprobe.results import FittedResult, read_results


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    probe: Annotated[
        str | None,
        typer.Option(help="Which probe of the run (optional if only one was trained)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which of its seeds.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="A new folder (exported/ in the run, and the probe's name).")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            help="folder: weights, for iceprobe.load_probe and iceprobe predict. onnx: model.onnx, "
            "normalised images to logits or values."
        ),
    ] = "folder",
    backbone_weights: Annotated[
        bool, typer.Option(help="Include the backbone's weights, or only its spec.")
    ] = True,
    trust: Trust = False,
) -> None:
    """Write a fitted probe with its backbone to a folder that works by itself.

    \b
    Examples:
      iceprobe export runs/demo --probe ep12
      iceprobe export runs/demo --probe ep12 --seed 1 --output models/clutter
      iceprobe export runs/demo --probe ep12 --format onnx --output models/clutter-onnx
    """
    results = read_results(run)
    result = _only_trained(results, run) if probe is None else named_result(results, probe)
    place = output or run / "exported" / _name(result, seed, format)
    check_writable(place, "--output")
    with at_work("exporting"):
        iceprobe.export(
            result, place, seed=seed, format=format, backbone_weights=backbone_weights, trust=trust
        )
    say(place.resolve())


def _only_trained(results: list[FittedResult], run: Path) -> FittedResult:
    trained = [result for result in results if result.method == "trained"]
    if len(trained) != 1:
        names = ", ".join(result.label for result in trained) or "none that was trained"
        raise IceprobeError(f"no --probe given, and {str(run)!r} has {names}: give --probe NAME")
    return trained[0]


def _name(result: FittedResult, seed: int, format: str) -> str:
    """``ep12-seed0``, as its file in the run folder."""
    files = dict(zip(result.seeds, result.files.probes, strict=False))
    stem = Path(files.get(seed, "probe")).stem
    return stem if format == "folder" else f"{stem}-{format}"
