"""``iceprobe predict``: an exported probe on a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

from iceprobe.cli import options
from iceprobe.cli.config import PredictConfig, resolve
from iceprobe.cli.console import Bars, console
from iceprobe.cli.paths import check_file, check_writable


def predict(
    folder: Annotated[Path, typer.Argument(help="What `iceprobe export` wrote.")],
    images: Annotated[Path, typer.Option(help="A folder with images at any depth.")],
    output: Annotated[
        Path | None, typer.Option(help="The table (predictions.csv).", show_default=False)
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            help="A new folder for pictures of where the probe looked, one an image.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="Classes a row, best first (5).", show_default=False)
    ] = None,
    batch_size: options.ExtractBatchSize = None,
    device: options.Device = None,
    amp: Annotated[
        str | None,
        typer.Option(
            help="Dtype of the backbone's forward pass (the features' of its run).",
            show_default=False,
        ),
    ] = None,
    workers: options.Workers = None,
    on_bad_image: Annotated[
        str | None,
        typer.Option(help="fail (default), or skip and leave it out.", show_default=False),
    ] = None,
    trust: options.Trust = False,
) -> None:
    """Classify every image below a folder, and draw where the probe looked.

    The table is CSV: file, class, probability, then the next classes with theirs.

    \b
    Examples:
      iceprobe predict models/birds --images /data/unsorted
      iceprobe predict models/birds --images /data/unsorted --output birds.csv --maps maps
      iceprobe predict models/birds --images /data/unsorted --top 1 --on-bad-image skip
    """
    values = {key: value for key, value in locals().items() if key in PredictConfig.model_fields}
    config = resolve(PredictConfig, values)
    check_file(config.output, "--output")
    if config.maps is not None:
        check_writable(config.maps, "--maps")
    from iceprobe.exporting import load_probe
    from iceprobe.exporting import predict as classify

    settings = config.model_dump(exclude={"images", "output"})
    with Bars() as progress:
        done = classify(
            load_probe(folder, trust=trust),
            config.images,
            config.output,
            progress=progress,
            **settings,
        )
    if config.maps is not None:
        tiles = ", ".join(["the image", *done.maps])
        console.print(f"{config.maps.resolve()}: {tiles}", markup=False, soft_wrap=True)
    console.print(str(config.output.resolve()), markup=False, soft_wrap=True)
