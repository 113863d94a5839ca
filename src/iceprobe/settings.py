"""Every option, once; those of commands alone are in `cli/commands.py`.

A field of a model is a Python argument, a ``--flag``, a key of the YAML file, a line of help and a line of
``config.yaml``. Its annotation is its type, its :class:`Option` the rest. Models are composed of the same
parts; which functions and commands take an option follows from the models that have it.

    Fitting, Extraction, Live, Adaptation, Segmentation, Prediction, Analysis      settings
    FitCall, ProbeCall, ExtractCall, …                  and what else a call from Python takes
    Run, StoreRun, ExtractRun, AdaptRun, …              and what else a command takes

No torch here: ``iceprobe --help`` reads this file.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from iceprobe.core.options import Option, Settings
from iceprobe.core.quantities import parse_bytes, parse_count, parse_numbers
from iceprobe.core.specs import MOST

WHAT, HOW, WHERE = "What", "How", "Where and with what"
SHARD_IMAGES = 1024

Dtype = Literal["float32", "bfloat16", "float16"]
TokenDtype = Literal["float32", "bfloat16", "float16", "int8"]
Strength = Literal["paper", "light", "clip"]  # of an augmentation
Policy = Literal["fail", "skip"]
Engine = Literal["local", "ray"]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0, lt=2**63)]
Count = Annotated[int, BeforeValidator(parse_count), Field(ge=1, lt=2**63)]
# Whole numbers with a lower bound.
From0 = Annotated[int, Field(ge=0, le=MOST)]
From1 = Annotated[int, Field(ge=1, le=MOST)]
From2 = Annotated[int, Field(ge=2, le=MOST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Device = Annotated[str, BeforeValidator(str)]  # of a torch.device too
Decay = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rates = Annotated[list[Positive], BeforeValidator(parse_numbers), Field(min_length=1)]
Decays = Annotated[list[Decay], BeforeValidator(parse_numbers), Field(min_length=1)]


def resource(help: str) -> Option:
    """An option about time, memory or place, which can't change a number."""
    return Option(help, WHERE, changes_numbers=False)


# Options of several models.
_DEVICE = Option("cpu, cuda, cuda:1 … (cuda where there is one).", WHERE)
_SPLIT = Option("The split to report (test).", None, implicit=True)
_RUN_SEED = Option("Of the held-out images and of the order of batches (0).", None, implicit=True)
_ON_ESTIMATE = Option("Called with the seconds that training will take, about.", None)

# --- extraction -------------------------------------------------------------------------------


class Forward(Settings):
    """How a frozen backbone is run over images."""

    EARLIER: ClassVar = {"amp": "forward_dtype", "batch_size": "forward_batch_size"}

    limit: Annotated[From1 | None, Option("Take only this many images of each split.", WHAT)] = None
    forward_batch_size: Annotated[From1, Option("Images a forward pass of the backbone (64).")] = 64
    forward_dtype: Annotated[
        Dtype, Option("Dtype of the forward pass: float32 (default), bfloat16, float16.")
    ] = "float32"
    device: Annotated[Device | None, _DEVICE] = None


class Storing(Forward):
    """How tokens are read and stored."""

    tokens: Annotated[
        TokenDtype, Option("Dtype of stored tokens: float16 (default), bfloat16, float32, int8.")
    ] = "float16"
    on_bad_image: Annotated[
        Policy, Option("fail (default), or skip and count it in the result.")
    ] = "fail"
    workers: Annotated[From0, resource("Processes that read images (0: threads).")] = 0


class Views(Storing):
    """Stored tokens with augmented views of the training images beside them."""

    views: Annotated[
        From0,
        Option("Augmented views stored of each training image, to learn from (0).", implicit=True),
    ] = 0
    augmentation: Annotated[
        Strength | None, Option("Of those views: paper (default), light, clip.")
    ] = None
    engine: Annotated[Engine, resource("local (default), or ray: tasks on a Ray cluster.")] = (
        "local"
    )


