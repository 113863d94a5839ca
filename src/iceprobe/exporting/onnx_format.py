"""``model.onnx``: images → logits or values for any runtime, with a dynamic batch.

Preprocessing stays outside and is described in ``model.json``; the metadata say what the outputs are.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.exporting.card import ONNX
from iceprobe.exporting.exported import ExportedProbe, check_image, same_outputs, what_of

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PROTOBUF_BYTES = 2 * 10**9  # a protobuf message holds 2 GiB: larger weights go into a second file


def require_onnx() -> None:
    """Check that the packages of the extra are installed.

    Raises:
        IceprobeError: naming the first that isn't.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise IceprobeError(
                f"ONNX export needs the package {package!r}: pip install 'iceprobe[onnx]'"
            )


def write_onnx(model: ExportedProbe, folder: Path, spread: Sequence[float] = ()) -> None:
    """Write ``folder/model.onnx`` and check in onnxruntime that it gives the same outputs.

    The input is ``images (batch, C, S, S)``, float32, the output ``logits (batch, K)`` of classes or tags, or
    ``values (batch, K)`` of numbers, whose ``spread`` is that of the card. Metadata: ``task``, and ``names``
    and ``units`` of the outputs as JSON.

    Raises:
        IceprobeError: if the backbone can't be exported, or its ONNX gives other outputs.
    """
    image = check_image(model.preprocessing)
    heavy = sum(tensor.nbytes for tensor in model.state_dict().values()) > PROTOBUF_BYTES
    try:
        torch.onnx.export(
            model,
            (torch.cat([image, -image]),),
            folder / ONNX,
            input_names=["images"],
            output_names=[what_of(model.task)],
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            external_data=heavy,
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise IceprobeError(
            f"backbone {model.backbone.spec!r} with its probe can't be written as ONNX ({reason}): "
            "take --format folder"
        ) from error
    _describe(model, folder / ONNX)
    _check(model, folder, spread)


def _describe(model: ExportedProbe, path: Path) -> None:
    """Put the metadata of the outputs in place of those of each node, which name files of this machine."""
    import onnx

    written = onnx.load(path, load_external_data=False)
    for node in written.graph.node:
        del node.metadata_props[:]
    outputs = {"task": model.task.name, "names": json.dumps(model.classes)}
    onnx.helper.set_model_props(written, outputs | {"units": json.dumps(model.units)})
    onnx.save(written, path)


def _check(model: ExportedProbe, folder: Path, spread: Sequence[float]) -> None:
    """Compare with onnxruntime, on another batch size than the exporter used."""
    import onnxruntime

    image = check_image(model.preprocessing)
    images = torch.cat([image, -image, image.flip(3)])
    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    what = what_of(model.task)
    found = torch.from_numpy(session.run([what], {"images": images.numpy()})[0])
    with torch.no_grad():
        expected = model(images).float()
    if not same_outputs(found, expected, spread):
        raise IceprobeError(
            f"the ONNX of {model.backbone.spec!r} gives other {what} in onnxruntime (by up to "
            f"{float((found - expected).abs().max()):.3g}): take --format folder"
        )
