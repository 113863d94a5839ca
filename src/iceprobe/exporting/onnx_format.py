"""``model.onnx``: images or clips, or tokens and their mask → logits or values for any runtime.

The batch is dynamic, and so is the number of tokens where the probe was fitted on several.

Preprocessing stays outside and is described in ``model.json``; the metadata say what the outputs are.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iceprobe.backbones.kinds import plural
from iceprobe.core.errors import IceprobeError
from iceprobe.datasets.decoding import one_line
from iceprobe.exporting.card import ONNX
from iceprobe.exporting.exported import ExportedProbe, check_input, same_outputs, what_of
from iceprobe.exporting.of_tokens import TokenProbe, check_tokens

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


def write_onnx(
    model: ExportedProbe | TokenProbe, folder: Path, spread: Sequence[float] = ()
) -> None:
    """Write ``folder/model.onnx`` and check in onnxruntime that it gives the same outputs.

    The input is ``images (batch, C, S, S)``, float32, or ``clips (batch, frames, C, S, S)``, or ``sounds (batch, …)``,
    the features of a window. Of a probe on tokens of your own it is ``tokens (batch, N, D)``
    with ``mask (batch, N)`` bool where examples may differ in N, or vectors ``tokens (batch, D)``. The output is
    ``logits (batch, K)`` of classes or tags, or ``values (batch, K)`` of numbers, whose ``spread`` is that of the
    card. Metadata: ``task``, and ``names`` and ``units`` of the outputs as JSON.

    Raises:
        IceprobeError: if the backbone can't be exported, reads examples of any length, or its ONNX gives other
            outputs.
    """
    given, spec = _inputs(model), _spec(model)
    heavy = sum(tensor.nbytes for tensor in model.state_dict().values()) > PROTOBUF_BYTES
    try:
        torch.onnx.export(
            model,
            tuple(given.values()),
            folder / ONNX,
            input_names=list(given),
            output_names=[what_of(model.task)],
            dynamo=True,
            dynamic_shapes=_dynamic(model, given),
            external_data=heavy,
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise IceprobeError(
            f"{spec} with its probe can't be written as ONNX ({reason}): take --format folder"
        ) from error
    _describe(model, folder / ONNX)
    _check(model, folder, spread)


def _spec(model: ExportedProbe | TokenProbe) -> str:
    if isinstance(model, TokenProbe):
        return "tokens of your own"
    return f"backbone {model.backbone.spec!r}"


def _inputs(model: ExportedProbe | TokenProbe) -> dict[str, Tensor]:
    """Two inputs or more, by name.

    Raises:
        IceprobeError: for a probe of tokens that reads more than patches, and for examples of any length.
    """
    if isinstance(model, ExportedProbe):
        kind, wave = model.preprocessing.kind, _fixed(model)
        return {f"{kind}s": torch.cat([wave, -wave])}
    model.check_patches("an ONNX of tokens of your own takes no others, take --format folder")
    tokens = check_tokens(model.shape)
    if not model.shape.num_tokens:
        return {"tokens": tokens.patches[:, 0]}
    given = {"tokens": tokens.patches}
    if tokens.mask is not None:
        given["mask"] = tokens.mask
    return given


def _fixed(model: ExportedProbe) -> Tensor:
    """The example by which a model is checked, where all are of one shape and have as many tokens."""
    kind = model.preprocessing.kind
    if kind == "image":
        model.backbone.of_images("an ONNX file")
    wave = check_input(model.preprocessing)
    if not isinstance(wave, Tensor) or model.shape.ragged:
        raise IceprobeError(
            f"an ONNX file is of examples with equally many tokens, and those of backbone {model.backbone.spec!r}, "
            f"{plural(kind)}, have any number: take --format folder"
        )
    return wave


def _dynamic(
    model: ExportedProbe | TokenProbe, given: Mapping[str, Tensor]
) -> tuple[dict[int, Any], ...]:
    """The axes of each input whose length isn't fixed."""
    batch, many = torch.export.Dim("batch"), torch.export.Dim("tokens")
    of_tokens = isinstance(model, TokenProbe) and model.shape.ragged
    return tuple({0: batch, 1: many} if of_tokens else {0: batch} for _ in given)


def _others(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of another batch size, and of another number of tokens where it is dynamic."""
    if "mask" in given:
        return {name: torch.cat([one, one.flip(0)])[:, :5] for name, one in given.items()}
    return {name: torch.cat([one, one[:1].flip(-1)]) for name, one in given.items()}


def _describe(model: ExportedProbe | TokenProbe, path: Path) -> None:
    """Put the metadata of the outputs in place of those of each node, which name files of this machine."""
    import onnx

    written = onnx.load(path, load_external_data=False)
    for node in written.graph.node:
        del node.metadata_props[:]
    outputs = {"task": model.task.name, "names": json.dumps(model.classes)}
    onnx.helper.set_model_props(written, outputs | {"units": json.dumps(model.units)})
    onnx.save(written, path)


def _check(model: ExportedProbe | TokenProbe, folder: Path, spread: Sequence[float]) -> None:
    """Compare with onnxruntime, on another batch size than the exporter used."""
    import onnxruntime

    others = _others(_inputs(model))
    what = what_of(model.task)
    read = {name: one.numpy() for name, one in others.items()}
    try:
        session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run([what], read)[0])
    except Exception as error:  # onnxruntime's are of many kinds
        reason = one_line(error)[:300]
        raise IceprobeError(
            f"the ONNX of {_spec(model)} doesn't run in onnxruntime with another batch size ({reason}): take "
            "--format folder"
        ) from error
    with torch.no_grad():
        expected = model(*others.values()).float()
    if not same_outputs(found, expected, spread):
        raise IceprobeError(
            f"the ONNX of {_spec(model)} gives other {what} in onnxruntime (by up to "
            f"{float((found - expected).abs().max()):.3g}): take --format folder"
        )
