"""Opening what ``iceprobe.export`` wrote."""

from pathlib import Path

import torch

from iceprobe.core.arguments import checked
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.pixels import Reading
from iceprobe.exporting.card import BACKBONE, ONNX, PROBE, Card, read_card
from iceprobe.exporting.exported import ExportedProbe, same_outputs, what_of
from iceprobe.exporting.from_hub import cache_of, downloaded, on_hub
from iceprobe.exporting.of_tokens import TokenProbe
from iceprobe.exporting.rebuilding import load_weights, rebuilt_backbone
from iceprobe.probes.probe import Probe, build_for
from iceprobe.store.assembled import is_given
from iceprobe.store.recorded import recorded_backbone
from iceprobe.tasks.registry import get_task


@checked
def load_probe(folder: str | Path, *, trust: bool = False) -> ExportedProbe | TokenProbe:
    """Open what :func:`iceprobe.export` wrote, on the CPU, or what :func:`iceprobe.publish` put on the Hub.

    If the folder holds the backbone's weights, only its architecture is built, by the library that
    defines it; otherwise the backbone is loaded by its spec.

    Args:
        folder: the exported folder, or ``"hub:OWNER/NAME"``, with ``@REVISION`` if not the newest is meant; which
            commit was read says ``source`` of the probe.
        trust: whether code that the folder names may run: of a ``python:`` factory, a torch.hub
            repository, or a transformers model with code of its own.

    Raises:
        IceprobeError: if a file is missing or damaged, if the backbone runs code that isn't trusted
            or can't be built, or if the folder gives other outputs than when it was exported.
    """
    if on_hub(folder):
        folder, source = downloaded(str(folder))
        card = read_card(folder, within=cache_of(folder))
    else:
        folder = Path(folder).expanduser()
        card, source = read_card(folder), str(folder.resolve())
    if card.kind == "onnx":
        raise IceprobeError(
            f"{str(folder)!r} is an ONNX export: open {ONNX} with onnxruntime, or export with "
            "--format folder"
        )
    probe = build_for(card.tokens, card.probe, len(card.classes), task=get_task(card.task))
    remedy = f"install iceprobe {card.versions.get('iceprobe')}"
    load_weights(probe, folder / PROBE, card.probe, remedy)
    model = _model(card, probe, folder, trust)
    model.source = source
    if same_outputs(model.checked(), torch.tensor(card.check), card.spread):
        return model
    was = ", ".join(f"{name} {card.versions.get(name)}" for name in ("iceprobe", "torch", "timm"))
    raise IceprobeError(
        f"{str(folder)!r} gives other {what_of(model.task)} than when it was exported: the code of its backbone "
        f"{card.backbone.spec!r} has changed; put it back, or install {was}"
    )


def _model(card: Card, probe: Probe, folder: Path, trust: bool) -> ExportedProbe | TokenProbe:
    if is_given(card.backbone.spec):
        return TokenProbe(
            probe, card.tokens, card.classes, card=card, task=card.task, units=card.units
        )
    if BACKBONE in card.files:
        backbone = rebuilt_backbone(card.backbone, folder / BACKBONE, trust=trust)
    else:
        backbone = recorded_backbone(card.backbone, folder, trust=trust)
    try:
        reading = Reading(**card.reading)
    except TypeError as error:
        raise IceprobeError(
            f"{folder}: unknown way of reading images ({error}): export again"
        ) from error
    return ExportedProbe(
        backbone, probe, card.classes, amp=card.amp, reading=reading, card=card, task=card.task,
        units=card.units,
    )  # fmt: skip
