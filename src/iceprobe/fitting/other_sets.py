"""A fitted run on another data set, without a fit: ``iceprobe.test``.

    run ──▶ backbone ──▶ tokens of the other set ─┐
     └────▶ fitted modules of every seed; k-NN's bank, k and T ─▶ records ─▶ tests/NAME/ in the run folder

Outputs are matched by name (`datasets/matching.py`). Where an example has one class and the other set has
only some of the run's, there are two results a probe: with all logits, and ``masked``, where the logits of
absent classes don't count.

    tests/NAME/results.json, predictions.safetensors                  all logits; written last
    tests/NAME/masked/results.json, predictions.safetensors           the same probes, masked
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.checksums import Digest
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.text import short_name, shown
from iceprobe.datasets import DATASETS, Dataset, load_dataset
from iceprobe.datasets.registry import load_grouped_if_it_can
from iceprobe.datasets.token_split import FeatureSet
from iceprobe.fitting.api import file_name
from iceprobe.fitting.fitted_run import FittedRun
from iceprobe.fitting.other_reading import Reading
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.object_storage import is_remote, located
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.machine.torch_state import in_own_state
from iceprobe.results.files import FILE_NAME, read_results, write_results
from iceprobe.results.fitted import FittedResult
from iceprobe.results.listing import Results
from iceprobe.results.other_sets import MASKED, NAME, TESTS
from iceprobe.results.predictions import FILE_NAME as PREDICTIONS
from iceprobe.results.predictions import write_predictions
from iceprobe.results.schema import Files
from iceprobe.settings import Extraction, OtherSetCall
from iceprobe.store import extract, extract_in_memory, load_features
from iceprobe.store.format import MANIFEST, DatasetRecord
from iceprobe.store.reader import Store
from iceprobe.store.writer import extract_layers_with

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone

log = logging.getLogger("iceprobe")


@shows_progress
@takes(OtherSetCall)
@in_own_state
def test(run: Any, dataset: Any, *, call: OtherSetCall) -> Results[FittedResult]:
    """Read a fitted run on another data set; no fit is repeated.

    Classes (tags, numbers) are matched by name, in any order; the other set may have only some of them,
    and one that the run doesn't predict is refused. The fitted modules of every seed predict; k-NN votes
    from the run's own training tokens with the k and T that the run chose.

    Args:
        run: a run folder, or the results of one run.
        dataset: spec, `Dataset`, or the feature store of the other set (its folder, a `Store`, or tokens
            in files, ``features:FILE``), of the same backbone.
        settings: an :class:`iceprobe.settings.OtherSet`, or its options as keywords, with
            ``backbone``, ``trust`` and ``progress``.

    Returns:
        One result a probe with all logits; where the set has only some of the run's classes, then one
        a probe in which only the logits of its classes count (``masked``). They are written to
        ``tests/NAME`` in the run folder, if there is one. If that holds this very test, they are read.

    Raises:
        IceprobeError: for a name that the run doesn't predict (with the nearest), other targets than the
            run's, tokens of another backbone, or a test of the same name on other images.
    """
    fit = FittedRun.of(run, call.trust)
    progress = callback(call.progress)
    store = _grouped(_tokens(dataset, fit, call, progress), fit.group)
    record = store.manifest.dataset
    matching = fit.predicts.match(record, store[call.split].targets)
    place = None
    if fit.run is not None:
        name = call.name or _name(record, call.split)
        if not NAME.fullmatch(name):
            raise IceprobeError(f"name {shown(name)} of a test: take letters, digits, _, - and .")
        place = fit.run / TESTS / name
    with ExitStack() as locked:
        if place is not None:
            locked.enter_context(exclusive(place))
            if (place / FILE_NAME).exists():
                return _finished(place, fit, store, call.split)
        kinds = {"": matching}
        if fit.task.exclusive and 1 < len(matching.names) - matching.without < len(matching.names):
            kinds[MASKED] = matching.masked()
        reading = Reading(fit, store, call, place.name if place else call.name or record.name)
        found = reading.predicted(list(kinds.values()), progress)
        lines = [*fit.predicts.lines(matching, record), *reading.lines()]
        log_assumptions(lines)
        made: dict[str, list[FittedResult]] = {
            kind: reading.results(one, found[number], lines, masked=kind == MASKED)
            for number, (kind, one) in enumerate(kinds.items())
        }
        if place is None:
            return Results(one for each in made.values() for one in each)
        # The one that says that the test is finished comes last.
        written = {kind: _write(place / kind, made[kind]) for kind in reversed(made)}
        return Results(one for kind in made for one in written[kind])


def is_store(place: Any) -> bool:
    """Whether it is a feature store, or names the folder of one."""
    if isinstance(place, Store):
        return True
    if not isinstance(place, str | Path):
        return False
    if (kind := str(place).partition(":")[0]) in DATASETS or "?" in str(place):
        return False  # a spec, which `is_remote` would take for a URL
    return (kind != str(place) and is_remote(place)) or (Path(place) / MANIFEST).is_file()


def _tokens(
    given: Any, fit: FittedRun, call: OtherSetCall, progress: ProgressCallback | None
) -> Store:
    """The other set's tokens, which fit the run."""
    if not is_store(given):
        grouped = isinstance(given, str)
        given = load_grouped_if_it_can(given, fit.group) if grouped else load_dataset(given)
        if isinstance(given, FeatureSet):
            given = load_features(given, progress=progress or False)
    if is_store(given):
        store = given if isinstance(given, Store) else Store.open(given, trust=call.trust)
        if call.limit is not None:
            raise IceprobeError(f"limit={call.limit} is for images: a store has its tokens already")
        labels = [one.label for one in fit.results]
        fit.predicts.check_store(store, call.split, labels)
        return store
    dataset = given
    fit.predicts.check_dataset(dataset, call.split)
    backbone = fit.backbone(call.backbone)
    asked: dict[str, Any] = {
        "splits": [call.split],
        "limit": call.limit,
        "device": call.device,
        "workers": call.workers,
        "on_bad_image": call.on_bad_image,
    }
    if fit.manifest is not None:
        settings = fit.manifest.settings
        asked |= {
            "forward_dtype": settings.forward_dtype,
            "tokens": settings.tokens,
            "patches": settings.patches,
            "forward_batch_size": settings.batch_size,
        }
    extraction, where = Extraction(**asked), _features(fit, call)
    if fit.several_layers:
        layers = fit.store.layers if fit.store else {}
        bare = [layer for layer, one in layers.items() if not one.has_patches]
        return _side_by_side(backbone, dataset, where, extraction, bare, progress)
    if where is None:
        return extract_in_memory(backbone, dataset, settings=extraction, progress=progress)
    return extract(backbone, dataset, where, extraction, progress=progress)


