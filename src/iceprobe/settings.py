"""Every option, once.

A field of a model is a Python argument, a ``--flag``, a key of the YAML file, a line of help and a line of
``config.yaml``. Its annotation is its type, its :class:`Option` the rest. Models are composed of the same
parts; which functions and commands take an option follows from the models that have it.

    Fitting, Extraction, Live, Adaptation, Segmentation, Prediction, OtherSet …    settings
    FitCall, ProbeCall, ExtractCall, …                  and what else a call from Python takes
    Run, StoreRun, ExtractRun, AdaptRun, …              and what else a command takes

No torch here: ``iceprobe --help`` reads this file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from iceprobe.core.options import Option, Settings
from iceprobe.core.quantities import parse_bytes, parse_count, parse_numbers
from iceprobe.core.specs import MOST, names_features
from iceprobe.machine.object_storage import located

WHAT, HOW, WHERE = "What", "How", "Where and with what"
PAPER, FIGURE = "On paper", "A figure for a paper"
ON_PAPER = "on paper"  # in place of a data set
SHARD_IMAGES = 1024


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


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

# A folder, or a URL of object storage as pathlib keeps it (`located` knows it again).
Place = Annotated[Path, PlainSerializer(lambda place: str(located(place)), when_used="json")]
# The same, or the spec of tokens in files, `features:FILE`.
Tokens = Annotated[
    Path | str,
    BeforeValidator(lambda one: str(one) if names_features(one) else Path(one)),
    PlainSerializer(
        lambda one: one if isinstance(one, str) else str(located(one)), when_used="json"
    ),
]
Specs = Annotated[list[str], BeforeValidator(_one_or_several), Field(min_length=1)]
Tests = Annotated[list[str], BeforeValidator(_one_or_several)]
Shots = Annotated[list[From1], BeforeValidator(parse_numbers), Field(min_length=1)]
Shares = Annotated[list[Share], BeforeValidator(parse_numbers), Field(min_length=1)]


def _resource(help: str) -> Option:
    """An option about time, memory or place, which can't change a number."""
    return Option(help, WHERE, changes_numbers=False)


# Options of several models.
_DEVICE = Option("cpu, cuda, cuda:1 … (cuda where there is one).", WHERE)
_PROTOCOL = Option("heldout (default), paper (iceprobe ls protocols).")
_TASK = Option("Task (the targets'; iceprobe ls tasks).", implicit=True)
_METRIC = Option("Metric that selects and leads (the task's; iceprobe ls metrics).", implicit=True)
_CLASS_WEIGHT = Option(
    "Classes in the loss: none (alike) or balanced (rare ones more).", implicit=True
)
_SPLIT = Option("The split to report (test).", None, implicit=True)
_RUN_SEED = Option("Of the held-out images and of the order of batches (0).", None, implicit=True)
_ON_ESTIMATE = Option("Called with the estimated seconds of training.", None)
_LONG = Option(
    "Begin without asking, even if it takes more than a day.", changes_numbers=False, flag="--long"
)
_DATA = Option("Spec of labelled images; repeat for more (iceprobe ls datasets).", WHAT)
_FEATURES = _resource("Folder or s3:// URL of the feature stores (features).")

# --- extraction -------------------------------------------------------------------------------


class Forward(Settings):
    """How a frozen backbone is run over images."""

    EARLIER: ClassVar = {"amp": "forward_dtype", "batch_size": "forward_batch_size"}

    limit: Annotated[From1 | None, Option("Take only this many images of each split.", WHAT)] = None
    forward_batch_size: Annotated[From1, Option("Images per pass of the backbone (64).")] = 64
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
    workers: Annotated[From0, _resource("Processes that read images (0: threads).")] = 0


class Views(Storing):
    """Stored tokens with augmented views of the training images beside them."""

    views: Annotated[
        From0, Option("Augmented views to store per training image (0).", implicit=True)
    ] = 0
    augmentation: Annotated[
        Strength | None, Option("Augmentation of those views: paper (default), light, clip.")
    ] = None
    engine: Annotated[Engine, _resource("local (default) or ray (tasks on a cluster).")] = "local"


class Extraction(Views):
    """What is stored of a backbone's tokens: ``iceprobe.extract``."""

    patches: Annotated[bool, Option("Store patch tokens, or only class token and mean.")] = True
    splits: Annotated[list[str] | None, Option("Names of the splits to read (all).", None)] = None
    shard_images: Annotated[From1, Option("Images per shard (1024).", None)] = SHARD_IMAGES


