"""The result schema: what one entry of ``results.json`` means.

One :class:`Result` is one probe on one store after selection, over its seeds, with all its
provenance. Accuracies are fractions in [0, 1]; times are seconds; FLOPs are 2 × multiply-adds.
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)

from iceprobe.core.checksums import Digest
from iceprobe.core.trust import inner_path
from iceprobe.store.format import EVALUATION_VIEW

if TYPE_CHECKING:
    from iceprobe.results.predictions import Predictions

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
InnerPath = Annotated[str, AfterValidator(inner_path)]  # relative to the run folder


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class Score(_Model):
    """One measure of one probe, over its seeds.

    Attributes:
        mean: over seeds.
        sd: sample standard deviation over seeds (n − 1); ``None`` for a single value.
        values: one a seed, in the order of `Result.seeds`.
        interval: 95%, over test images and seeds (docs/protocols.md); in files of earlier
            versions a percentile bootstrap over test images.
    """

    mean: Fraction
    sd: float | None
    values: list[Fraction] = Field(min_length=1)
    interval: tuple[Fraction, Fraction] | None = None

    @classmethod
    def of(cls, values: Iterable[float], interval: tuple[float, float] | None = None) -> Self:
        """The score of ``values`` (one a seed): mean and sample standard deviation computed."""
        values = [float(value) for value in values]
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), sd=sd, values=values, interval=interval)


class Parameters(_Model):
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


class Flops(_Model):
    """2 × MACs of the whole probe at inference, matrix products only; the backbone left out.

    Attributes:
        per_image: for one image.
        per_step: done once a step whatever the batch: folding keys into queries.
    """

    per_image: Count
    per_step: Count = 0


class StoreReference(_Model):
    """Which feature store the probe read.

    Attributes:
        path: its folder; ``None`` for features that were held in memory only.
        identity: hash of weights, preprocessing, data listing, dtypes, ….
    """

    path: str | None
    identity: str


class Files(_Model):
    """Files of this result, relative to the run folder, with forward slashes.

    Attributes:
        probes: one safetensors file a seed, in the order of `Result.seeds`.
        predictions: safetensors shared by all results of the run.
        adapters: one folder a seed, where the backbone was adapted.
        digests: of each of these files, and of ``curves.csv``, by its name; read files are
            compared. Of an earlier iceprobe there are none.
    """

    probes: list[InnerPath] = []
    predictions: InnerPath | None = None
    adapters: list[InnerPath] = []
    digests: dict[str, Digest] = {}

    def moved(self, folder: str) -> "Files":
        """The same files, seen from the folder that ``folder`` is in."""
        return Files(
            probes=[f"{folder}/{name}" for name in self.probes],
            predictions=self.predictions and f"{folder}/{self.predictions}",
            adapters=self.adapters,
            digests={f"{folder}/{name}": digest for name, digest in self.digests.items()},
        )


class Diverged(_Model):
    """A member that training left without finite weights, and that was dropped then.

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