class Extraction(Views):
    """What is stored of a backbone's tokens: ``iceprobe.extract``."""

    patches: Annotated[bool, Option("Store patch tokens, or only class token and mean.")] = True
    splits: Annotated[list[str] | None, Option("Names of the splits to read (all).", None)] = None
    shard_images: Annotated[From1, Option("Images a shard (1024).", None)] = SHARD_IMAGES


class Live(Forward):
    """Tokens that the backbone computes whenever they are read: ``iceprobe.live``."""

    augmentation: Annotated[
        Strength | None,
        Option("Of images to learn from, anew in each epoch: paper, light, clip, or None."),
    ] = "paper"
    tokens: Annotated[Dtype, Option("Dtype in which tokens are handed on.")] = "float32"
    splits: Annotated[list[str] | None, Option("Names of the splits to read (all).", None)] = None


# --- fits -------------------------------------------------------------------------------------


class Fitting(Settings):
    """How probes are fitted, on stored or live tokens: ``iceprobe.fit``."""

    EARLIER: ClassVar = {"amp": "fit_dtype"}

    task: Annotated[str, Option("What the target is (classification).", None, implicit=True)] = (
        "classification"
    )
    budget: Annotated[
        Count | None, Option("Add the EPs that stay within these parameters: 200k, 1.5M.", WHAT)
    ] = None
    budget_flops: Annotated[
        Count | None, Option("Add the EPs that stay within these FLOPs an image: 5M.", WHAT)
    ] = None
    protocol: Annotated[str, Option("heldout (default) or paper (iceprobe ls protocols).")] = (
        "heldout"
    )
    shots: Annotated[
        From1 | None, Option("Learn from this many images a class, a seeded draw a replicate.")
    ] = None
    fraction: Annotated[Share | None, Option("Learn from this part of each class, likewise.")] = (
        None
    )
    seeds: Annotated[From1 | None, Option("Seeds of the initialisation alone (3).")] = None
    replicates: Annotated[
        From1 | None, Option("Complete repetitions, not seeds (5 of two or more trained probes).")
    ] = None
    epochs: Annotated[From1 | None, Option("Passes over the training images (the protocol's).")] = (
        None
    )
    batch_size: Annotated[From2 | None, Option("Images a training step (the protocol's).")] = None
    learning_rates: Annotated[
        Rates | None,
        Option("The grid of every probe, such as 1e-3,1e-2 (each kind's own, which grows)."),
    ] = None
    weight_decays: Annotated[
        Decays | None,
        Option("The grid, such as 0,1e-4 (0; large probes 0.1 too; λ of linear ones)."),
    ] = None
    min_steps: Annotated[
        From0 | None,
        Option(
            "Steps a fit takes at least: epochs are raised to it (400; 0 where --epochs is given)."
        ),
    ] = None
    halving: Annotated[
        bool, Option("Stop settings early that held-out images show clearly beaten (off).")
    ] = False
    coordinates: Annotated[
        Literal["standardised", "raw"] | None,
        Option("In which probes learn: standardised, or raw tokens as they are (the protocol's)."),
    ] = None
    fit_dtype: Annotated[
        Dtype,
        Option(
            "Dtype of training's products over tokens: float32 (default), bfloat16, float16.",
            implicit=True,
        ),
    ] = "float32"
    device: Annotated[Device | None, _DEVICE] = None
    memory: Annotated[
        Bytes | None,
        resource("Budget of a fit for tokens and what is computed from them: 8GB, 500MB …"),
    ] = None
    shuffle: Annotated[
        Literal["auto", "rows", "blocks"],
        Option("Order of streamed training images: auto (default), rows, blocks."),
    ] = "auto"
    split: Annotated[str, _SPLIT] = "test"
    run_seed: Annotated[From0, _RUN_SEED] = 0


class Call(Settings):
    """What a long call from Python takes besides its settings."""

    progress: Annotated[
        Any, Option("Called with (stage, done, total); False shows nothing, None a bar.", None)
    ] = None
    command: Annotated[
        str | None, Option("To be written into the results (this process's own).", None)
    ] = None


class Folder(Settings):
    """The run folder, of everything that writes one."""

    output: Annotated[Path | None, resource("Run folder (runs/ and a readable name).")] = None