class Live(Forward):
    """Tokens that the backbone computes whenever they are read: ``iceprobe.live``."""

    augmentation: Annotated[
        Strength | None,
        Option("Of training images, new in each epoch: paper, light, clip, or None."),
    ] = "paper"
    tokens: Annotated[Dtype, Option("Dtype of the tokens.")] = "float32"
    splits: Annotated[list[str] | None, Option("Names of the splits to read (all).", None)] = None


class GivenTokens(Settings):
    """What tokens of your own are: ``iceprobe.from_tokens``.

    Where an option is of examples, it is a value an example by split: ``{"train": […], "test": […]}``.
    """

    name: Annotated[str, Option("Name of the data in tables (given).", None)] = "given"
    backbone: Annotated[str, Option("What made the tokens, in tables (tokens).", None)] = "tokens"
    task: Annotated[
        str | None, Option("classification, multilabel or regression (as y says).", None)
    ] = None
    metric: Annotated[
        str | None, Option("Metric that leads (the task's; iceprobe ls metrics).", None)
    ] = None
    classes: Annotated[
        list[str] | None, Option("Names of the classes, tags or numbers, in their order.", None)
    ] = None
    units: Annotated[list[str] | None, Option("Of each number, such as kg.", None)] = None
    names: Annotated[
        Any,
        Option("Of examples. Results of other tokens of the same names can be compared.", None),
    ] = None
    groups: Annotated[Any, Option("Of examples: those of a group aren't independent.", None)] = None
    folds: Annotated[Any, Option("Of examples.", None)] = None
    slices: Annotated[
        Any, Option("Columns to report by, such as site, each with a value an example.", None)
    ] = None
    prefix: Annotated[
        Any, Option("Class token, then registers, (n, P, D) by split (none).", None)
    ] = None
    has_class: Annotated[
        bool, Option("Whether the first prefix token is a class token (true).", None)
    ] = True
    grid: Annotated[
        tuple[int, ...] | None,
        Option("Rows and columns of the tokens, after time, for maps (none).", None),
    ] = None
    coords: Annotated[
        Any,
        Option("Where each token lies, (N_i, k) an example by split: down, right (none).", None),
    ] = None
    parts: Annotated[
        From1,
        Option(
            "Equal parts of an example's tokens, clips of a video: probes of tokens read each by itself, "
            "and their outputs are averaged (1).",
            None,
        ),
    ] = 1


# --- fits -------------------------------------------------------------------------------------


class Fitting(Settings):
    """How probes are fitted, on stored or live tokens: ``iceprobe.fit``."""

    EARLIER: ClassVar = {"amp": "fit_dtype"}

    task: Annotated[str | None, _TASK] = None
    metric: Annotated[str | None, _METRIC] = None
    groups: Annotated[
        str | None,
        Option(
            "Column whose equal values are examples that aren't independent (the data's group=).",
            flag="--group",
            implicit=True,
        ),
    ] = None
    class_weight: Annotated[Literal["none", "balanced"], _CLASS_WEIGHT] = "none"
    budget: Annotated[
        Count | None, Option("Add the EPs with at most this many parameters: 200k, 1.5M.", WHAT)
    ] = None
    budget_flops: Annotated[
        Count | None, Option("Add the EPs with at most this many FLOPs per image: 5M.", WHAT)
    ] = None
    protocol: Annotated[str, _PROTOCOL] = "heldout"
    folds: Annotated[
        From2 | None,
        Option("Folds of train to draw, each tested once (5, or the data's fold=).", implicit=True),
    ] = None
    shots: Annotated[
        From1 | None, Option("Train on this many images per class, one seeded draw per replicate.")
    ] = None
    fraction: Annotated[
        Share | None, Option("Train on this fraction of each class, drawn likewise.")
    ] = None
    seeds: Annotated[From1 | None, Option("Seeds of the initialisation alone (3).")] = None
    replicates: Annotated[
        From1 | None, Option("Complete repetitions, not seeds (5 of two or more trained probes).")
    ] = None
    epochs: Annotated[From1 | None, Option("Passes over training images (the protocol's).")] = None
    batch_size: Annotated[From2 | None, Option("Images per training step (the protocol's).")] = None
    learning_rates: Annotated[
        Rates | None,
        Option("Grid of every probe, such as 1e-3,1e-2 (each kind's own, extended at its ends)."),
    ] = None
    weight_decays: Annotated[
        Decays | None, Option("Grid, such as 0,1e-4 (0; large probes also 0.1; linear probes: λ).")
    ] = None
    min_steps: Annotated[
        From0 | None,
        Option("Minimum steps of a fit, reached by more epochs (400; 0 if --epochs is given)."),
    ] = None
    halving: Annotated[
        bool, Option("Stop settings early that are clearly worse on held-out images (off).")
    ] = False
    coordinates: Annotated[
        Literal["standardised", "raw"] | None,
        Option("Coordinates of the tokens in training: standardised or raw (the protocol's)."),
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
        _resource("Memory budget of a fit for tokens and what is computed from them: 8GB, 500MB …"),
    ] = None
    max_tokens: Annotated[
        From1 | None,
        _resource("Tokens in memory at once; a step on more of them takes parts (256 MB of them)."),
    ] = None
    draw_tokens: Annotated[
        From1 | None,
        Option(
            "Tokens of each training image or bag that a step reads, drawn anew in each (all).",
            implicit=True,
        ),
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
        str | None, Option("Command to record in the results (this process's own).", None)
    ] = None


