"""What a feature store is on disk: its manifest, its identity and its names.

A store is a folder ``READABLE-IDENTITY/`` with ``manifest.json`` and shards ``SPLIT-00000.safetensors``,
and ``train.view1-00000.safetensors`` and so on if it has augmented views of the training images. The
manifest says what the tokens were made from and lists the complete shards with their checksums. It
holds no times and no host names: an extraction that was killed and continued gives the same bytes.
"""

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    model_serializer,
    model_validator,
)

from iceprobe.core.checksums import seal, unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.trust import plain_name
from iceprobe.machine.object_storage import RemotePath
from iceprobe.settings import SHARD_IMAGES, Dtype, Strength, TokenDtype
from iceprobe.tokens import TokenShape

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
TRAIN = "train"  # the split that may have augmented views
FOLDS = "folds"  # examples of train, each read by probes that were trained on the other folds
EVALUATION_VIEW = "evaluation view, without augmentation"

Name = Annotated[str, AfterValidator(plain_name)]  # of a file in the store's own folder


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExtractionSettings(_Record):
    """The user's choices about an extraction that change the bytes stored.

    Attributes:
        forward_dtype: of the forward pass (autocast below float32); in JSON it is ``amp``.
        tokens: dtype stored; with ``int8`` each patch token has a scale and prefix tokens are float16.
        patches: whether patch tokens are stored, beside the prefix tokens and the mean.
        batch_size: images per forward pass.
        shard_images: images per shard; a batch never spans two shards.
        device: type of the device, ``"cpu"`` or ``"cuda"``.
        augmented_views: stored of each training image beside its evaluation view. In JSON it is
            ``views``, which counts the evaluation view too.
        augmentation: of those views, or ``None``.
        crop: how crops of ``paper`` are drawn (`backbones/augmentation.py`); ``None`` without such
            crops, and in older stores, which drew them again instead of clamping.
        live: whether nothing is stored, and training images are augmented anew in each epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    forward_dtype: Dtype = "float32"
    tokens: TokenDtype = "float16"
    patches: bool = True
    batch_size: int = 64
    shard_images: int = SHARD_IMAGES
    device: str = "cpu"
    augmented_views: Annotated[int, Field(ge=0)] = 0
    augmentation: Strength | None = None
    crop: Literal["clamped"] | None = None
    live: Literal[True] | None = None  # absent from the identity of what is stored

    @model_validator(mode="before")
    @classmethod
    def _from_json(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        found = {"forward_dtype" if key == "amp" else key: value for key, value in fields.items()}
        if isinstance(views := found.get("views"), int):
            del found["views"]
            found["augmented_views"] = views - 1
        return found

    @model_serializer(mode="wrap")
    def _to_json(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        names = {"augmented_views": "views", "forward_dtype": "amp"}
        return {
            names.get(key, key): 1 + value if key == "augmented_views" else value
            for key, value in serialise(self).items()
        }

    def views_of(self, split: str) -> int:
        """Views stored of each image of ``split``, the evaluation view among them."""
        return 1 + (self.augmented_views if split == TRAIN else 0)

    @property
    def training_images(self) -> str:
        """What probes trained on the store see of a training image, as text."""
        if self.live and self.augmentation:
            return f"live, {self.augmentation} augmentation"
        if not self.augmented_views:
            return f"live, {EVALUATION_VIEW}" if self.live else EVALUATION_VIEW
        plural = "s" if self.augmented_views > 1 else ""
        return f"{self.augmented_views} stored view{plural}, {self.augmentation} augmentation"


class BackboneRecord(_Record):
    """The backbone; ``identity`` is everything about it that changes its tokens."""

    spec: str
    name: str
    paradigm: str
    pooled_class: bool  # trained on a learned pooler's output: k-NN and linear read the mean
    identity: dict[str, Any]
    preprocessing: dict[str, Any]
    assumed: list[str] = []  # assumptions; no part of the identity

    @classmethod
    def of(cls, backbone: "Backbone", identity: dict[str, Any] | None = None) -> Self:
        """``identity``, if it is known, saves hashing all weights."""
        return cls(
            spec=backbone.spec,
            name=backbone.name,
            paradigm=backbone.paradigm,
            pooled_class=backbone.pooled_class,
            identity=dict(backbone.identity()) if identity is None else identity,
            preprocessing=backbone.preprocessing.as_dict(),
            assumed=list(backbone.assumed),
        )


class DatasetRecord(_Record):
    """The data set: its outputs, its columns, the metric that is conventionally reported on it."""

    spec: str
    name: str
    classes: list[str]  # names of classes, tags or numbers
    headline: str = "top1"
    assumed: list[str] = []  # as of the backbone
    reading: dict[str, Any] = {}  # options for decoding files; they change the splits' content
    task: str = "classification"
    units: list[str] = []
    group: str | None = None
    fold: str | None = None
    slices: list[str] = []
    values: dict[str, list[str]] = {}  # of the columns, by name
    maps: dict[str, list[str]] = {}  # as of the data set

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later are left out at their default: stores of classes stay as they were."""
        later = ("task", "units", "group", "fold", "slices", "values", "maps")
        fields = type(self).model_fields
        return {
            key: value
            for key, value in serialise(self).items()
            if key not in later or value != fields[key].default
        }


