"""``dense.json`` and what lies beside it in a run folder.

``{"format": 1, "segmentations": [Segmentation, …]}``, fields as in `iceprobe.dense.schema`.
``dense.csv`` has a row for each class of each probe, ``probes/`` the fitted modules
(`iceprobe.dense.build` makes one that takes the state), ``segmentation.png`` some reported images.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from iceprobe.core.checksums import SEAL, check_tensors, seal, tensors_digest, unseal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import csv_text, json_bytes, utf8
from iceprobe.dense.pictures import draw
from iceprobe.dense.probes import build
from iceprobe.dense.schema import Segmentation
from iceprobe.machine.files import write_atomically
from iceprobe.results.files import SEGMENTATIONS
from iceprobe.store.reader import Store

FORMAT_VERSION = 1
JSON_NAME, CSV_NAME, PICTURE_NAME = SEGMENTATIONS, "dense.csv", "segmentation.png"


def write_segmentations(folder: str | Path, results: Sequence[Segmentation], store: Store) -> None:
    """Write all files of fitted probes; ``dense.json`` last.

    Args:
        folder: of the run.
        results: fresh from `segment`, with their modules.
        store: they were fitted on; its images are drawn.
    """
    folder = Path(folder)
    for result in results:
        names = [f"probes/{result.probe}-seed{seed}.safetensors" for seed in result.seeds]
        for name, probe in zip(names, result.probes, strict=True):
            state = probe.state_dict()
            sealed = {SEAL: tensors_digest(state, result.probe)}
            write_atomically(folder / name, save(state, metadata={"probe": result.probe} | sealed))
        result.files = names
    picture = io.BytesIO()
    draw(results, store).save(picture, "PNG", optimize=True)
    write_atomically(folder / PICTURE_NAME, picture.getvalue())
    write_atomically(folder / CSV_NAME, utf8(_table(results)))
    entries = [result.model_dump(mode="json") for result in results]
    document = seal({"format": FORMAT_VERSION, "segmentations": entries})
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / JSON_NAME, json_bytes(text))


def read_segmentations(run: str | Path) -> list[Segmentation]:
    """Read the results of a run folder; without the modules.

    Raises:
        IceprobeError: if there are none, or not such that this version can read.
    """
    path = Path(run) / JSON_NAME
    try:
        document = parse_json(path.read_bytes())
        if document["format"] != FORMAT_VERSION:
            raise IceprobeError(
                f"{path} has format {document['format']!r}, this iceprobe reads {FORMAT_VERSION}: "
                "use the version that wrote it, or run again"
            )
        document = unseal(document, path, "put it back as it was, or run again")
        results = [Segmentation.model_validate(entry) for entry in document["segmentations"]]
    except OSError as error:
        raise IceprobeError(
            f"no segmentations at {path} ({error.strerror}): name a folder that `iceprobe segment` "
            "made"
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise IceprobeError(f"{path} is damaged ({type(error).__name__}): run again") from error
    for result in results:
        result._run = path.parent
    return results


def reopened(result: Segmentation, store: Store) -> Segmentation:
    """A result that was read from its folder, with the fitted modules as a fresh one has them.

    Raises:
        IceprobeError: naming a file that is missing or isn't as it was written.
    """
    assert result.run is not None
    remedy = "put it back as it was, or fit the run again into another folder"
    for name in result.files:
        path = result.run / name
        probe = build(result.probe, store.dim, len(result.class_names))
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            state = load_file(path)
            check_tensors(path, state, metadata, "probe", remedy)
            probe.load_state_dict(state)
        except (SafetensorError, RuntimeError, OSError) as error:
            first = str(error).splitlines()[0]
            raise IceprobeError(f"fitted probe {path} can't be read ({first}): {remedy}") from error
        result._probes.append(probe)
    return result


def _table(results: Sequence[Segmentation]) -> str:
    rows: list[list[object]] = [["probe", "class", "iou", "pixels", "called", "hits"]]
    for result in results:
        called = [sum(column) for column in zip(*result.confusion, strict=True)]
        for c, (name, iou) in enumerate(zip(result.class_names, result.iou, strict=True)):
            cell = "" if iou is None else f"{iou:.6g}"
            of_class = result.confusion[c]
            rows.append([result.probe, name, cell, sum(of_class), called[c], of_class[c]])
    return csv_text(rows)