class Folder(Settings):
    """The run folder, of everything that writes one."""

    output: Annotated[Path | None, _resource("Run folder (runs/ and a readable name).")] = None


class LogCall(Settings):
    """Loggers of a call from Python."""

    log: Annotated[
        Any,
        Option(
            "tensorboard, wandb, mlflow, trackio (docs/logging.md) or a callable; or a list of them.",
            None,
            changes_numbers=False,
        ),
    ] = None


class Logged(Settings):
    """Loggers of a command."""

    log: Annotated[
        Tests,
        Option(
            "Log curves and results there too: tensorboard, wandb …; repeat for more (iceprobe ls loggers).",
            WHERE,
            changes_numbers=False,
            implicit=True,
        ),
    ] = []


class FitCall(Fitting, Folder, Call, LogCall):
    """All that ``iceprobe.fit`` takes besides store and probes."""

    resume: Annotated[bool, Option("Continue an interrupted fit of this folder.", None)] = True


class KnnCall(Call):
    """All that ``iceprobe.knn`` takes besides store and probe."""

    EARLIER: ClassVar = {"seed": "run_seed"}

    protocol: Annotated[str, _PROTOCOL] = "heldout"
    task: Annotated[str | None, _TASK] = None
    metric: Annotated[str | None, _METRIC] = None
    split: Annotated[str, _SPLIT] = "test"
    run_seed: Annotated[From0, _RUN_SEED] = 0
    device: Annotated[Device | None, Option("Of the products (cpu).", WHERE)] = None