def _as_stored(shape: TokenShape, serialise: SerializerFunctionWrapHandler) -> Any:
    """Without ``pooled_class``, and without fields that came later where there is nothing."""
    later = {"lengths": None, "coords": 0, "parts": 1}
    fields = serialise(shape).items()
    return {key: v for key, v in fields if key != "pooled_class" and v != later.get(key, ...)}


def take_pooled_class(record: Any) -> Any:
    """Validator of a model with ``backbone`` and ``shape``: copies the backbone's ``pooled_class``."""
    record.shape = replace(record.shape, pooled_class=record.backbone.pooled_class)
    return record


# In JSON, `pooled_class` is a field of the backbone's record and not of the shape beside it.
StoredShape = Annotated[TokenShape, WrapSerializer(_as_stored)]


class FileRecord(_Record):
    """A file of a complete shard.

    Attributes:
        tokens: where examples differ in their number of tokens, how many all of them have together,
            the shortest and the longest of them; left out otherwise.
        parts: sha256 of its header and of each tensor, so that only what is read is compared; those of
            the patches are in the tensor `shards.CHECKS`. Empty in stores of an earlier iceprobe.
    """

    file: Name
    bytes: Annotated[int, Field(ge=0)]
    sha256: str
    parts: dict[str, str] = {}
    tokens: tuple[int, int, int] | None = None

    @model_serializer(mode="wrap")
    def _without_tokens(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialise(self).items()
        return {key: value for key, value in fields if key != "tokens" or value is not None}


class ShardRecord(FileRecord):
    """A complete shard: rows ``start`` to ``stop`` of the split's listing, less those skipped.

    Its own file holds the evaluation view, ``views`` the augmented ones, row by row of the same
    images: all of them are complete or none is.

    Attributes:
        read: what was done to images on decoding (`iceprobe.datasets.pixels`), and to how many;
            ``None`` in older stores, which don't record it.
        largest: the largest value in files of more than 8 bits.
        rounding: the error of storing the tokens as a share of their variance; ``None`` in older
            stores.
    """

    start: Annotated[int, Field(ge=0)]
    stop: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    skipped: list[str] = []
    views: list[FileRecord] = []
    rounding: float | None = None
    read: dict[str, int] | None = None
    largest: float | None = None

    @property
    def files(self) -> list[FileRecord]:
        """One per view, the evaluation view first."""
        return [self, *self.views]


class SplitRecord(_Record):
    """One split.

    Attributes:
        images: how many are extracted; fewer than ``listed`` are a seeded choice in listing order.
        listed: images of the data set's split.
        content: hashes of the ``listing`` (images, masks and depth maps), the ``labels``, the ``boxes`` and the
            columns.
        boxes, masks, depths: whether images have them.
        columns: names of further columns, in order.
        shards: the complete ones, in order.
    """

    images: int
    listed: int
    content: dict[str, str]
    boxes: bool
    masks: bool = False
    depths: bool = False
    columns: list[str] = []
    shards: list[ShardRecord] = []

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later are left out where there is nothing: other stores stay as they were."""
        fields = serialise(self).items()
        return {key: value for key, value in fields if key not in ("columns", "depths") or value}


class Manifest(_Record):
    """The content of ``manifest.json``."""

    format_version: int = FORMAT_VERSION
    backbone: BackboneRecord
    dataset: DatasetRecord
    settings: ExtractionSettings
    shape: StoredShape
    splits: dict[Name, SplitRecord]  # files are named after them
    versions: dict[str, str]

    _complete = model_validator(mode="after")(take_pooled_class)

    @property
    def identity(self) -> str:
        """Sha256 over everything that changes the bytes stored."""
        ingredients = {
            "format_version": self.format_version,
            "backbone": self.backbone.identity,
            "preprocessing": self.backbone.preprocessing,
            "settings": self.settings.model_dump(exclude_none=True),
            "classes": self.dataset.classes,
            **({} if self.dataset.task == "classification" else {"task": self.dataset.task}),
            **({"values": self.dataset.values} if self.dataset.values else {}),
            "splits": {
                name: split.model_dump(include={"content", "images", "listed", "masks", "depths"})
                for name, split in self.splits.items()
            },
        }
        text = json.dumps(ingredients, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def asked_as(self, backbone: str, dataset: str, group: str | None = None) -> Self:
        """The same store under the specs of a run, which may name another path to the same weights.

        A store serves every request for the same content, but a run is reported and rebuilt by its
        own specs, and by its own column of groups. The identity doesn't change.
        """
        records = {
            "backbone": self.backbone.model_copy(update={"spec": backbone}),
            "dataset": self.dataset.model_copy(update={"spec": dataset, "group": group}),
        }
        return self.model_copy(update=records)

    def asked_by(self, wanted: Self) -> Self:
        """The same store under the names and specs of ``wanted``, a request for the same content.

        What columns are (groups, folds, slices) and the units are the request's as well.
        """
        named = ("spec", "name", "paradigm", "assumed")
        backbone = {name: getattr(wanted.backbone, name) for name in named}
        records = {
            "backbone": self.backbone.model_copy(update=backbone),
            "dataset": wanted.dataset,
        }
        return self.model_copy(update=records)

    def served_by(self) -> list[Self]:
        """The stores that serve this request: this one, and the same one with patch tokens."""
        richer = self.settings.model_copy(update={"patches": True})
        return [self, self.model_copy(update={"settings": richer})]

    def measured(self) -> Self:
        """This manifest with the mean number and the range of the tokens that its shards hold."""
        counts = [(one.images, *one.tokens) for one in self.shards if one.tokens and one.images]
        if not self.shape.ragged or not counts:
            return self
        images, totals, shortest, longest = zip(*counts, strict=True)
        mean = max(1, round(sum(totals) / sum(images)))
        shape = replace(self.shape, num_tokens=mean, lengths=(min(shortest), max(longest)))
        return self.model_copy(update={"shape": shape})

    @property
    def folder(self) -> str:
        """Name of the store's folder: readable, then the start of the identity."""
        readable = f"{self.backbone.name}--{self.dataset.name}"
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", readable).strip("-.")[:80]
        return f"{readable}-{self.identity[:12]}"

    @property
    def shards(self) -> list[ShardRecord]:
        """The complete shards of all splits."""
        return [shard for split in self.splits.values() for shard in split.shards]

    @property
    def files(self) -> list[FileRecord]:
        """The files of the complete shards of all splits."""
        return [file for shard in self.shards for file in shard.files]

    @property
    def skipped(self) -> list[str]:
        """Names of the images that could not be read."""
        return [name for shard in self.shards for name in shard.skipped]

    @property
    def finished(self) -> bool:
        return not any(self.missing(name) for name in self.splits)

    def missing(self, split: str) -> list[int]:
        """Numbers of the shards of ``split`` that are not complete."""
        record, size = self.splits[split], self.settings.shard_images
        complete = {shard.start // size for shard in record.shards}
        return [number for number in range(-(-record.images // size)) if number not in complete]

    def rows(self, split: str, number: int) -> int:
        """Rows of the split's listing that are in shard ``number``."""
        size = self.settings.shard_images
        return min(size, self.splits[split].images - number * size)

    def rows_missing(self, split: str) -> int:
        """Rows of the split's listing whose shards are not complete."""
        record = self.splits[split]
        return record.images - sum(shard.stop - shard.start for shard in record.shards)

    def record(self, split: str, shard: ShardRecord) -> None:
        """Add a complete shard, in order."""
        shards = self.splits[split].shards
        shards.append(shard)
        shards.sort(key=lambda other: other.start)


def listed_as(split: str) -> str:
    """The split of the data set whose examples ``split`` has."""
    return TRAIN if split == FOLDS else split


def shard_file(split: str, number: int, view: int = 0) -> str:
    """Name of a shard's file; view 0 is the evaluation view."""
    augmented = f".view{view}" if view else ""
    return f"{split}{augmented}-{number:05d}.safetensors"


def read_manifest(path: Path | RemotePath) -> Manifest:
    """The manifest of the store at ``path``.

    Raises:
        IceprobeError: if there is no store, or its manifest is damaged or of another format.
    """
    file = path / MANIFEST
    try:
        content = parse_json(file.read_bytes())
        if (version := content.get("format_version")) != FORMAT_VERSION:
            raise IceprobeError(
                f"{file} has format {version}, this iceprobe reads {FORMAT_VERSION}: "
                "extract it again"
            )
        claimed = content.pop("identity")
        content = unseal(content, file, f"put it back, or remove {path} and extract again")
        manifest = Manifest.model_validate(content)
    except FileNotFoundError:
        raise IceprobeError(
            f"no feature store at {path} (no {MANIFEST}): iceprobe extract makes one"
        ) from None
    except (ValueError, KeyError, AttributeError) as error:
        raise IceprobeError(
            f"{file} is damaged ({type(error).__name__}): remove {path} and extract again"
        ) from error
    if claimed != manifest.identity:
        raise IceprobeError(
            f"{file} was changed by hand (its identity is {manifest.identity[:12]}, it says "
            f"{str(claimed)[:12]}): remove {path} and extract again"
        )
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``."""
    content = {"identity": manifest.identity} | seal(manifest.model_dump(mode="json"))
    write_whole(path / MANIFEST, json.dumps(content, indent=1, ensure_ascii=True) + "\n")


def write_whole(final: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part of one."""
    temporary = final.with_name(f"{final.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, final)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, final: Path) -> None:
    """Rename a file that was flushed to disk, then flush its folder."""
    os.replace(temporary, final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
