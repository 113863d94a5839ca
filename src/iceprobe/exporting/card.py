"""``model.json``: the content of an exported folder, its origin, and how to load it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapSerializer,
    model_serializer,
    model_validator,
)

from iceprobe.core.checksums import seal, sha256, unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import json_bytes
from iceprobe.core.trust import refuse_leading_out
from iceprobe.store.format import (
    EVALUATION_VIEW,
    BackboneRecord,
    Dtype,
    Name,
    StoredShape,
    take_pooled_class,
)
from iceprobe.tokens import JoinedShape, TokenShape

FORMAT_VERSION = 1
CARD = "model.json"
PROBE, BACKBONE, ONNX = "probe.safetensors", "backbone.safetensors", "model.onnx"


def _without_parts(shape: TokenShape, serialise: SerializerFunctionWrapHandler) -> Any:
    """A field that came later is left out at its default."""
    return {key: v for key, v in serialise(shape).items() if (key, v) != ("parts", 1)}


class Measured(BaseModel):
    """The score of the probe in its run, by the metric that leads there."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    metric: str = "top1"  # its name: "top1", "map", "r2"
    value: float  # of the exported seed
    mean: float  # over all seeds of the run
    top1: float | None = None  # of classification: top-1 accuracy of the exported seed
    dataset: str  # spec
    split: str
    images: int | None
    protocol: str
    selected_on: str
    training_images: str = EVALUATION_VIEW

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, values: Any) -> Any:
        """Cards of earlier versions have top-1 alone."""
        if isinstance(values, dict) and "value" not in values and "top1" in values:
            return {**values, "metric": "top1", "value": values["top1"]}
        return values

    @model_serializer(mode="wrap")
    def _without_top1(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialise(self)
        return {key: value for key, value in fields.items() if key != "top1" or value is not None}


class Card(BaseModel):
    """The content of ``model.json``.

    Attributes:
        kind: ``"folder"`` (weights, opened by :func:`iceprobe.load_probe`) or ``"onnx"``.
        probe: canonical label, ``"ep12"``.
        input: the tokens that it reads.
        seed: of the exported fit.
        num_classes, classes: K names of classes, tags or numbers, in the order of the outputs.
        shape: of the tokens of one example; of several layers, the deepest's.
        backbone: its spec, its preprocessing, and its identity with the hash of the weights.
        amp: dtype of the forward pass that made the training tokens.
        measured: its score.
        store: identity of the feature store of the fit.
        check: outputs ``(K,)`` for the example of :func:`iceprobe.exporting.exported.check_input`.
        versions: of iceprobe and its libraries at the export.
        files: name → sha256 of every other file of the folder.
        reading: options by which image files are read (`iceprobe.datasets.pixels.Reading`).
        task: what its outputs are (`iceprobe.tasks`): logits of classes or of tags, or numbers.
        units: of the numbers, ``"kg"``; empty if they aren't known.
        spread: standard deviation of each number's targets in the reported split, by which ``check`` is
            compared; empty of other tasks.
        layers: of each layer's tokens, where the probe reads them side by side.
        depth: layers of the backbone then.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: int = FORMAT_VERSION
    kind: Literal["folder", "onnx"]
    probe: str
    input: str
    seed: int
    num_classes: int
    classes: list[str]
    shape: StoredShape
    backbone: BackboneRecord
    amp: Dtype
    measured: Measured
    store: str
    check: list[float]
    versions: dict[str, str]
    files: dict[Name, str]
    reading: dict[str, Any] = {}
    task: str = "classification"
    units: list[str] = []
    spread: list[float] = []
    layers: dict[int, Annotated[TokenShape, WrapSerializer(_without_parts)]] = {}
    depth: int | None = None

    @property
    def tokens(self) -> TokenShape:
        """The shape of the tokens that the probe was fitted on."""
        return JoinedShape.of(self.layers, self.depth) if self.layers else self.shape

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later are left out at their default."""
        fields: dict[str, Any] = serialise(self)
        names = ("task", "units", "spread", "layers", "depth")
        later = {name: type(self).model_fields[name].default for name in names}
        return {key: value for key, value in fields.items() if value != later.get(key, ...)}

    _complete = model_validator(mode="after")(take_pooled_class)


def write_card(folder: Path, card: Card) -> None:
    text = json.dumps(seal(card.model_dump(mode="json")), indent=2, ensure_ascii=False)
    (folder / CARD).write_bytes(json_bytes(text))


def read_card(folder: Path, within: Path | None = None) -> Card:
    """The card of an exported folder, whose files are compared with their hashes.

    Links lead to places in ``folder``, or in ``within``: the Hub's cache keeps content beside its folders of links.

    Raises:
        IceprobeError: if it is no exported folder, or a file is missing or damaged.
    """
    path = folder / CARD
    try:
        content = parse_json(path.read_bytes())
        if (version := content.get("format")) != FORMAT_VERSION:
            raise IceprobeError(
                f"{path} has format {version!r}, this iceprobe reads {FORMAT_VERSION}: export again"
            )
        content = unseal(content, path, "put it back as it was, or export again")
        card = Card.model_validate(content)
    except (FileNotFoundError, NotADirectoryError):
        raise IceprobeError(
            f"no exported probe at {str(folder)!r} (no {CARD}): iceprobe export makes one"
        ) from None
    except (ValueError, AttributeError, ValidationError) as error:
        raise IceprobeError(f"{path} is damaged ({type(error).__name__}): export again") from error
    for name, expected in card.files.items():
        file = folder / name
        if not file.is_file():
            raise IceprobeError(f"{file} is missing: export again, or copy the whole folder")
        refuse_leading_out(within or folder, file)
        if sha256(file) != expected:
            raise IceprobeError(
                f"{file} is damaged, its checksum isn't the one in {CARD}: export again"
            )
    return card