class ProbeCall(Fitting, Call):
    """All that ``iceprobe.probe`` takes besides model, data and probes."""

    EARLIER: ClassVar = {}

    seeds: Annotated[From1 | None, Option("Seeds of the initialisation (1).")] = 1
    limit: Annotated[From1 | None, Option("Images of each split to read.", None)] = None
    forward_dtype: Annotated[
        Dtype, Option("Dtype of the backbone's forward pass (float32).", None)
    ] = "float32"
    tokens: Annotated[TokenDtype, Option("Dtype of tokens in memory (float16).", None)] = "float16"
    amp: Annotated[Dtype | None, Option("Earlier name of both dtypes.", None)] = None

    @model_validator(mode="before")
    @classmethod
    def _both(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("amp") is None:
            return values
        both = {"forward_dtype": values["amp"], "fit_dtype": values["amp"]}
        return both | {key: value for key, value in values.items() if key != "amp"}


class LookCall(ProbeCall):
    """What a look during training takes besides when it is taken (`iceprobe.integrations`)."""

    processes: Annotated[
        Literal["first", "all"],
        Option("Processes that make tokens: the first, or all, each its part (first).", None),
    ] = "first"
    whole: Annotated[
        Callable[[], Any] | None,
        Option("Makes the module anew, to gather weights in pieces into.", None),
    ] = None

    keep: Annotated[
        int | str,
        BeforeValidator(parse_bytes),
        Field(ge=0, lt=2**63),
        Option("Memory for decoded images, kept between looks (2GB); 0: none.", None),
    ] = 2 * 10**9
    metrics: Annotated[
        Literal["leading", "all"], Option("Metrics that are logged: leading (default), all.", None)
    ] = "leading"
    on_error: Annotated[
        Literal["log", "raise"],
        Option("When a look fails: log and train on, or raise (log).", None),
    ] = "log"


class ExtractCall(Extraction):
    """All that ``iceprobe.extract`` takes besides backbone, data and place."""

    progress: Annotated[Any, Option("As in fit.", None)] = None


class ExtractPlan(Extraction):
    """All that ``iceprobe.plan`` takes besides backbone, data and place."""

    measure_seconds: Annotated[float, Option("Seconds to measure the pipeline for.", None)] = 3.0
    images_per_second: Annotated[
        Positive | None, Option("Rate of another machine, in place of a measurement.", None)
    ] = None


class FitPlanning(Fitting):
    """All that ``iceprobe.plan_fit`` takes besides backbone, data and probes."""

    EARLIER: ClassVar = {"amp": "fit_dtype", "root": "features"}

    num_classes: Annotated[From1 | None, Option("Classes, without a data set.", None)] = None
    limit: Annotated[From1 | None, Option("Images of each split.", None)] = None
    tokens: Annotated[TokenDtype, Option("Dtype of stored tokens.", None)] = "float16"
    views: Annotated[From0, Option("Augmented views stored of each training image.", None)] = 0
    features: Annotated[Path, Option("Folder of the feature stores.", None)] = Path("features/")
    measure_seconds: Annotated[
        float, Option("Seconds to measure training steps for, about.", None)
    ] = 3.0
    here: Annotated[
        bool, Option("Whether the fit will run on this machine and must fit into its memory.", None)
    ] = True
    bytes_per_second: Annotated[Positive | None, Option("Read rate of the disk.", None)] = None
    flops_per_second: Annotated[
        Positive | None, Option("Rate of a training step, in place of a measurement.", None)
    ] = None


# --- adaptation, segmentation, prediction, analysis ----------------------------------------------


class Adaptation(Settings):
    """How backbones are adapted: ``iceprobe.adapt``. Every step costs a pass through the backbone."""

    EARLIER: ClassVar = {"amp": "forward_dtype"}

    limit: Annotated[From1 | None, Option("Take only this many images of each split.", WHAT)] = None
    metric: Annotated[str | None, _METRIC] = None
    class_weight: Annotated[Literal["none", "balanced"], _CLASS_WEIGHT] = "none"
    seeds: Annotated[From1, Option("Seeds of the initialisation alone (3).")] = 3
    epochs: Annotated[From1, Option("Passes over the training images (20).")] = 20
    batch_size: Annotated[From2, Option("Images per training step (64).")] = 64
    learning_rates: Annotated[
        Rates | None,
        Option("The grid (1e-3,3e-3,1e-2) of the probe; the backbone's is lr_scale times it."),
    ] = None
    weight_decays: Annotated[Decays | None, Option("The grid (0); vectors get none.")] = None
    augmentation: Annotated[
        Strength | None, Option("Of training images, new in each epoch: paper, light, clip (none).")
    ] = None
    forward_dtype: Annotated[
        Literal["float32", "bfloat16"],
        Option("Dtype of the forward pass: float32 (default), bfloat16."),
    ] = "float32"
    checkpointing: Annotated[
        bool,
        Option("Recompute blocks in backward: less memory, 1/3 more time.", changes_numbers=False),
    ] = False
    accumulate: Annotated[
        From1,
        Option("Micro-batches per step; gradients are the whole batch's.", changes_numbers=False),
    ] = 1
    device: Annotated[Device | None, _DEVICE] = None
    memory: Annotated[
        Bytes | None, _resource("Memory budget for decoded images; training needs more on top.")
    ] = None
    split: Annotated[str, _SPLIT] = "test"
    run_seed: Annotated[From0, _RUN_SEED] = 0


class Segmentation(Settings):
    """How dense probes are fitted: ``iceprobe.segment``. An image has hundreds of patches."""

    seeds: Annotated[From1, Option("Seeds of the initialisation alone (3).")] = 3
    epochs: Annotated[From1, Option("Passes over the training images (10).")] = 10
    batch_size: Annotated[From2, Option("Images per training step (64).")] = 64
    learning_rates: Annotated[Rates, Option("The grid (1e-2,3e-2,1e-1,3e-1).")] = [
        1e-2, 3e-2, 1e-1, 3e-1
    ]  # fmt: skip
    device: Annotated[Device | None, _DEVICE] = None
    memory: Annotated[
        Bytes | None, _resource("Memory budget for tokens and maps; training needs more on top.")
    ] = None
    split: Annotated[str, _SPLIT] = "test"
    run_seed: Annotated[From0, _RUN_SEED] = 0


class AdaptCall(Adaptation, Folder, Call, LogCall):
    """All that ``iceprobe.adapt`` takes besides backbone, data, adaptations and probes."""

    EARLIER: ClassVar = {**Adaptation.EARLIER, "tell": "on_estimate"}

    resume: Annotated[
        bool, Option("Keep the trainings that an interrupted run of this folder finished.", None)
    ] = True
    on_estimate: Annotated[Any, _ON_ESTIMATE] = None


class SegmentCall(Segmentation, Folder, Call, LogCall):
    """All that ``iceprobe.segment`` takes besides store and probes."""

    EARLIER: ClassVar = {"tell": "on_estimate"}

    on_estimate: Annotated[Any, _ON_ESTIMATE] = None


class Prediction(Settings):
    """How an exported probe is run on images or other examples: ``iceprobe.exporting.predict``."""

    EARLIER: ClassVar = {"amp": "forward_dtype", "batch_size": "forward_batch_size"}

    maps: Annotated[
        Path | None, Option("A new folder for pictures of the attention maps, one per image.")
    ] = None
    top: Annotated[
        From1 | None, Option("Classes per row, best first (5), or tags (a column for each of all).")
    ] = None
    forward_batch_size: Annotated[From1, Option("Images per pass of the backbone (64).")] = 64
    device: Annotated[Device | None, _DEVICE] = None
    forward_dtype: Annotated[
        Dtype | None, Option("Dtype of the backbone's forward pass (the features' of its run).")
    ] = None
    workers: Annotated[From0, Option("Processes that read images (0: threads).", WHERE)] = 0
    on_bad_image: Annotated[Policy, Option("fail (default), or skip and leave it out.")] = "fail"


class PredictCall(Prediction):
    """All that ``iceprobe.exporting.predict`` takes besides model, images and table."""

    progress: Annotated[Any, Option("As in fit.", None)] = None


class Publishing(Settings):
    """What of a run is published, and how: ``iceprobe.publish``."""

    probe: Annotated[
        str | None, Option("hub: which probe of the run (the best that was trained).", WHAT)
    ] = None
    seed: Annotated[int, Option("hub: which of its seeds (0).", WHAT)] = 0
    backbone_weights: Annotated[
        bool | None,
        Option("hub: send the backbone's weights too (only where its spec can't load them)."),
    ] = None
    license: Annotated[
        str | None, Option("hub: licence of the repository, such as apache-2.0 (none is stated).")
    ] = None
    report: Annotated[
        bool, Option("hub: send the report too, which can show test images (yes).")
    ] = True
    public: Annotated[bool, Option("hub: make a new repository public (private).")] = False
    update: Annotated[bool, Option("Replace what is there.")] = False
    dry_run: Annotated[bool, Option("Show every file and send nothing.")] = False
    keep_paths: Annotated[
        bool, Option("Publish paths of this machine (only their last names).")
    ] = False


class PublishCall(Publishing):
    """All that ``iceprobe.publish`` takes besides the run and its destination."""

    trust: Annotated[
        bool, Option("Whether code and hosts that the run's files name are trusted.", None)
    ] = False


class Analysis(Settings):
    """How attention maps are measured: ``iceprobe.analyze``."""

    thresholds: Annotated[From1, Option("Thresholds of MaxBoxAccV2 (100).")] = 100
    draws: Annotated[From1, Option("Draws of the bootstrap over images (2,000).", None)] = 2000
    batch_size: Annotated[From1, Option("Images per batch (64).", None)] = 64
    background: Annotated[
        bool, Option("Measure the accuracy lost with another background.", flag="--background")
    ] = False
    heads: Annotated[bool, Option("Add the backbone's attention heads.", flag="--heads")] = False
    attention: Annotated[
        Path | None,
        Option("A new folder for the weights of each test bag, with its tokens' coordinates."),
    ] = None
    device: Annotated[Device | None, _DEVICE] = None


class Measuring(Settings):
    """What is measured of stores without labels: ``iceprobe.measure``."""

    measures: Annotated[
        list[str] | None,
        Option(
            "A measure; repeat for more (all that the stores allow; iceprobe ls measures).",
            WHAT,
            flag="--measure",
        ),
    ] = None
    input: Annotated[
        str | None,
        Option("class, mean, pooled, class+mean …, or patches (what linear probes read).", WHAT),
    ] = None
    split: Annotated[str, Option("The split to measure (train).", WHAT)] = "train"
    limit: Annotated[
        From2 | None, Option("Take only this many examples, drawn by a seed.", WHAT)
    ] = None
    tokens_per_example: Annotated[
        From1, Option("Patch tokens to take of an example, drawn by a seed (16).")
    ] = 16
    pairs: Annotated[
        Count, Option("Most pairs of uniformity, above which vectors are drawn by a seed (20M).")
    ] = 20_000_000
    run_seed: Annotated[From0, Option("Of those draws (0).", None)] = 0
    batch_size: Annotated[From1, Option("Examples per block (1024).", None)] = 1024


class MeasureCall(Measuring):
    """All that ``iceprobe.measure`` takes besides stores."""

    progress: Annotated[Any, Option("As in fit.", None)] = None


class AnalyzeCall(Analysis, Folder):
    """All that ``iceprobe.analyze`` takes besides results."""

    trust: Annotated[
        bool, Option("Whether to run code and connect to hosts that the files name.", None)
    ] = False
    progress: Annotated[Any, Option("As in fit.", None)] = None


class OtherSet(Settings):
    """How a fitted run is read on another data set: ``iceprobe.test``."""

    split: Annotated[str, Option("The split of that data set to read (test).", WHAT)] = "test"
    name: Annotated[
        str | None, Option("Name of the test in the run folder (the data set's).", WHAT)
    ] = None
    limit: Annotated[From1 | None, Option("Take only this many of its images.", WHAT)] = None
    features: Annotated[
        Place | None, _resource("Folder or s3:// URL of feature stores (where the run's store is).")
    ] = None
    device: Annotated[Device | None, _DEVICE] = None
    on_bad_image: Annotated[
        Policy, Option("fail (default), or skip and count it in the result.")
    ] = "fail"
    workers: Annotated[From0, _resource("Processes that read images (0: threads).")] = 0


class OtherSetCall(OtherSet, Call):
    """All that ``iceprobe.test`` takes besides run and data set."""

    backbone: Annotated[
        Any, Option("The backbone of the run, if its spec doesn't load it.", None)
    ] = None
    trust: Annotated[
        bool, Option("Whether to run code and connect to hosts that the files name.", None)
    ] = False


# --- commands: what else each takes, and the keys of its config.yaml ---------------------------


class OneSource(Settings):
    """One backbone on one data set."""

    backbone: Annotated[str, Option("Spec of the frozen model (iceprobe ls backbones).", WHAT)]
    data: Annotated[str, Option("Spec of the labelled images (iceprobe ls datasets).", WHAT)]


class FitRun(Logged, Fitting, Folder):
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
    test: Annotated[
        Tests,
        Option(
            "NAME=SPEC of another data set to read the fitted probes on; repeat for more.",
            WHAT,
            changes_numbers=False,
            implicit=True,
        ),
    ] = []
    long: Annotated[bool, _LONG] = False


class StoreRun(FitRun):
    """``iceprobe fit`` and ``knn``, on an existing feature store or on tokens in files."""

    store: Tokens


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


class AdaptRun(Logged, Adaptation, OneSource, Folder):
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


class SegmentRun(Logged, Segmentation, Storing, OneSource, Folder):
    """``iceprobe segment``."""

    EARLIER: ClassVar = {"amp": "forward_dtype"}

    probe: Annotated[
        Specs, Option("linear, or EP by its queries, ep8; repeat for more (both).", WHAT)
    ] = ["linear", "ep8"]
    long: Annotated[bool, _LONG] = False
    features: Annotated[Place, _FEATURES] = Path("features")


class PredictRun(Prediction):
    """``iceprobe predict``."""

    EARLIER: ClassVar = {**Prediction.EARLIER, "images": "examples"}

    examples: Annotated[
        Path,
        Option(
            "A folder with images, videos or recordings at any depth; of bags with a folder a bag.",
            WHAT,
        ),
    ]
    output: Annotated[Path, Option("The table (predictions.csv).", WHAT)] = Path("predictions.csv")


class OtherSetRun(OtherSet):
    """``iceprobe test``."""

    data: Annotated[Specs, _DATA]


class MeasureRun(Measuring):
    """``iceprobe measure``."""

    output: Annotated[
        Path | None, Option("Write what was measured to a .json or .csv file.", WHERE)
    ] = None
    figure: Annotated[
        Path | None,
        Option("Draw what probes scored against each measure: .svg, .pdf or .png.", FIGURE),
    ] = None


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
    evidence: Annotated[
        str | None,
        Option("Add evidence of patches for true, predicted or a class, tag, number.", FIGURE),
    ] = None
