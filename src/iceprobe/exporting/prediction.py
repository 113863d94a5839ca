"""An exported probe on a folder of images or other examples: a table of predictions, attention maps on request."""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iceprobe.backbones.kinds import plural
from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.datasets.pixels import Seen
from iceprobe.exporting.examples import way_of
from iceprobe.exporting.exported import ExportedProbe
from iceprobe.exporting.maps import MapWriter, pictures_of
from iceprobe.exporting.of_tokens import TokenProbe
from iceprobe.exporting.table import Table
from iceprobe.machine.files import write_atomically
from iceprobe.machine.progress import callback, shows_progress
from iceprobe.machine.temporary import new_folder
from iceprobe.settings import Extraction, PredictCall
from iceprobe.store.noted import assumed_of, left_out, noted
from iceprobe.store.pipeline import extracted_batches
from iceprobe.store.request import choose_device, make_settings
from iceprobe.store.shards import LENGTH
from iceprobe.store.split import mask_of
from iceprobe.store.work import plan_work
from iceprobe.tokens import JoinedTokens, Tokens

log = logging.getLogger("iceprobe")


@dataclass(frozen=True)
class Predicted:
    """The outcome of :func:`predict`.

    Attributes:
        images: rows of the table.
        skipped: names of the images that couldn't be read.
        maps: names of the tiles beside each image, left to right (below a clip or a recording); empty
            without maps.
    """

    images: int
    skipped: list[str]
    maps: list[str]


@shows_progress
@takes(PredictCall)
def predict(
    model: ExportedProbe | TokenProbe, images: str | Path, output: str | Path, *, call: PredictCall
) -> Predicted:
    """Predict of every image below a folder, or of every video, recording or bag: what the backbone reads.

    The table is CSV in UTF-8, one row per image in the order of paths, ``file`` (relative to the folder; of
    bags ``example``) and then what the task predicts (`exporting/table.py`): ``class`` and ``probability``,
    ``class_2``, ``probability_2`` and so on; the probability of every tag, in a column of its name; or every
    number, in a column of its name and unit, ``age (years)``. It is written at the end and replaces an existing
    one.

    Args:
        model: what :func:`iceprobe.load_probe` opened.
        images: a folder with images, videos or recordings at any depth; of bags a folder of folders, each
            of them a bag of the images directly in it.
        output: the table.
        settings: an :class:`iceprobe.settings.Prediction`, or its options as keywords. Its
            ``maps`` is a folder for ``NAME.png``, each image beside its attention maps (a clip or a recording
            above them): new, or with nothing but such pictures of these images.

    Raises:
        IceprobeError: if there are no images, one can't be read, an option is wrong, or the
            probe has no maps.
    """
    if isinstance(model, TokenProbe):
        raise IceprobeError(
            "this probe was fitted on tokens of your own, and no backbone makes them of images: give it such "
            "tokens in Python, iceprobe.load_probe(FOLDER).predict([tokens, …])"
        )
    progress, table = callback(call.progress), Table(model, call.top)
    kind = model.preprocessing.kind
    split, where = way_of(kind).below(images), choose_device(call.device)
    split.reading = model.reading
    asked = Extraction(
        forward_batch_size=call.forward_batch_size,
        forward_dtype=call.forward_dtype or model.amp,  # type: ignore[arg-type]
        tokens="float32",
        shard_images=len(split),  # nothing is stored: one piece of work
    )
    settings = make_settings(asked, where.type)
    model.to(where)
    names = [Path(name).as_posix() for name in split.names]
    skipped, seen = list[str](), list[Seen]()
    done = 0
    with contextlib.ExitStack() as stack:
        writer = None
        if call.maps is not None:
            pictures = {f"{name}.png" for name in names}
            folder = stack.enter_context(new_folder(call.maps, "--maps", pictures))
            writer = MapWriter(model, folder)
        for batch in extracted_batches(
            model.backbone,
            {"examples": split},
            plan_work("examples", np.arange(len(split)), 0, settings),
            settings=settings,
            device=where,
            workers=call.workers,
            on_bad_image=call.on_bad_image,
        ):
            done += len(batch.work.rows)
            skipped += batch.skipped
            seen += batch.seen
            if index := batch.layers[0][0]["index"].tolist():
                tokens, named = _tokens(model, batch.layers, where), [names[i] for i in index]
                with torch.no_grad():
                    table.add(named, model.probe(tokens))
                if writer is not None:
                    writer.write(tokens, pictures_of(model, split, index, tokens), named)
            if progress is not None:
                progress("predict", done, len(split))
        if not table.rows:
            raise IceprobeError(
                f"none of the {len(split)} {plural(kind)} in {str(images)!r} can be read: replace them"
            )
    # After the maps: if another process made that folder first, its table isn't replaced either.
    write_atomically(Path(output), table.csv())
    said = model.reading.said()
    log_assumptions(assumed_of(**noted(seen), total=len(seen), said=said, kind=kind))
    if skipped:
        log.warning("%s", left_out(skipped, kind))
    return Predicted(len(table.rows), skipped, writer.titles if writer else [])


def _tokens(
    model: ExportedProbe, layers: list[list[dict[str, Tensor]]], device: torch.device
) -> Tokens:
    """The evaluation view of each layer of the backbone."""
    singles = model.backbone.per_layer()
    found = [
        Tokens(
            view["patches"].to(device),
            view["prefix"].to(device),
            single.grid,
            single.has_class,
            {name: view[name].to(device) for name in single.vectors},
            mask_of(view[LENGTH].numpy()).to(device) if LENGTH in view else None,
            view["coords"].to(device) if "coords" in view else None,
        )
        for single, (view, *_) in zip(singles, layers, strict=True)
    ]
    if not model.probe.read.layers:
        return found[0]
    return JoinedTokens.of(dict(zip(model.backbone.layers, found, strict=True)))
