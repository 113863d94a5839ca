"""``model.onnx``: images → logits for any runtime, with a dynamic batch.

Preprocessing stays outside and is described in ``model.json``.
"""

import importlib.util
from pathlib import Path

import torch

from iceprobe.core.errors import IceprobeError
from iceprobe.exporting.card import ONNX
from iceprobe.exporting.exported import ExportedProbe, check_image, same_logits

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


def write_onnx(model: ExportedProbe, folder: Path) -> None:
    """Write ``folder/model.onnx`` and check in onnxruntime that it gives the same logits.

    The input is ``images (batch, C, S, S)``, float32, the output ``logits (batch, classes)``.

    Raises:
        IceprobeError: if the backbone can't be exported, or its ONNX gives other logits.
    """
    image = check_image(model.preprocessing)
    heavy = sum(tensor.nbytes for tensor in model.state_dict().values()) > PROTOBUF_BYTES
    try:
        torch.onnx.export(
            model,
            (torch.cat([image, -image]),),
            folder / ONNX,
            input_names=["images"],
            output_names=["logits"],
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
    _forget_traces(folder / ONNX)
    _check(model, folder)


def _forget_traces(path: Path) -> None:
    """Remove the exporter's metadata of each node, which names files of this machine."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, path)


def _check(model: ExportedProbe, folder: Path) -> None:
    """Compare with onnxruntime, on another batch size than the exporter used."""
    import onnxruntime

    image = check_image(model.preprocessing)
    images = torch.cat([image, -image, image.flip(3)])
    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    with torch.no_grad():
        expected = model(images).float()
    if not same_logits(found, expected):
        raise IceprobeError(
            f"the ONNX of {model.backbone.spec!r} gives other logits in onnxruntime (by up to "
            f"{float((found - expected).abs().max()):.3g}): take --format folder"
        )
