"""The options of each command, which are the keys of its ``config.yaml`` (`settings.py`)."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from iceprobe.core.options import Option, Settings
from iceprobe.core.quantities import parse_numbers
from iceprobe.machine.object_storage import located
from iceprobe.settings import (
    WHAT,
    Adaptation,
    Analysis,
    Count,
    Extraction,
    Fitting,
    Folder,
    From0,
    From1,
    Positive,
    Prediction,
    Segmentation,
    Share,
    Storing,
    Strength,
    Views,
    resource,
)

PAPER, FIGURE = "On paper", "A figure for a paper"
ON_PAPER = "on paper"  # in place of a data set


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# A folder, or a URL of object storage as pathlib keeps it (`located` knows it again).
Place = Annotated[Path, PlainSerializer(lambda place: str(located(place)), when_used="json")]
Specs = Annotated[list[str], BeforeValidator(_one_or_several), Field(min_length=1)]
Shots = Annotated[list[From1], BeforeValidator(parse_numbers), Field(min_length=1)]
Shares = Annotated[list[Share], BeforeValidator(parse_numbers), Field(min_length=1)]

_LONG = Option(
    "Begin without asking, even if it takes more than a day.", changes_numbers=False, flag="--long"
)
_DATA = Option("Spec of labelled images; repeat for more (iceprobe ls datasets).", WHAT)
_FEATURES = resource("Folder or s3:// URL of the feature stores (features).")


class OneSource(Settings):
    """One backbone on one data set."""

    backbone: Annotated[str, Option("Spec of the frozen model (iceprobe ls backbones).", WHAT)]
    data: Annotated[str, Option("Spec of the labelled images (iceprobe ls datasets).", WHAT)]


class FitRun(Fitting, Folder):
    """A fit from the command line; several numbers of training images are a fit each."""

    EARLIER: ClassVar = {}  # the command line never had `amp` for a fit

    probe: Annotated[
        Specs, Option("A probe; repeat for more (knn, linear and ep32 if none).", WHAT)
    ] = ["knn", "linear", "ep32"]
    shots: Annotated[
        Shots | None, Option("Train on this many images per class, 1,5,10: one fit each.")
    ] = None  # type: ignore[assignment]
    fraction: Annotated[
        Shares | None, Option("Train on this fraction of train, 0.01,0.1: one fit each.")
    ] = None  # type: ignore[assignment]
    long: Annotated[bool, _LONG] = False


class StoreRun(FitRun):
    """``iceprobe fit`` and ``knn``, on an existing feature store."""

    store: Place


class Run(Views, FitRun):
    """``iceprobe run``: from images to report; several backbones, data sets or layers are a campaign."""

    EARLIER: ClassVar = {"amp": "forward_dtype"}

    backbone: Annotated[
        Specs, Option("Spec of the frozen model; repeat for more (iceprobe ls backbones).", WHAT)
    ]
    layers: Annotated[str | None, Option("Layers, 0,5,11 or all: one fit each.", WHAT)] = None
    data: Annotated[Specs, _DATA]
    live: Annotated[
        bool,
        Option(
            "Store no tokens: run the backbone in every epoch, on newly augmented images (cached).",
            flag="--live/--cached",
        ),
    ] = False
    augmentation: Annotated[
        Strength | Literal["none"] | None,
        Option("Of those views or of live images: paper (default), light, clip; live also none."),
    ] = None  # type: ignore[assignment]
    features: Annotated[Place, _FEATURES] = Path("features")


class Planning(Run):
    """``iceprobe plan``: the cost of a run, also for images or a machine that aren't there."""

    data: Annotated[Specs, _DATA] = [ON_PAPER]
    images: Annotated[
        Count | None, Option("Training images, 1.28M, in place of --data; with --classes.", PAPER)
    ] = None
    classes: Annotated[Count | None, Option("Classes of those images.", PAPER)] = None
    device_images_per_second: Annotated[
        Positive | None, Option("Rate of the backbone on that device.", PAPER)
    ] = None
    device_tflops: Annotated[
        Positive | None, Option("TFLOP/s of a training step of the probes there.", PAPER)
    ] = None
    disk_gb_per_second: Annotated[Positive | None, Option("Read rate of its disk.", PAPER)] = None
    dollars_per_hour: Annotated[Positive | None, Option("Price of that device.", PAPER)] = None
    dollars_per_tb_month: Annotated[Positive | None, Option("Price of storage.", PAPER)] = None


class ExtractRun(Extraction, OneSource):
    """``iceprobe extract``."""

    EARLIER: ClassVar = {**Extraction.EARLIER, "output": "features"}

    features: Annotated[Place, _FEATURES] = Path("features")


class AdaptRun(Adaptation, OneSource, Folder):
    """``iceprobe adapt``."""

    adapt: Annotated[
        Specs,
        Option(
            "none, lora?rank=8, bitfit …; repeat for more (none and lora; iceprobe ls adaptations).",
            WHAT,
        ),
    ] = ["none", "lora"]
    probe: Annotated[Specs, Option("A probe on top; repeat for more (linear).", WHAT)] = ["linear"]
    long: Annotated[bool, _LONG] = False


class SegmentRun(Segmentation, Storing, OneSource, Folder):
    """``iceprobe segment``."""

    EARLIER: ClassVar = {"amp": "forward_dtype"}

    probe: Annotated[
        Specs, Option("linear, or EP by its queries, ep8; repeat for more (both).", WHAT)
    ] = ["linear", "ep8"]
    long: Annotated[bool, _LONG] = False
    features: Annotated[Place, _FEATURES] = Path("features")


class PredictRun(Prediction):
    """``iceprobe predict``."""

    images: Annotated[Path, Option("A folder with images at any depth.", WHAT)]
    output: Annotated[Path, Option("The table (predictions.csv).", WHAT)] = Path("predictions.csv")


class AnalyzeRun(Analysis):
    """``iceprobe analyze``."""

    probe: Annotated[list[str] | None, Option("Probes (all with attention).", WHAT)] = None
    predictors: Annotated[From0, Option("Rows of a probe's table (16).", WHAT)] = 16
    figure: Annotated[
        Path | None, Option("Draw maps into one .pdf, .svg or .png, and measure nothing.", FIGURE)
    ] = None
    images: Annotated[From1, Option("Rows: test images (6).", FIGURE)] = 6
    column: Annotated[
        bool, Option("As wide as one column of a paper.", FIGURE, flag="--column")
    ] = False
