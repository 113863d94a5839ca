"""``iceprobe test``: a fitted run on another data set."""

from pathlib import Path
from typing import Annotated

import typer

import iceprobe
from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars
from iceprobe.cli.other_sets import tell_tests
from iceprobe.cli.paths import check_features
from iceprobe.cli.signature import Given, Trust, options
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import part_of
from iceprobe.settings import OtherSet, OtherSetRun


@options(OtherSetRun)
def test(
    given: Given,
    run: Annotated[Path, typer.Argument(help="A run folder, also of a campaign.")],
    trust: Trust = False,  # noqa: PT028
) -> None:
    """Read a fitted run on another data set; no fit is repeated.

    Classes are matched by name, whatever their order. Of a set with only some of the run's classes, such as
    imagenet-a, there are two figures: with all logits, and masked, with the logits of its classes alone. The
    records and scores are written to tests/NAME in the run folder, whose results.json is like a run's: report
    and compare read it.

    \b
    Examples:
      iceprobe test runs/imagenet --data imagenet-v2?root=/data
      iceprobe test runs/imagenet --data imagenet-a?root=/data --data objectnet?root=/data
      iceprobe test runs/birds --data folder:/data/other-hospital?test_fraction=1 --name other
      iceprobe test runs/scans --data "table:other.csv?target=tags&separator=;&test_fraction=1"
      iceprobe test runs/birds --data features/mae--other-0123456789ab
    """
    config = resolve(OtherSetRun, given)
    if config.name is not None and len(config.data) > 1:
        raise IceprobeError(f"--name {config.name} is for one --data: {len(config.data)} are given")
    if config.features is not None:
        check_features(config.features, "--features")
    cells = sorted(path.parent for path in run.glob("cells/*/results.json"))
    with Bars() as progress:
        for cell in cells or [run]:
            for data in config.data:
                settings = part_of(config, OtherSet)
                iceprobe.test(cell, data, settings, trust=trust, progress=progress)
    tell_tests(run)
