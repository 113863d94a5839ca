"""The result schema: the fields of an entry of ``results.json``.

Accuracies are fractions; times are seconds; FLOPs are 2 × multiply-adds.
"""

import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from iceprobe.core.checksums import Digest
from iceprobe.core.trust import inner_path
from iceprobe.store.format import EVALUATION_VIEW
from iceprobe.tasks.registry import get_task

if TYPE_CHECKING:
    from iceprobe.tasks.metrics import Metric

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Noun = Annotated[str, Field(pattern=r"^[^\W\d_][\w -]{0,39}$")]  # it stands in sentences
InnerPath = Annotated[str, AfterValidator(inner_path)]  # relative to the run folder


class Record(BaseModel):
    """A record that never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Score(Record):
    """One metric of one probe, over its seeds.

    Attributes:
        mean: over seeds.
        sd: sample standard deviation over seeds (n − 1); ``None`` for a single value.
        values: one a seed, in the order of `Result.seeds`.
        interval: 95%, over test images (or groups of them) and seeds (docs/protocols.md); in files of
            earlier versions a percentile bootstrap over test images.
        method: how the interval was found (`results/intervals.py`); ``"score"`` of a mean over examples.
        caveat: why the interval can't be trusted, in words; None where it can.
    """

    mean: Finite
    sd: float | None
    values: list[Finite] = Field(min_length=1)
    interval: tuple[Finite, Finite] | None = None
    method: Literal["score", "bootstrap", "jackknife", "linearised"] = "score"
    caveat: str | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, serialised: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the fields that say nothing, which earlier versions don't know."""
        usual = {"method": "score", "caveat": None}
        found: dict[str, Any] = serialised(self)
        return {k: v for k, v in found.items() if k not in usual or v != usual[k]}

    @classmethod
    def of(
        cls, values: Iterable[float], interval: tuple[float, float] | None = None, **fields: Any
    ) -> Self:
        """The score of ``values`` (one a seed): mean and sample standard deviation computed."""
        values = [float(value) for value in values]
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), sd=sd, values=values, interval=interval, **fields)


class Slice(Record):
    """One metric on the test examples that have one value of a column.

    Attributes:
        value: of the column: ``"female"``.
        images: examples that have it.
        groups: independent groups among them; None where there are no groups.
        score: on them; None where it is undefined there.
        why: there is no score, in a sentence.
    """

    value: str
    images: Count
    groups: Count | None = None
    score: Score | None = None
    why: str | None = None


class Slices(Record):
    """One metric by the values of a column.

    Attributes:
        column: its name: ``"site"``.
        metric: name of the metric.
        values: in the order of the column's values; those that no test example has are left out.
        worst: the value with the worst mean, among those whose interval can be trusted; None with fewer than
            two of these. It was picked by the scores: of equal values one is the worst.
    """

    column: str
    metric: str
    values: list[Slice]
    worst: str | None = None


class Parameters(Record):
    """Trainable parameters.

    Attributes:
        adapter: in the backbone, where it was adapted.
        pooling: of the pooling.
        classifier: of the linear classifier.
        total: their sum.
    """

    adapter: Count = 0
    pooling: Count
    classifier: Count
    total: Count


class Flops(Record):
    """2 × MACs of the whole probe at inference, matrix products only, without the backbone.

    Attributes:
        per_image: for one image.
        per_step: once a step, whatever the batch size: folding keys into queries.
    """

    per_image: Count
    per_step: Count = 0