def _grouped(store: Store, column: str | None) -> Store:
    """The set in the groups of the run's own column, where it has that and names none itself."""
    record = store.manifest.dataset
    named = record.group is not None or column not in record.values
    return store if named else store.grouped_by(column)


def _side_by_side(
    backbone: "Backbone",
    dataset: Dataset,
    where: Any,
    extraction: Extraction,
    bare: Sequence[int],
    progress: ProgressCallback | None,
) -> Store:
    """The tokens of all layers of ``backbone``, of those in ``bare`` only vectors; from one pass, if they are
    written."""
    if where is None:
        made = [
            extract_in_memory(
                one, dataset, settings=extraction, progress=progress,
                patches=extraction.patches and layer not in bare,
            )
            for layer, one in zip(backbone.layers, backbone.per_layer(), strict=True)
        ]  # fmt: skip
    else:
        made = extract_layers_with(bare, backbone, dataset, where, extraction, progress=progress)
    return Store.joined(made, depth=backbone.depth)


def _features(fit: FittedRun, call: OtherSetCall) -> Any:
    """The folder of the other set's store; None: it stays in memory, as the run did."""
    if call.features is not None:
        return call.features
    (path, *_) = [one.path for one in fit.results[0].store.layers or [fit.results[0].store]]
    if path is not None:
        return located(path).parent
    return None if fit.run is None else Path("features")


def _name(record: DatasetRecord, split: str) -> str:
    name = short_name(file_name(record.name)).lstrip(".") or "test"
    return name if split == "test" else f"{name}-{file_name(split)}"


def _finished(place: Path, fit: FittedRun, store: Store, split: str) -> Results[FittedResult]:
    """The results of a test that is there already, if it is this one.

    Raises:
        IceprobeError: if it is of other images, or of another fit.
    """
    found = read_results(place)
    if (place / MASKED / FILE_NAME).exists():
        found += read_results(place / MASKED)
    ours = {one.label: one.created for one in fit.results}
    theirs = {one.label: one.test_of.created for one in found if one.test_of is not None}
    read = {(one.store.identity, one.split) for one in found}
    if read != {(store.identity, split)} or ours != theirs:
        what = "of an earlier fit" if ours != theirs else f"on other images ({found[0].dataset})"
        raise IceprobeError(
            f"{place} holds a test {what}: give this one another name, or remove the folder"
        )
    log.info("%s is complete already", place)
    return Results(one.replaced(open_store=store) for one in found)


def _write(folder: Path, results: Sequence[FittedResult]) -> list[FittedResult]:
    """Write predictions, then results."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PREDICTIONS
    write_predictions(path, {one.label: one.needed_predictions() for one in results})
    files = Files(predictions=PREDICTIONS, digests={PREDICTIONS: Digest.of(path)})
    written = [one.replaced(run=folder, files=files) for one in results]
    write_results(folder, written)
    return written
