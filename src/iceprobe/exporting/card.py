"""``model.json``: the content of an exported folder, its origin, and how to load it."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

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


class Measured(BaseModel):
    """The scores of the probe in its run."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    top1: float  # of the exported seed
    mean: float  # over all seeds of the run
    dataset: str  # spec
    split: str
    images: int | None
    protocol: str
    selected_on: str
    training_images: str = EVALUATION_VIEW


class Card(BaseModel):
    """The content of ``model.json``.

    Attributes:
        kind: ``"folder"`` (weights, opened by :func:`iceprobe.load_probe`) or ``"onnx"``.
        probe: canonical label, ``"ep12"``.
        input: the tokens that it reads.
        seed: of the exported fit.
        num_classes, classes: C names, in the order of the logits.
        shape: of the tokens of one image; of several layers, the deepest's.
        layers: of each layer's tokens, where the probe reads them side by side.
        depth: layers of the backbone then.
        backbone: its spec, its preprocessing, and its identity with the hash of the weights.
        amp: dtype of the forward pass that made the training tokens.
        measured: its accuracy.
        store: identity of the feature store of the fit.
        check: logits ``(C,)`` of the picture of :func:`iceprobe.exporting.exported.check_image`.
        versions: of iceprobe and its libraries at the export.
        files: name → sha256 of every other file of the folder.
        reading: options by which image files are read (`iceprobe.datasets.pixels.Reading`).
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
    layers: dict[int, TokenShape] = {}
    depth: int | None = None

    @property
    def tokens(self) -> TokenShape:
        """The shape of the tokens that the probe was fitted on."""
        return JoinedShape.of(self.layers, self.depth) if self.layers else self.shape

    _complete = model_validator(mode="after")(take_pooled_class)


def write_card(folder: Path, card: Card) -> None:
    unused = None if card.layers else {"layers", "depth"}
    content = card.model_dump(mode="json", exclude=unused)
    text = json.dumps(seal(content), indent=2, ensure_ascii=False)
    (folder / CARD).write_bytes(json_bytes(text))


def read_card(folder: Path) -> Card:
    """The card of an exported folder, whose files are compared with their hashes.

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
        refuse_leading_out(folder, file)
        if sha256(file) != expected:
            raise IceprobeError(
                f"{file} is damaged, its checksum isn't the one in {CARD}: export again"
            )
    return card
