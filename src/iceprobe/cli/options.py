"""Options that several commands share: one spelling, one help text.

Their defaults are None: the configuration knows the default, and a value given on the command
line can be told from one that wasn't.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

_WHAT, _HOW, _WHERE = "What", "How", "Where and with what"
_PAPER = "On paper"


def _option(name: str, text: str, panel: str, **kwargs: Any) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel, show_default=False, **kwargs)


Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Let code and other hosts that the folder's own files name be used: they are yours.",
    ),
]
Backbone = Annotated[
    str | None,
    _option("--backbone", "Spec of the frozen model (iceprobe ls backbones).", _WHAT),
]
Backbones = Annotated[
    list[str] | None,
    _option(
        "--backbone", "Spec of the frozen model; repeat for more (iceprobe ls backbones).", _WHAT
    ),
]
Layers = Annotated[
    str | None, _option("--layers", "Read these layers, 0,5,11 or all: a fit each.", _WHAT)
]
Data = Annotated[
    str | None, _option("--data", "Spec of the labelled images (iceprobe ls datasets).", _WHAT)
]
Datasets = Annotated[
    list[str] | None,
    _option("--data", "Spec of labelled images; repeat for more (iceprobe ls datasets).", _WHAT),
]
Probe = Annotated[
    list[str] | None,
    _option("--probe", "A probe; repeat for more (knn, linear and ep32 if none).", _WHAT),
]
Budget = Annotated[
    str | None,
    _option("--budget", "Add the EPs that stay within these parameters: 200k, 1.5M.", _WHAT),
]
BudgetFlops = Annotated[
    str | None,
    _option("--budget-flops", "Add the EPs that stay within these FLOPs an image: 5M.", _WHAT),
]
Limit = Annotated[
    int | None, _option("--limit", "Take only this many images of each split.", _WHAT)
]

Protocol = Annotated[
    str | None, _option("--protocol", "heldout (default) or paper (iceprobe ls protocols).", _HOW)
]
Shots = Annotated[
    str | None,
    _option("--shots", "Learn from this many images a class, 1,5,10: a fit each.", _HOW),
]
Fraction = Annotated[
    str | None,
    _option("--fraction", "Learn from this part of train, 0.01,0.1: a fit each.", _HOW),
]
Replicates = Annotated[
    int | None,
    _option(
        "--replicates", "Complete repetitions, not seeds (5 of two or more trained probes).", _HOW
    ),
]
Seeds = Annotated[int | None, _option("--seeds", "Seeds of the initialisation alone (3).", _HOW)]
Epochs = Annotated[
    int | None, _option("--epochs", "Passes over the training images (the protocol's).", _HOW)
]
BatchSize = Annotated[
    int | None, _option("--batch-size", "Images a training step (the protocol's).", _HOW)
]
LearningRates = Annotated[
    str | None,
    _option(
        "--learning-rates",
        "The grid of every probe, such as 1e-3,1e-2 (each kind's own, which grows).",
        _HOW,
    ),
]
WeightDecays = Annotated[
    str | None,
    _option(
        "--weight-decays",
        "The grid, such as 0,1e-4 (0; large probes 0.1 too; λ of linear ones).",
        _HOW,
    ),
]
MinSteps = Annotated[
    int | None,
    _option(
        "--min-steps",
        "Steps a fit takes at least: epochs are raised to it (400; 0 where --epochs is given).",
        _HOW,
    ),
]
Halving = Annotated[
    bool | None,
    _option(
        "--halving/--no-halving",
        "Stop settings early that held-out images show clearly beaten (off).",
        _HOW,
    ),
]
Coordinates = Annotated[
    str | None,
    _option(
        "--coordinates",
        "In which probes learn: standardised, or raw tokens as they are (the protocol's).",
        _HOW,
    ),
]
Long = Annotated[
    bool | None,
    _option("--long", "Begin what will take more than a day, and don't ask.", _HOW),
]
ForwardBatchSize = Annotated[
    int | None,
    _option("--forward-batch-size", "Images a forward pass of the backbone (64).", _HOW),
]
ExtractBatchSize = Annotated[
    int | None, _option("--batch-size", "Images a forward pass of the backbone (64).", _HOW)
]
Amp = Annotated[
    str | None,
    _option("--amp", "Dtype of the forward pass: float32 (default), bfloat16, float16.", _HOW),
]
Tokens = Annotated[
    str | None,
    _option(
        "--tokens", "Dtype of stored tokens: float16 (default), bfloat16, float32, int8.", _HOW
    ),
]
Views = Annotated[
    int | None,
    _option("--views", "Augmented views stored of each training image, to learn from (0).", _HOW),
]
Augmentation = Annotated[
    str | None,
    _option(
        "--augmentation",
        "Of those views, or live: paper (default), light, clip, or live none.",
        _HOW,
    ),
]
Live = Annotated[
    bool | None,
    _option(
        "--live/--cached",
        "Store no tokens: run the backbone in every epoch, on images augmented anew (cached).",
        _HOW,
    ),
]
OnBadImage = Annotated[
    str | None,
    _option("--on-bad-image", "fail (default), or skip and count it in the result.", _HOW),
]

Output = Annotated[
    Path | None, _option("--output", "Run folder (runs/ and a readable name).", _WHERE)
]
Features = Annotated[
    Path | None,
    _option("--features", "Folder or s3:// URL of the feature stores (features).", _WHERE),
]
Device = Annotated[
    str | None, _option("--device", "cpu, cuda, cuda:1 … (cuda where there is one).", _WHERE)
]
Memory = Annotated[
    str | None,
    _option(
        "--memory",
        "Budget of a fit for tokens and what is computed from them: 8GB, 500MB …",
        _WHERE,
    ),
]
Shuffle = Annotated[
    str | None,
    _option("--shuffle", "Order of streamed training images: auto (default), rows, blocks.", _HOW),
]
Engine = Annotated[
    str | None,
    _option("--engine", "local (default), or ray: tasks on a Ray cluster.", _WHERE),
]
Workers = Annotated[
    int | None, _option("--workers", "Processes that read images (0: threads).", _WHERE)
]
Images = Annotated[
    str | None,
    _option("--images", "Training images, 1.28M, in place of --data; with --classes.", _PAPER),
]
Classes = Annotated[str | None, _option("--classes", "Classes of those images.", _PAPER)]
DeviceImagesPerSecond = Annotated[
    str | None,
    _option("--device-images-per-second", "What the backbone reaches on its device.", _PAPER),
]
DeviceTflops = Annotated[
    str | None,
    _option("--device-tflops", "What a step of the probes reaches there, TFLOP/s.", _PAPER),
]
DiskGbPerSecond = Annotated[
    str | None, _option("--disk-gb-per-second", "What its disk reads.", _PAPER)
]
DollarsPerHour = Annotated[
    str | None, _option("--dollars-per-hour", "Price of that device, for the cost.", _PAPER)
]
DollarsPerTbMonth = Annotated[
    str | None, _option("--dollars-per-tb-month", "Price of a stored terabyte.", _PAPER)
]
Resume = Annotated[
    bool,
    typer.Option(
        help="Go on where a killed run stopped, or begin it again.", rich_help_panel=_WHERE
    ),
]

# Of `adapt`, where every step costs a pass through the backbone, so that defaults are its own.
Adapt = Annotated[
    list[str] | None,
    _option(
        "--adapt",
        "none, lora?rank=8, bitfit …; repeat for more (none and lora; iceprobe ls adaptations).",
        _WHAT,
    ),
]
AdaptProbe = Annotated[
    list[str] | None, _option("--probe", "A probe on top; repeat for more (linear).", _WHAT)
]
AdaptEpochs = Annotated[
    int | None, _option("--epochs", "Passes over the training images (20).", _HOW)
]
AdaptBatchSize = Annotated[
    int | None, _option("--batch-size", "Images a training step (64).", _HOW)
]
AdaptLearningRates = Annotated[
    str | None,
    _option(
        "--learning-rates",
        "The grid (1e-3,3e-3,1e-2) of the probe; the backbone's is lr_scale times it.",
        _HOW,
    ),
]
AdaptWeightDecays = Annotated[
    str | None, _option("--weight-decays", "The grid (0); vectors get none.", _HOW)
]
AdaptAugmentation = Annotated[
    str | None,
    _option(
        "--augmentation", "Of training images, at each pass anew: paper, light, clip (none).", _HOW
    ),
]
AdaptAmp = Annotated[
    str | None, _option("--amp", "Dtype of the forward pass: float32 (default), bfloat16.", _HOW)
]
SegmentMemory = Annotated[
    str | None,
    _option("--memory", "Budget for tokens and masks held; training steps come on top.", _WHERE),
]
AdaptMemory = Annotated[
    str | None,
    _option(
        "--memory", "Budget for decoded images, read anew beyond it; training comes on top.", _WHERE
    ),
]
Checkpointing = Annotated[
    bool | None,
    _option(
        "--checkpointing/--no-checkpointing",
        "Run each block again in the backward pass: less memory, a third more time.",
        _HOW,
    ),
]
Accumulate = Annotated[
    int | None,
    _option("--accumulate", "Micro-batches a step; its gradient stays the whole batch's.", _HOW),
]

# Of `segment`, where an image has as many things to learn from as it has patches.
SegmentProbe = Annotated[
    list[str] | None,
    _option("--probe", "linear, or EP by its queries, ep8; repeat for more (both).", _WHAT),
]
SegmentEpochs = Annotated[
    int | None, _option("--epochs", "Passes over the training images (10).", _HOW)
]
SegmentBatchSize = Annotated[
    int | None, _option("--batch-size", "Images a training step (64).", _HOW)
]
SegmentLearningRates = Annotated[
    str | None, _option("--learning-rates", "The grid (1e-2,3e-2,1e-1,3e-1).", _HOW)
]