class Stopped(_Model):
    """A setting that was clearly beaten, and no longer trained after an epoch of selection.

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


class EarlyStopping(_Model):
    """By what rule settings stopped early, and which did.

    Attributes:
        rule: in words.
        rungs: epochs of selection after which it was applied.
        stopped: the settings that it stopped.
    """

    rule: str
    rungs: list[int]
    stopped: list[Stopped] = []


class SelectedScore(_Model):
    """The headline on the held-out images, by which the setting was chosen.

    Attributes:
        mean: over seeds, or over the folds that held an image out.
        images: held out.
        error: standard error over them.
        size: as how many of equal weight they count, 1/Σ w_i²; None in files of an earlier version.
    """

    mean: Fraction
    images: Count
    error: Annotated[float, Field(ge=0)]
    size: Annotated[float, Field(gt=0)] | None = None


class Result(_Model):
    """One probe on one store after selection, over its seeds.

    Attributes:
        probe: canonical label: ``"ep32"``, ``"linear?input=mean"``, ``"knn"``.
        adaptation: canonical label, ``"lora?rank=16"``; ``None`` for a frozen backbone.
        method: ``"trained"`` or ``"knn"``.
        backbone: spec: ``"bundled:mae-tiny"``.
        paradigm: how the backbone was pre-trained, where it is known.
        dataset: spec: ``"folder:/data/birds"``.
        headline: the accuracy that is reported on it by convention.
        images: hash of the listing and rows that were tested: equal means the same images.
        protocol: ``"heldout"`` or ``"paper"``.
        split: the split that the scores were read on.
        layer: of the backbone, from 0; ``None`` where that isn't known.
        shots: training images a class, a draw; ``None``: all.
        fraction: of each class's training images, a draw; ``None``: all.
        classes: C.
        class_names: of the classes, in their order; empty in results from before they were kept.
        train_images: images to learn from, before any are held out.
        test_images: images the scores are over.
        dim: D of the tokens.
        num_tokens: N, patch tokens an image.
        grid: rows and columns of the patches.
        top1: top-1 accuracy.
        top5: top-5 accuracy; ``None`` where there are five classes or fewer.
        mean_per_class: mean of each class's accuracy.
        last_epoch: the headline at the last epoch, where another was selected.
        selected: learning_rate, weight_decay and epoch, or k and temperature.
        training: optimizer, epochs, images_per_step, the grid, run_seed, dtype, ….
        training_images: what was seen of them, such as ``"4 stored views, paper augmentation"``.
        undertrained: signs that it hadn't learned to its end (`results/undertrained.py`); empty
            where there are none, and of results from before they were looked for.
        warnings: what casts doubt on its training without taking it out of comparisons, in words
            (a learning rate at the grid's edge, …): said in the sentence of each of them.
        selected_on: ``"held-out 10% of train"`` or ``"the reported split (best epoch)"``,
            or how many folds.
        selected_score: what it read there, at the chosen setting and epoch; ``None`` where the
            reported split selected, or nothing.
        settings_tried: settings that were selected from.
        best_minus_median: accuracy on ``selected_on``: best setting − median one.
        early_stopping: ``None``: every setting ran to its end.
        diverged: members without finite weights, in all phases; see `lost_seeds`.
        parameters: trainable parameters by part.
        flops: of the whole probe at inference.
        seconds: its share of the wall time of selection, refit and evaluation.
        seeds: of the initialisation; empty where nothing is random.
        variance: what sd is over: ``"initialisation"``, ``"replicates"`` or ``"none"``.
        store: the feature store that was read.
        environment: python, torch, timm, iceprobe, processor, platform.
        git_commit: of the checkout that iceprobe ran from, where it did.
        command: what was typed, quoted for a shell.
        created: ISO 8601 with the zone.
        assumed: what was taken for granted about backbone and images, a line each.
        identical_images: of the reported split that are training images too, by their pooled tokens;
            0 as well where they weren't looked for (adapted backbones, live tokens, older results).
        skipped_images: left out by ``--on-bad-image skip``.
        files: what of it is in the run folder.
    """

    probe: str
    adaptation: str | None = None
    method: Literal["trained", "knn"]
    backbone: str
    paradigm: str | None = None
    dataset: str
    headline: Literal["top1", "mean_per_class"] = "top1"
    images: str = ""
    protocol: str
    split: str = "test"
    layer: int | None = None
    shots: int | None = None
    fraction: float | None = None
    classes: Annotated[int, Field(ge=1)]
    class_names: list[str] = []
    train_images: Count | None = None
    test_images: Count | None = None
    dim: Annotated[int, Field(ge=1)]
    num_tokens: Count
    grid: tuple[int, int] | None = None

    top1: Score
    top5: Score | None = None
    mean_per_class: Score
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
    skipped_images: Count = 0
    files: Files = Files()

    # Where a result lives while the program runs; never written.
    _run: Path | None = PrivateAttr(None)
    _predictions: "Predictions | None" = PrivateAttr(None)
    _probes: list[Any] | None = PrivateAttr(None)
    _store: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_value_a_seed(self) -> Self:
        for name in ("top1", "top5", "mean_per_class", "last_epoch"):
            score = getattr(self, name)
            if score is not None and self.seeds and len(score.values) != len(self.seeds):
                raise ValueError(f"{name} has {len(score.values)} values, {len(self.seeds)} seeds")
        return self

    @property
    def label(self) -> str:
        """What tells it from the others of its run: ``"ep12"``, ``"lora?rank=16 + ep12"``."""
        return self.probe if self.adaptation is None else f"{self.adaptation} + {self.probe}"

    @property
    def score(self) -> Score:
        """The accuracy that is the headline on this data set."""
        return self.mean_per_class if self.headline == "mean_per_class" else self.top1

    @property
    def selected_on_reported(self) -> bool:
        """Whether the settings were selected on the very split that is reported."""
        return self.protocol == "paper"

    @property
    def lost_seeds(self) -> list[int]:
        """Seeds that have diverged before they could be reported: the scores are without them."""
        return sorted({one.seed for one in self.diverged} - set(self.seeds))

    @property
    def run(self) -> Path | None:
        """The run folder that this result was written to or read from."""
        return self._run

    @property
    def probes(self) -> list[Any] | None:
        """The fitted ``Probe`` modules, one a seed, while they are in memory."""
        return self._probes

    @property
    def open_store(self) -> Any:
        """The ``Store`` that was probed, while it is open; None for results read from a file."""
        return self._store

    def attach(
        self,
        *,
        run: str | Path | None = None,
        predictions: "Predictions | None" = None,
        probes: Sequence[Any] | None = None,
        store: Any = None,
    ) -> Self:
        """Tell a result where its run folder is, or hand it what it has in memory.

        Args:
            run: the run folder, to which :attr:`files` are relative.
            predictions: what the probe predicted, for results that were never written.
            probes: the fitted ``Probe`` modules, one a seed.
            store: the open ``Store``.
        """
        self._run = Path(run) if run is not None else self._run
        self._predictions = predictions if predictions is not None else self._predictions
        self._probes = list(probes) if probes is not None else self._probes
        self._store = store if store is not None else self._store
        return self

    def predictions(self) -> "Predictions | None":
        """Predictions on :attr:`split`, from memory or from the run folder; None if never kept.

        Raises:
            IceprobeError: if the file is named but missing or corrupt.
        """
        if self._predictions is None and self._run is not None and self.files.predictions:
            from iceprobe.results.predictions import read_predictions

            name = self.files.predictions
            digest = self.files.digests.get(name)
            self._predictions = read_predictions(self._run / name, self.label, digest)
        return self._predictions
