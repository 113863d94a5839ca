"""Export of a fitted probe with its backbone to one folder."""

from pathlib import Path

import numpy as np

from iceprobe.core.arguments import checked
from iceprobe.core.checksums import sha256
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import names_features, unknown
from iceprobe.datasets.pixels import Reading
from iceprobe.exporting.card import BACKBONE, PROBE, Card, Measured, write_card
from iceprobe.exporting.exported import ExportedProbe
from iceprobe.exporting.of_tokens import TokenProbe
from iceprobe.exporting.onnx_format import require_onnx, write_onnx
from iceprobe.exporting.rebuilding import save_weights, weighted
from iceprobe.fitting.fitted import load_fitted
from iceprobe.machine.object_storage import located
from iceprobe.machine.temporary import new_folder
from iceprobe.probes.probe import build_for
from iceprobe.results.fitted import FittedResult
from iceprobe.results.provenance import environment
from iceprobe.results.stores import manifest_of
from iceprobe.store.assembled import is_given
from iceprobe.store.format import Manifest
from iceprobe.store.recorded import recorded_backbone
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import JoinedShape

FORMATS = ("folder", "onnx")


@checked
def export(
    result: FittedResult,
    output: str | Path,
    *,
    seed: int = 0,
    format: str = "folder",
    backbone_weights: bool = True,
    trust: bool = False,
) -> Path:
    """Write a fitted probe with its backbone.

    ``format="folder"`` writes ``probe.safetensors``, ``backbone.safetensors`` and ``model.json``,
    which :func:`iceprobe.load_probe` opens; ``"onnx"`` writes ``model.onnx``, normalised images
    ``(B, C, S, S)`` → ``logits``, or of a regression ``values``, with ``model.json`` beside it. A probe
    on tokens of your own has no backbone: the folder holds the probe, ONNX reads ``tokens (B, N, D)`` and
    ``mask (B, N)``.

    Args:
        result: of a trained probe; its run folder and its store's manifest must exist.
        output: a new or empty folder.
        seed: of the fit to export.
        format: ``"folder"`` or ``"onnx"``.
        backbone_weights: whether to include them; without, the folder only holds the backbone's
            spec.
        trust: whether code that the result's files name may run, and hosts be connected to.

    Returns:
        ``output``.

    Raises:
        IceprobeError: if the probe is k-NN or has no such seed or weights, if the store is
            missing, if the backbone can't be loaded by its spec or has changed, or if ``output``
            isn't empty.
    """
    if result.method == "knn":
        raise IceprobeError(
            f"{result.probe} has no weights to export, it is all the training images themselves: "
            "export a trained probe such as linear or ep32"
        )
    if result.adaptation is not None:
        raise IceprobeError(
            f"{result.label} changes its backbone: take {', '.join(result.files.adapters)} of the "
            "run, or export a probe on the frozen backbone"
        )
    if format not in FORMATS:
        raise IceprobeError(unknown("format", format, FORMATS))
    if format == "onnx":
        require_onnx()
        if not backbone_weights:
            raise IceprobeError(
                "an ONNX file holds its backbone: take format=folder to leave the weights out"
            )
    with new_folder(output, "--output") as folder:
        manifest = _manifest(result, trust)
        model = _model(result, manifest, seed, trust)
        if format == "onnx":
            write_onnx(model, folder, _spread(result))
        else:
            save_weights(model.probe, folder / PROBE)
            if backbone_weights and isinstance(model, ExportedProbe):
                save_weights(weighted(model.backbone), folder / BACKBONE)
        write_card(folder, _card(result, manifest, model, seed, format, folder))
    return Path(output)


def _model(
    result: FittedResult, manifest: Manifest, seed: int, trust: bool
) -> ExportedProbe | TokenProbe:
    fitted, classes = load_fitted(result, manifest.shape, seed), manifest.dataset.classes
    # A copy: the fitted probe may be in use, on a device.
    probe = build_for(manifest.shape, result.probe, len(classes), task=get_task(result.task))
    probe.load_state_dict(fitted.state_dict())
    if is_given(manifest.backbone.spec):
        return TokenProbe(probe, manifest.shape, classes, task=result.task, units=result.units)
    (path, *_) = [one.path for one in result.store.layers or [result.store]]
    place = None if path is None else located(path)
    return ExportedProbe(
        recorded_backbone(manifest.backbone, place, trust=trust),
        probe,
        classes,
        amp=manifest.settings.forward_dtype,
        reading=Reading(**manifest.dataset.reading),
        task=result.task,
        units=result.units,
    )


def _spread(result: FittedResult) -> list[float]:
    """Standard deviation of the reported targets of each number; empty of classes and tags.

    Of a number of which no target is known it is that of the predictions of the first seed.
    """
    if get_task(result.task).outputs != "numbers":
        return []
    predictions = result.needed_predictions()
    targets = np.asarray(predictions.labels)
    unknown = np.isnan(targets).all(0)
    targets = np.where(unknown, np.asarray(predictions.predicted, np.float64)[0], targets)
    found = np.nanstd(targets, 0)  # 0 where a single one is known
    return np.where(found > 0, found, np.maximum(np.abs(np.nanmean(targets, 0)), 1e-30)).tolist()


def _manifest(result: FittedResult, trust: bool) -> Manifest:
    """The manifest of the probed store, whose shards may be missing.

    Raises:
        IceprobeError: if it is missing, on a host that isn't trusted, or of another store now.
    """
    in_files = names_features(result.dataset)
    if result.open_store is None and not (result.store.path or result.store.layers or in_files):
        raise IceprobeError(
            f"{result.probe} was fitted on features in memory only: export it in the process that "
            "fitted it, or fit on a feature store"
        )
    manifest = manifest_of(result, trust=trust)
    if manifest.identity != result.store.identity:
        raise IceprobeError(
            f"store {result.store.path} isn't the one that {result.probe} was fitted on "
            f"({manifest.identity[:12]}, not {result.store.identity[:12]}): run again"
        )
    return manifest


def _card(
    result: FittedResult,
    manifest: Manifest,
    model: ExportedProbe | TokenProbe,
    seed: int,
    kind: str,
    folder: Path,
) -> Card:
    place = result.seeds.index(seed) if seed in result.seeds else 0
    return Card(
        kind=kind,  # type: ignore[arg-type]  # one of FORMATS
        probe=result.probe,
        input=model.probe.input,
        seed=seed,
        num_classes=len(model.classes),
        classes=model.classes,
        shape=manifest.shape,
        layers=dict(manifest.shape.layers) if isinstance(manifest.shape, JoinedShape) else {},
        depth=manifest.shape.depth if isinstance(manifest.shape, JoinedShape) else None,
        backbone=manifest.backbone,
        amp=manifest.settings.forward_dtype,
        measured=Measured(
            metric=result.primary,
            value=result.score.values[place],
            mean=result.score.mean,
            top1=result.top1.values[place] if "top1" in result.metrics else None,
            dataset=result.dataset,
            split=result.split,
            images=result.test_images,
            protocol=result.protocol,
            selected_on=result.selected_on,
            training_images=result.training_images,
        ),
        store=manifest.identity,
        reading=manifest.dataset.reading,
        task=result.task,
        units=model.units,
        spread=_spread(result),
        check=model.checked().tolist(),
        versions=environment(),
        files={file.name: sha256(file) for file in sorted(folder.iterdir())},
    )
