"""The run folder of fitted segmentation probes.

Beside ``dense.json`` and ``dense.csv`` (:mod:`iceprobe.results.segmentation_files`): ``probes/``, the
fitted modules (`iceprobe.dense.build` makes one that takes the state), and ``segmentation.png``, some
reported images.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from iceprobe.core.checksums import SEAL, check_tensors, tensors_digest
from iceprobe.core.errors import IceprobeError
from iceprobe.dense.pictures import draw
from iceprobe.machine.files import write_atomically
from iceprobe.probes.segmentation import build
from iceprobe.results.dense import Dense
from iceprobe.results.segmentation_files import PICTURE_NAME, write_segmentation_results
from iceprobe.store.reader import Store


def write_segmentations(folder: str | Path, results: Sequence[Dense], store: Store) -> list[Dense]:
    """Write all files of fitted probes, ``dense.json`` last, and return the results with their names.

    ``results`` have their modules, and images of ``store``, which they were fitted on, are drawn.
    """
    folder = Path(folder)
    named = []
    for result in results:
        names = [f"probes/{result.probe}-seed{seed}.safetensors" for seed in result.seeds]
        for name, probe in zip(names, result.probes, strict=True):
            state = probe.state_dict()
            sealed = {SEAL: tensors_digest(state, result.probe)}
            write_atomically(folder / name, save(state, metadata={"probe": result.probe} | sealed))
        named.append(result.replaced(files=names))
    picture = io.BytesIO()
    draw(results, store).save(picture, "PNG", optimize=True)
    write_atomically(folder / PICTURE_NAME, picture.getvalue())
    write_segmentation_results(folder, named)
    return named


def reopened(result: Dense, store: Store) -> Dense:
    """A result read from its folder, with its fitted modules loaded.

    Raises:
        IceprobeError: naming a file that is missing or isn't as it was written.
    """
    assert result.run is not None
    probes = []
    remedy = "put it back as it was, or fit the run again into another folder"
    for name in result.files:
        path = result.run / name
        probe = build(result.probe, store.dim, result.num_outputs)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            state = load_file(path)
            check_tensors(path, state, metadata, "probe", remedy)
            probe.load_state_dict(state)
        except (SafetensorError, RuntimeError, OSError) as error:
            first = str(error).splitlines()[0]
            raise IceprobeError(f"fitted probe {path} can't be read ({first}): {remedy}") from error
        probes.append(probe)
    return result.replaced(probes=probes)
