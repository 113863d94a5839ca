"""``iceprobe knn``: training-free classification on a feature store."""

from typing import Annotated

import typer

from iceprobe.cli.config import resolve
from iceprobe.cli.fit import execute
from iceprobe.cli.signature import Given, options
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.probes.registry import VECTORS
from iceprobe.settings import StoreRun


@options(StoreRun, only=("output", "protocol", "device", "log"))
def knn(
    given: Given,
    store: Annotated[
        str,
        typer.Argument(help="A feature store that `iceprobe extract` made, or features:FILE."),
    ],
    input: Annotated[
        str | None,
        typer.Option(
            help="class, mean, pooled, class_projected or class+mean (the class token where there is "
            "one)."
        ),
    ] = None,
) -> None:
    """Classify the test images of a feature store by their nearest training images.

    It is `fit` with this one probe; `iceprobe fit runs/NAME/config.yaml` reads what it saved.

    \b
    Examples:
      iceprobe knn features/mae-tiny--fashion-0123456789ab
      iceprobe knn features/mae-tiny--fashion-0123456789ab --input mean --protocol paper
    """
    if input is not None and not set(input.split("+")) <= set(VECTORS):
        raise IceprobeError(unknown("--input", input, VECTORS))
    probe = "knn" if input is None else f"knn?input={input}"
    execute(resolve(StoreRun, {"store": store, "probe": [probe], **given}))