class StoreReference(Record):
    """Which feature store the probe read.

    Attributes:
        path: its folder; ``None`` for features that were held in memory only, or of several layers.
        identity: hash of weights, preprocessing, data listing, dtypes, ….
        layers: the store of each layer, where several were read side by side.
        depth: layers of the backbone then, from which negative numbers count.
    """

    path: str | None
    identity: str
    layers: "tuple[StoreReference, ...]" = ()
    depth: int | None = None

    @model_serializer(mode="wrap")
    def _to_json(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialise(self)
        return found if self.layers else {key: found[key] for key in ("path", "identity")}


class FittedOn(Record):
    """What a run was fitted on, in a result of it that was read on another data set (``iceprobe test``).

    Attributes:
        name: of the test, its folder ``tests/NAME`` in the run folder.
        dataset: spec of the data set that the probes were fitted on.
        split: that the run itself reports.
        store: the feature store that they were fitted on.
        created: when the run's own result was made.
    """

    name: str
    dataset: str
    split: str
    store: StoreReference
    created: str = ""


class Files(Record):
    """Files of this result, relative to the run folder, with forward slashes.

    Attributes:
        probes: one safetensors file a seed, in the order of `Result.seeds`.
        predictions: safetensors shared by all results of the run.
        adapters: one folder a seed, where the backbone was adapted.
        digests: of each of these files, and of ``curves.csv``, by its name, checked when they are
            read. Earlier versions wrote none.
    """

    probes: list[InnerPath] = []
    predictions: InnerPath | None = None
    adapters: list[InnerPath] = []
    digests: dict[str, Digest] = {}

    def with_digests(self, digests: dict[str, Digest]) -> "Files":
        """The same files, with their digests."""
        return self.model_copy(update={"digests": digests})

    def moved(self, folder: str) -> "Files":
        """The same files, seen from the folder that ``folder`` is in."""
        return Files(
            probes=[f"{folder}/{name}" for name in self.probes],
            predictions=self.predictions and f"{folder}/{self.predictions}",
            adapters=self.adapters,
            digests={f"{folder}/{name}": digest for name, digest in self.digests.items()},
        )


class Diverged(Record):
    """A member whose weights were no longer finite in training, and that was dropped.

    Attributes:
        learning_rate: of the member.
        weight_decay: of the member.
        seed: of its initialisation.
        phase: ``"select"``, ``"refit"`` or ``"paper"``.
        epoch: in which it was dropped.
    """

    learning_rate: float
    weight_decay: float
    seed: int
    phase: str
    epoch: Count


class Stopped(Record):
    """A setting that was clearly beaten, and not trained any further.

    Attributes:
        learning_rate: of the setting.
        weight_decay: of the setting.
        seeds: of its members.
        epoch: the last that was trained.
    """

    learning_rate: float
    weight_decay: float
    seeds: list[int]
    epoch: Count


class EarlyStopping(Record):
    """The rule by which settings were stopped early, and those that were.

    Attributes:
        rule: in words.
        rungs: epochs of selection after which it was applied.
        stopped: settings.
    """

    rule: str
    rungs: list[int]
    stopped: list[Stopped] = []


class SelectedScore(Record):
    """The primary metric on the held-out images, by which the setting was chosen.

    Attributes:
        mean: over seeds, or over the folds that held an image out.
        images: held out.
        error: standard error over them.
        size: the number of equally weighted ones that they are worth, 1/Σ w_i²; None in earlier files.
    """

    mean: Finite
    images: Count
    error: Annotated[float, Field(ge=0)]
    size: Annotated[float, Field(gt=0)] | None = None


class Result(Record):
    """One probe on one store after selection, over its seeds.

    Attributes:
        probe: canonical label: ``"ep32"``, ``"linear?input=mean"``, ``"knn"``.
        adaptation: canonical label, ``"lora?rank=16"``; ``None`` for a frozen backbone.
        method: ``"trained"`` or ``"knn"``.
        backbone: spec: ``"bundled:mae-tiny"``.
        paradigm: how the backbone was pre-trained, where it is known.
        dataset: spec: ``"folder:/data/birds"``.
        task: what the target of an example is (`iceprobe.tasks`).
        example: what an example is called: ``"image"``, ``"clip"``, ``"recording"``, ``"bag"``.
        images: hash of the listing and rows that were tested: equal means the same images.
        protocol: ``"heldout"``, ``"folds"`` or ``"paper"``.
        split: the split that the scores were read on; ``"folds"``: all of train, out of fold.
        layer: of the backbone, from 0; ``None`` where that isn't known.
        shots: training images a class, a draw; ``None``: all.
        fraction: of each class's training images, a draw; ``None``: all.
        classes: K, the number of outputs: of classes C, of tags or of numbers.
        class_names: of the outputs, in their order; empty in results from before they were kept.
        units: of the outputs, where they are numbers with known units; ``""`` where one isn't known.
        group: name of the column whose equal values are examples that aren't independent.
        train_images: training images, before any are held out.
        test_images: images the scores are over.
        dim: D of the tokens.
        num_tokens: N, patch tokens an image; their mean where images differ, at which FLOPs are counted.
        lengths: the fewest and the most of them, where images differ.
        grid: rows and columns of the patches; of a clip after time.
        primary: name of the metric that leads: the data set's convention, or else the task's.
        metrics: name → score, in the order of tables; what each means is in `iceprobe.tasks`. Of
            classification ``top1``, ``top5`` where there are more than five classes, ``mean_per_class``.
        folds: the primary metric of each fold, in place of a seed, under ``"folds"``; `metrics` are of all
            examples together.
        last_epoch: the primary metric at the last epoch, where another was selected.
        selected: learning_rate, weight_decay and epoch, or k and temperature.
        training: optimizer, epochs, images_per_step, the grid, run_seed, dtype, ….
        training_images: what was seen of them, such as ``"4 stored views, paper augmentation"``.
        undertrained: signs that its training stopped too early (`results/undertrained.py`).
        warnings: what casts doubt on its training without taking it out of comparisons, in words
            (a learning rate at the grid's edge, …), which their sentences repeat.
        selected_on: ``"held-out 10% of train"`` or ``"the reported split (best epoch)"``,
            or how many folds.
        selected_score: its score there, at the chosen setting and epoch; ``None`` where the reported
            split selected, or nothing did.
        settings_tried: how many settings were compared.
        best_minus_median: primary metric on ``selected_on``: best setting − median one.
        early_stopping: ``None``: no setting was stopped.
        diverged: members without finite weights, in all phases; see `lost_seeds`.
        parameters: trainable parameters by part.
        flops: of the whole probe at inference.
        seconds: its share of the wall time of selection, refit and evaluation.
        seeds: of the initialisation; empty where nothing is random.
        variance: what sd is over: ``"initialisation"``, ``"replicates"`` or ``"none"``.
        store: the feature store that was read.
        environment: python, torch, timm, iceprobe, processor, platform.
        git_commit: of the checkout that iceprobe ran from, where it did.
        command: as typed, quoted for a shell.
        created: ISO 8601 with the zone.
        assumed: assumptions about backbone and images, a line each.
        identical_images: images of the reported split that are training images too, by their pooled
            tokens; also 0 where this wasn't checked (adapted backbones, live tokens, older results).
        test_of: what it was fitted on, if that is another data set than the one it was read on; `dataset`,
            `images`, `split`, `store`, `classes` and `test_images` are then of the latter.
        masked: whether only the logits of the other set's classes count; the run predicts more.
        skipped_images: left out by ``--on-bad-image skip``.
        files: its files in the run folder.
    """

    probe: str
    adaptation: str | None = None
    method: Literal["trained", "knn"]
    backbone: str
    paradigm: str | None = None
    dataset: str
    task: str = "classification"
    example: Noun = "image"
    images: str = ""
    protocol: str
    split: str = "test"
    layer: int | None = None
    shots: int | None = None
    fraction: float | None = None
    classes: Annotated[int, Field(ge=1)]
    class_names: list[str] = []
    units: list[str] = []
    group: str | None = None
    train_images: Count | None = None
    test_images: Count | None = None
    dim: Annotated[int, Field(ge=1)]
    num_tokens: Count
    lengths: tuple[int, int] | None = None
    grid: tuple[int, ...] | None = None

    primary: str
    metrics: dict[str, Score]
    folds: Score | None = None
    last_epoch: Score | None = None

    selected: dict[str, float | int | str] = {}
    training: dict[str, Any] = {}
    training_images: str = EVALUATION_VIEW
    undertrained: list[str] = []
    warnings: list[str] = []
    selected_on: str
    selected_score: SelectedScore | None = None
    settings_tried: Count = 1
    best_minus_median: float | None = None
    early_stopping: EarlyStopping | None = None
    diverged: list[Diverged] = []

    parameters: Parameters
    flops: Flops
    seconds: Annotated[float, Field(ge=0)]
    seeds: list[int] = []
    variance: str = "initialisation"

    store: StoreReference
    environment: dict[str, str] = {}
    git_commit: str | None = None
    command: str = ""
    created: str = ""
    assumed: list[str] = []
    identical_images: Count = 0
    test_of: FittedOn | None = None
    masked: bool = False
    skipped_images: Count = 0
    files: Files = Files()

    @model_serializer(mode="wrap")
    def _as_before(self, serialised: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what an example is called where it is an image, which earlier versions don't know."""
        found: dict[str, Any] = serialised(self)
        return {key: one for key, one in found.items() if key != "example" or one != "image"}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.primary not in self.metrics:
            raise ValueError(f"primary {self.primary!r} is none of {', '.join(self.metrics)}")
        for name, score in [*self.metrics.items(), ("last_epoch", self.last_epoch)]:
            if score is not None and self.seeds and len(score.values) != len(self.seeds):
                raise ValueError(f"{name} has {len(score.values)} values, {len(self.seeds)} seeds")
        return self

    @property
    def label(self) -> str:
        """Its name in tables, unique in its run: ``"ep12"``, ``"lora?rank=16 + ep12"``."""
        return self.probe if self.adaptation is None else f"{self.adaptation} + {self.probe}"

    @property
    def score(self) -> Score:
        """The primary metric's."""
        return self.metrics[self.primary]

    @property
    def metric(self) -> "Metric":
        """The primary metric: its title, its range, the weights of examples.

        Raises:
            IceprobeError: of a task, or a metric of it, that isn't known here.
        """
        return get_task(self.task).metric(self.primary)

    @property
    def headline(self) -> str:
        """:attr:`primary`."""
        return self.primary

    @property
    def top1(self) -> Score:
        """Top-1 accuracy, of classification."""
        return self.metrics["top1"]

    @property
    def top5(self) -> Score | None:
        """Top-5 accuracy; None where there are five classes or fewer."""
        return self.metrics.get("top5")

    @property
    def mean_per_class(self) -> Score:
        """Mean of each class's accuracy, of classification."""
        return self.metrics["mean_per_class"]

    @property
    def selected_on_reported(self) -> bool:
        """Whether the settings were selected on the reported split itself."""
        return self.protocol == "paper"

    @property
    def lost_seeds(self) -> list[int]:
        """Seeds that diverged and have no scores."""
        return sorted({one.seed for one in self.diverged} - set(self.seeds))
