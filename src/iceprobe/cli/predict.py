"""``iceprobe predict``: an exported probe on a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

from iceprobe.cli.config import resolve
from iceprobe.cli.console import Bars, console
from iceprobe.cli.paths import check_file, check_writable
from iceprobe.cli.signature import Given, Trust, options
from iceprobe.core.options import part_of
from iceprobe.settings import Prediction, PredictRun


@options(PredictRun)
def predict(
    given: Given,
    folder: Annotated[Path, typer.Argument(help="What `iceprobe export` wrote.")],
    trust: Trust = False,
) -> None:
    """Classify every image below a folder, and draw where the probe looked.

    The table is CSV: file, class, probability, then the next classes with theirs.

    \b
    Examples:
      iceprobe predict models/birds --images /data/unsorted
      iceprobe predict models/birds --images /data/unsorted --output birds.csv --maps maps
      iceprobe predict models/birds --images /data/unsorted --top 1 --on-bad-image skip
    """
    config = resolve(PredictRun, given)
    check_file(config.output, "--output")
    if config.maps is not None:
        check_writable(config.maps, "--maps")
    from iceprobe.exporting import load_probe
    from iceprobe.exporting import predict as classify

    with Bars() as progress:
        done = classify(
            load_probe(folder, trust=trust),
            config.images,
            config.output,
            part_of(config, Prediction),
            progress=progress,
        )
    if config.maps is not None:
        tiles = ", ".join(["the image", *done.maps])
        console.print(f"{config.maps.resolve()}: {tiles}", markup=False, soft_wrap=True)
    console.print(str(config.output.resolve()), markup=False, soft_wrap=True)