class FitCall(Fitting, Folder, Call):
    """All that ``iceprobe.fit`` takes besides store and probes."""

    resume: Annotated[
        bool, Option("Go on where an interrupted fit of this folder stands.", None)
    ] = True


class ProbeCall(Fitting, Call):
    """All that ``iceprobe.probe`` takes besides model, data and probes."""

    EARLIER: ClassVar = {}

    seeds: Annotated[From1 | None, Option("Seeds of the initialisation (1).")] = 1
    limit: Annotated[From1 | None, Option("Images of each split to read.", None)] = None
    forward_dtype: Annotated[
        Dtype, Option("Dtype of the backbone's forward pass (float32).", None)
    ] = "float32"
    tokens: Annotated[TokenDtype, Option("Dtype in which tokens are held (float16).", None)] = (
        "float16"
    )
    amp: Annotated[Dtype | None, Option("Earlier: of the forward pass and of training.", None)] = (
        None
    )

    @model_validator(mode="before")
    @classmethod
    def _both(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("amp") is None:
            return values
        both = {"forward_dtype": values["amp"], "fit_dtype": values["amp"]}
        return both | {key: value for key, value in values.items() if key != "amp"}


class ExtractCall(Extraction):
    """All that ``iceprobe.extract`` takes besides backbone, data and place."""

    progress: Annotated[Any, Option("As of fit.", None)] = None


class ExtractPlan(Extraction):
    """All that ``iceprobe.plan`` takes besides backbone, data and place."""

    measure_seconds: Annotated[float, Option("How long to run the pipeline for.", None)] = 3.0
    images_per_second: Annotated[
        Positive | None, Option("Of another machine, in place of measuring this one.", None)
    ] = None


class FitPlanning(Fitting):
    """All that ``iceprobe.plan_fit`` takes besides backbone, data and probes."""

    EARLIER: ClassVar = {"amp": "fit_dtype", "root": "features"}

    num_classes: Annotated[From1 | None, Option("On paper; a data set has its own.", None)] = None
    limit: Annotated[From1 | None, Option("Images of each split.", None)] = None
    tokens: Annotated[TokenDtype, Option("Dtype in which they are stored.", None)] = "float16"
    views: Annotated[From0, Option("Augmented views stored of each training image.", None)] = 0
    features: Annotated[Path, Option("Folder of the feature stores.", None)] = Path("features/")
    measure_seconds: Annotated[
        float, Option("How long to run training steps for, about.", None)
    ] = 3.0
    here: Annotated[
        bool, Option("Whether the fit is to run on this machine, whose memory counts.", None)
    ] = True
    bytes_per_second: Annotated[Positive | None, Option("Of the disk.", None)] = None
    flops_per_second: Annotated[
        Positive | None, Option("That a step reaches, in place of running any.", None)
    ] = None


# --- adaptation, segmentation, prediction, analysis ----------------------------------------------


class Adaptation(Settings):
    """How backbones are adapted: ``iceprobe.adapt``. Every step costs a pass through the backbone."""

    EARLIER: ClassVar = {"amp": "forward_dtype"}

    limit: Annotated[From1 | None, Option("Take only this many images of each split.", WHAT)] = None
    seeds: Annotated[From1, Option("Seeds of the initialisation alone (3).")] = 3
    epochs: Annotated[From1, Option("Passes over the training images (20).")] = 20
    batch_size: Annotated[From2, Option("Images a training step (64).")] = 64
    learning_rates: Annotated[
        Rates | None,
        Option("The grid (1e-3,3e-3,1e-2) of the probe; the backbone's is lr_scale times it."),
    ] = None
    weight_decays: Annotated[Decays | None, Option("The grid (0); vectors get none.")] = None
    augmentation: Annotated[
        Strength | None, Option("Of training images, at each pass anew: paper, light, clip (none).")
    ] = None
    forward_dtype: Annotated[
        Literal["float32", "bfloat16"],
        Option("Dtype of the forward pass: float32 (default), bfloat16."),
    ] = "float32"
    checkpointing: Annotated[
        bool,
        Option(
            "Run each block again in the backward pass: less memory, a third more time.",
            changes_numbers=False,
        ),
    ] = False
    accumulate: Annotated[
        From1,
        Option(
            "Micro-batches a step; its gradient stays the whole batch's.", changes_numbers=False
        ),
    ] = 1
    device: Annotated[Device | None, _DEVICE] = None
    memory: Annotated[
        Bytes | None,
        resource("Budget for decoded images, read anew beyond it; training comes on top."),
    ] = None
    split: Annotated[str, _SPLIT] = "test"
    run_seed: Annotated[From0, _RUN_SEED] = 0


class Segmentation(Settings):
    """How segmentation probes are fitted: ``iceprobe.segment``. An image has hundreds of patches."""

    seeds: Annotated[From1, Option("Seeds of the initialisation alone (3).")] = 3
    epochs: Annotated[From1, Option("Passes over the training images (10).")] = 10
    batch_size: Annotated[From2, Option("Images a training step (64).")] = 64
    learning_rates: Annotated[Rates, Option("The grid (1e-2,3e-2,1e-1,3e-1).")] = [
        1e-2, 3e-2, 1e-1, 3e-1
    ]  # fmt: skip
    device: Annotated[Device | None, _DEVICE] = None
    memory: Annotated[
        Bytes | None, resource("Budget for tokens and masks held; training steps come on top.")
    ] = None
    split: Annotated[str, _SPLIT] = "test"
    run_seed: Annotated[From0, _RUN_SEED] = 0


class AdaptCall(Adaptation, Folder, Call):
    """All that ``iceprobe.adapt`` takes besides backbone, data, adaptations and probes."""

    EARLIER: ClassVar = {**Adaptation.EARLIER, "tell": "on_estimate"}

    resume: Annotated[
        bool, Option("Keep the trainings that an interrupted run of this folder finished.", None)
    ] = True
    on_estimate: Annotated[Any, _ON_ESTIMATE] = None


class SegmentCall(Segmentation, Folder, Call):
    """All that ``iceprobe.segment`` takes besides store and probes."""

    EARLIER: ClassVar = {"tell": "on_estimate"}

    on_estimate: Annotated[Any, _ON_ESTIMATE] = None


class Prediction(Settings):
    """How an exported probe is run on images: ``iceprobe.exporting.predict``."""

    EARLIER: ClassVar = {"amp": "forward_dtype", "batch_size": "forward_batch_size"}

    maps: Annotated[
        Path | None, Option("A new folder for pictures of where the probe looked, one an image.")
    ] = None
    top: Annotated[From1, Option("Classes a row, best first (5).")] = 5
    forward_batch_size: Annotated[From1, Option("Images a forward pass of the backbone (64).")] = 64
    device: Annotated[Device | None, _DEVICE] = None
    forward_dtype: Annotated[
        Dtype | None, Option("Dtype of the backbone's forward pass (the features' of its run).")
    ] = None
    workers: Annotated[From0, Option("Processes that read images (0: threads).", WHERE)] = 0
    on_bad_image: Annotated[Policy, Option("fail (default), or skip and leave it out.")] = "fail"


class PredictCall(Prediction):
    """All that ``iceprobe.exporting.predict`` takes besides model, images and table."""

    progress: Annotated[Any, Option("As of fit.", None)] = None


class Analysis(Settings):
    """How attention maps are measured: ``iceprobe.analyze``."""

    thresholds: Annotated[From1, Option("Thresholds of MaxBoxAccV2 (100).")] = 100
    draws: Annotated[From1, Option("Of the bootstrap over images (2,000).", None)] = 2000
    batch_size: Annotated[From1, Option("Images at a time (64).", None)] = 64
    background: Annotated[
        bool, Option("Test what is lost when all but the object is exchanged.", flag="--background")
    ] = False
    heads: Annotated[bool, Option("Add the backbone's own attention heads.", flag="--heads")] = (
        False
    )
    device: Annotated[Device | None, _DEVICE] = None


class AnalyzeCall(Analysis, Folder):
    """All that ``iceprobe.analyze`` takes besides results."""

    trust: Annotated[
        bool, Option("Whether code may run, and hosts be asked, that the files name.", None)
    ] = False
    progress: Annotated[Any, Option("As of fit.", None)] = None
