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
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.checksums import Digest
from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import takes
from iceprobe.core.specs import unknown
from iceprobe.core.text import short_name, shown
from iceprobe.datasets import load_dataset
from iceprobe.datasets.matching import Matching, matched
from iceprobe.fitting.api import file_name
from iceprobe.fitting.checks import check_device
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.fitted import load_fitted
from iceprobe.fitting.fitted_probe import logits_of
from iceprobe.fitting.other_votes import votes_of
from iceprobe.machine.folder_lock import exclusive
from iceprobe.machine.object_storage import is_remote, located
from iceprobe.machine.progress import ProgressCallback, callback, shows_progress
from iceprobe.machine.torch_state import in_own_state
from iceprobe.probes.probe import Probe
from iceprobe.results.building import scores_of
from iceprobe.results.files import FILE_NAME, read_results, write_results
from iceprobe.results.fitted import FittedResult
from iceprobe.results.other_sets import MASKED, TESTS
from iceprobe.results.predictions import FILE_NAME as PREDICTIONS
from iceprobe.results.predictions import Predictions, write_predictions
from iceprobe.results.provenance import line_of_identical, origin
from iceprobe.results.schema import Files, FittedOn, StoreReference
from iceprobe.results.stores import manifest_of, store_of
from iceprobe.settings import Extraction, OtherSetCall
from iceprobe.store import extract, extract_in_memory
from iceprobe.store.format import MANIFEST, BackboneRecord, DatasetRecord, Manifest
from iceprobe.store.identical import identical_rows
from iceprobe.store.layout import DTYPES
from iceprobe.store.reader import Store
from iceprobe.store.recorded import load_recorded, recorded_backbone, same_backbone
from iceprobe.store.request import as_backbone
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.records import Arrays, Record, joined
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.targets import some
from iceprobe.tasks.task import Task

log = logging.getLogger("iceprobe")
IMAGES = 256  # in a batch


@shows_progress
@takes(OtherSetCall)
@in_own_state
def test(run: Any, dataset: Any, *, call: OtherSetCall) -> list[FittedResult]:
    """Read a fitted run on another data set; no fit is repeated.

    Classes (tags, numbers) are matched by name, in any order; the other set may have only some of them,
    and one that the run doesn't predict is refused. The fitted modules of every seed predict; k-NN votes
    from the run's own training tokens with the k and T that the run chose.

    Args:
        run: a run folder, or the results of one run.
        dataset: spec, `Dataset`, or the feature store of the other set (its folder, or a `Store`), of
            the same backbone.
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
    results = _results_of(run)
    fit = _Fit.of(results, call.trust)
    progress = callback(call.progress)
    store, matching = _tokens(dataset, fit, call, progress)
    record = store.manifest.dataset
    place = None
    if fit.run is not None:
        name = call.name or _name(record, call.split)
        if not re.fullmatch(r"[\w=-][\w.=-]*", name):
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
        reading = _Reading(fit, store, call, place.name if place else call.name or record.name)
        found = reading.predicted(list(kinds.values()), progress)
        lines = reading.lines()
        log_assumptions(lines)
        made: dict[str, list[FittedResult]] = {
            kind: reading.results(one, found[number], lines, masked=kind == MASKED)
            for number, (kind, one) in enumerate(kinds.items())
        }
        if place is None:
            return [one for each in made.values() for one in each]
        # The one that says that the test is finished comes last.
        written = {kind: _write(place / kind, made[kind]) for kind in reversed(made)}
        return [one for kind in made for one in written[kind]]


def check_matches(dataset: Any, split: str, task: str, classes: Sequence[str]) -> None:
    """Refuse a `Dataset` that a run with these classes can't be read on, before anything is made.

    Raises:
        IceprobeError: as :func:`test`.
    """
    if split not in dataset.splits:
        raise IceprobeError(unknown(f"split of {dataset.name}", split, dataset.splits))
    _check_task(dataset.spec, dataset.task, task)
    targets, task_of = dataset.splits[split].targets, get_task(task)
    _match(task_of, classes, dataset.classes, targets, dataset.maps, dataset.spec)


def is_store(place: Any) -> bool:
    """Whether it is a feature store, or names the folder of one."""
    if isinstance(place, Store):
        return True
    if not isinstance(place, str | Path):
        return False
    return bool(is_remote(place)) or (Path(place) / MANIFEST).is_file()


@dataclass(frozen=True)
class _Fit:
    """A run that was fitted, and its store as far as it is there."""

    results: list[FittedResult]
    run: Path | None
    manifest: Manifest | None  # of its store
    store: Store | None
    gone: str  # why the store isn't there
    trust: bool

    @classmethod
    def of(cls, results: list[FittedResult], trust: bool) -> "_Fit":
        first, manifest, store, gone = results[0], None, None, ""
        try:
            manifest = manifest_of(first, trust=trust)
            store = store_of(first, trust=trust)
        except IceprobeError as error:
            gone = str(error)
        return cls(results, first.run, manifest, store, gone, trust)

    @property
    def task(self) -> Task:
        return get_task(self.results[0].task)

    @property
    def target_task(self) -> str:
        """Name of the task of its targets, of which `task` may be another reading."""
        return self.manifest.dataset.task if self.manifest else self.results[0].task

    @property
    def classes(self) -> list[str]:
        """Names of the outputs."""
        names = self.results[0].class_names or (self.manifest and self.manifest.dataset.classes)
        if not names:
            raise IceprobeError(
                "the run is of an earlier iceprobe, which kept no names of classes, and its store is "
                f"gone ({self.gone}): fit it again"
            )
        return list(names)


def _results_of(run: Any) -> list[FittedResult]:
    """The results of one frozen backbone's run."""
    if isinstance(run, FittedResult):
        run = [run]
    results = read_results(run) if isinstance(run, str | Path) else list(run)
    if not results or not all(isinstance(one, FittedResult) for one in results):
        raise IceprobeError(f"test(run={shown(run)}): give a run folder, or the results of a run")
    first = results[0]
    if len({(one.run, one.store.identity, one.shots, one.fraction) for one in results}) > 1:
        raise IceprobeError(
            f"{first.run or 'these'} are results of several runs: name one of them"
            + (f", a folder of {first.run / 'cells'}" if first.run else "")
        )
    if first.test_of is not None:
        raise IceprobeError(
            f"{first.run} is a test of a run: name the run itself, {first.test_of.store.path or ''}"
            if first.run is None
            else f"{first.run} is a test: name the run itself, {_run_of_test(first.run)}"
        )
    if any(one.adaptation is not None for one in results):
        raise IceprobeError(
            f"{first.run or first.label} is of an adapted backbone, which is read on another data set only "
            "as its own test split: adapt with that set, or export it and predict"
        )
    return results


def _run_of_test(folder: Path) -> Path:
    return folder.parents[1] if folder.parent.name == TESTS else folder.parents[2]


def _tokens(
    given: Any, fit: _Fit, call: OtherSetCall, progress: ProgressCallback | None
) -> tuple[Store, Matching]:
    """The other set's tokens, and how the run's outputs are read on it."""
    if is_store(given):
        store = given if isinstance(given, Store) else Store.open(given, trust=call.trust)
        if call.limit is not None:
            raise IceprobeError(f"limit={call.limit} is for images: a store has its tokens already")
        _check_backbone(store, fit)
        record = store.manifest.dataset
        split = store[call.split]
        _check_task(record.spec, record.task, fit.target_task)
        return store, _match(
            fit.task, fit.classes, record.classes, split.targets, record.maps, record.spec
        )
    dataset = load_dataset(given)
    check_matches(dataset, call.split, fit.target_task, fit.classes)
    backbone = _backbone(fit, call)
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
    if where is None:
        store = extract_in_memory(backbone, dataset, extraction, progress=progress)
    else:
        store = extract(backbone, dataset, where, extraction, progress=progress)
    targets, record = store[call.split].targets, store.manifest.dataset
    return store, _match(fit.task, fit.classes, record.classes, targets, dataset.maps, dataset.spec)


def _features(fit: _Fit, call: OtherSetCall) -> Any:
    """The folder of the other set's store; None: it stays in memory, as the run did."""
    if call.features is not None:
        return call.features
    path = fit.results[0].store.path
    if path is not None:
        return located(path).parent
    return None if fit.run is None else Path("features")


def _backbone(fit: _Fit, call: OtherSetCall) -> Any:
    first = fit.results[0]
    if call.backbone is not None:
        backbone = as_backbone(call.backbone)
        if fit.manifest is not None:
            same_backbone(backbone, fit.manifest.backbone)
        return backbone
    if fit.manifest is not None:
        origin_of = fit.store.path if fit.store else fit.run
        return recorded_backbone(fit.manifest.backbone, origin_of, trust=fit.trust)
    record = BackboneRecord(
        spec=first.backbone, name="", paradigm="", pooled_class=False, identity={}, preprocessing={}
    )
    return load_recorded(first.backbone, record, fit.run, fit.trust)


def _check_backbone(store: Store, fit: _Fit) -> None:
    """Refuse tokens of another backbone than the run's."""
    theirs = store.manifest.backbone
    ours = fit.manifest.backbone if fit.manifest else None
    if ours is None:
        same = theirs.spec == fit.results[0].backbone
    else:
        same = (ours.identity, ours.preprocessing) == (theirs.identity, theirs.preprocessing)
    if not same:
        raise IceprobeError(
            f"store {store.path or store.identity[:16]} has tokens of {theirs.spec!r}, which isn't the "
            f"backbone of the run, {fit.results[0].backbone!r}: give the images' spec in its place"
        )


def _check_task(spec: str, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise IceprobeError(
            f"{spec} has targets of {theirs}, and the run predicts those of {ours}: give the set of the "
            f"same targets, or read it with task={ours}"
        )


def _match(
    task: Task,
    ours: Sequence[str],
    theirs: Sequence[str],
    targets: NDArray[Any],
    maps: Mapping[str, Sequence[str]],
    spec: str,
) -> Matching:
    noun = {"classes": "class"}.get(task.outputs, task.outputs.removesuffix("s"))
    return matched(ours, theirs, task.occurring(targets), maps, f"{noun} of {spec}:")


class _Reading:
    """The probes of a run on the tokens of another set."""

    def __init__(self, fit: _Fit, store: Store, call: OtherSetCall, name: str):
        self.fit, self.store, self.name = fit, store, name
        self.split_name = call.split
        self.split: StoredSplit = store[call.split]
        if not len(self.split):
            raise IceprobeError(f"split {call.split!r} has no image that could be read")
        self.device = check_device(call.device)
        self.command = call.command if call.command is not None else shlex.join(sys.argv)
        self.trained = [one for one in fit.results if one.method == "trained"]
        if lost := [one.label for one in fit.results if one.method == "knn"]:
            if fit.store is None or "train" not in fit.store.splits:
                raise IceprobeError(
                    f"{lost[0]} votes from the training tokens of the run, which aren't there "
                    f"({fit.gone or 'the store has no train'}): extract them again, or run without it"
                )

    def predicted(
        self, matchings: Sequence[Matching], progress: ProgressCallback | None
    ) -> list[dict[str, Predictions]]:
        """By matching, each probe's predictions."""
        advance = progress or (lambda stage, done, of: None)
        task = self.fit.task
        targets = [task.placed(self.split.targets, m.targets, len(m.names)) for m in matchings]
        records = self._records(matchings, targets, advance)
        for one in self.fit.results:
            if one.method == "knn":
                assert self.fit.store is not None
                records[one.label] = votes_of(
                    one, self.fit.store, self.split, self._run_seed,
                    list(zip(matchings, targets, strict=True)), self.device, advance,
                )  # fmt: skip
        columns = {
            "names": self.store.names_at_hand(self.split_name),
            "groups": self.store.groups(self.split_name),
            "slices": self.store.slices(self.split_name),
        }
        return [
            {
                one.label: replace(
                    Predictions.of(Arrays(records[one.label][number]), of_matching), **columns
                )
                for one in self.fit.results
            }
            for number, of_matching in enumerate(targets)
        ]

    def _records(
        self,
        matchings: Sequence[Matching],
        targets: Sequence[NDArray[Any]],
        advance: Callable[[str, int, int], None],
    ) -> dict[str, list[Record]]:
        """Of the trained probes, by label and matching: one pass over the tokens."""
        modules = {one.label: self._modules(one) for one in self.trained}
        if not modules:
            return {}
        task, done = self.fit.task, 0
        inputs = {probes[0].input for probes in modules.values()}
        self._check_inputs(modules)
        narrow = {str(one.training.get("dtype", "float32")) for one in self.trained} - {"float32"}
        dtype = DTYPES[min(narrow)] if narrow else torch.float32  # one fit has one
        feed = Feed(self.split, np.arange(len(self.split)), inputs, self.device, dtype)
        parts: dict[str, list[list[Record]]] = {label: [[] for _ in matchings] for label in modules}
        placed = [torch.from_numpy(one).to(self.device) for one in targets]
        for batch in feed.in_order(IMAGES):
            rows = slice(done, done + len(batch.labels))
            for label, probes in modules.items():
                logits = logits_of(probes, batch.inputs[probes[0].input])
                for number, matching in enumerate(matchings):
                    record = task.record(read_logits(logits, matching), placed[number][rows])
                    parts[label][number].append(record)
            done = rows.stop
            advance(f"test {self.name}", done, len(self.split))
            del batch
        return {
            label: [joined(part, task.summed) for part in of_label]
            for label, of_label in parts.items()
        }

    def _modules(self, result: FittedResult) -> list[Probe]:
        seeds = [None] if result.training.get("optimizer") == "lbfgs" else result.seeds or [None]
        shape = self.store.shape
        return [load_fitted(result, shape, seed).to(self.device) for seed in seeds]

    def _check_inputs(self, modules: Mapping[str, Sequence[Probe]]) -> None:
        for label, probes in modules.items():
            if probes[0].input.endswith("patches") and not self.store.has_patches:
                raise IceprobeError(
                    f"{label} reads patch tokens and store {self.store.path} has only pooled vectors: "
                    "extract it with patches"
                )

    @property
    def _run_seed(self) -> int | None:
        """The seed of the run's draws."""
        from iceprobe.core.documents import parse_json
        from iceprobe.fitting.run_folder import REQUEST

        for one in self.trained:
            if isinstance(seed := one.training.get("run_seed"), int):
                return seed
        if self.fit.run is not None and (self.fit.run / REQUEST).is_file():
            seed = parse_json((self.fit.run / REQUEST).read_bytes()).get("run_seed")
            return seed if isinstance(seed, int) else None
        return None

    def lines(self) -> list[str]:
        """What is assumed about the two sets together, a line each."""
        found = []
        if self.fit.manifest is None:
            found.append(
                f"the run's feature store isn't there ({self.fit.gone}): that its backbone is still what it "
                "was, and which images are training images too, isn't checked"
            )
        if self.rows:
            names = self.store.names_at_hand(self.split_name)
            found.append(line_of_identical(self.rows, len(self.split), self.split_name, names))
        return [*found, *self._shared_groups()]

    @property
    def rows(self) -> list[int]:
        """Rows whose image is a training image of the run."""
        if self.fit.store is None or "train" not in self.fit.store.splits:
            return []
        if not hasattr(self, "_rows"):
            self._rows = identical_rows(self.fit.store["train"], self.split).tolist()
        return list(self._rows)

    def _shared_groups(self) -> list[str]:
        """A line on groups that are in the run's training split and in the other set."""
        ours, theirs = self.fit.store, self.store
        if ours is None or "train" not in ours.splits:
            return []
        name, record = ours.manifest.dataset.group, theirs.manifest.dataset
        if name is None or name != record.group:
            return []
        known, values = ours.manifest.dataset.values[name], record.values[name]
        trained = {known[code] for code in np.unique(ours["train"].columns[name]) if code >= 0}
        codes = self.split.columns[name]
        both = [code for code in np.unique(codes).tolist() if code >= 0 and values[code] in trained]
        if not both:
            return []
        return [
            f"{len(both)} groups ({name} {some([values[code] for code in both])}) are in the run's train and "
            f"in {self.split_name} of {record.spec}: {np.isin(codes, both).sum():,} of {len(codes):,} "
            "examples aren't independent of train, so scores may be too high"
        ]

    def results(
        self,
        matching: Matching,
        predicted: Mapping[str, Predictions],
        lines: Sequence[str],
        *,
        masked: bool,
    ) -> list[FittedResult]:
        """The run's results, with the scores on the other set."""
        manifest = self.store.manifest
        first = self.fit.results[0]
        where = origin(
            manifest, self.split_name, first.train_images or 0, self.split.index, self.command
        )
        path = str(self.store.path.resolve()) if self.store.path else None
        read = ("dataset", "images", "split", "test_images", "environment", "git_commit")
        fields = {name: where[name] for name in (*read, "command", "created", "skipped_images")} | {
            "classes": len(matching.names),
            "class_names": matching.names,
            "store": StoreReference(path=path, identity=self.store.identity),
            "assumed": [*where["assumed"], *self._said(matching, masked), *lines],
            "identical_images": len(self.rows),
            "last_epoch": None,
            "files": Files(),
            "masked": masked,
        }
        return [self._result(one, predicted[one.label], fields) for one in self.fit.results]

    def _result(
        self, one: FittedResult, predicted: Predictions, fields: Mapping[str, Any]
    ) -> FittedResult:
        metrics = scores_of(predicted, one.task)
        usual = get_task(one.task).primary
        primary = next(name for name in (one.primary, usual, *metrics) if name in metrics)
        on = FittedOn(
            name=self.name,
            dataset=one.dataset,
            split=one.split,
            store=one.store,
            created=one.created,
        )
        return one.replaced(
            predictions=predicted,
            open_store=self.store,
            metrics=metrics,
            primary=primary,
            test_of=on,
            **fields,
        )

    def _said(self, matching: Matching, masked: bool) -> list[str]:
        """How outputs that the other set lacks were read."""
        task, total = self.fit.task, len(self.fit.classes)
        name = self.store.manifest.dataset.name
        if masked:
            return [
                f"only the logits of the {len(matching.names):,} {task.outputs} of {name} count"
            ]
        if not matching.without:
            return []
        if task.exclusive:
            return [
                f"the run predicts {total:,} {task.outputs}, also those that {name} lacks: a prediction of "
                "one of them is wrong"
            ]
        places = np.setdiff1d(np.arange(len(matching.names)), matching.targets)
        lacked = some([matching.names[place] for place in places])
        return [f"{name} lacks the {task.outputs} {lacked} of the run: they count nowhere"]


def read_logits(logits: Tensor, matching: Matching) -> Tensor:
    """Logits ``(…, K)`` of a run as those of the outputs that are read, ``(…, K')``; of a group the maximum."""
    if matching.whole:
        return logits
    kept = torch.from_numpy(np.flatnonzero(matching.outputs >= 0)).to(logits.device)
    place = torch.from_numpy(matching.outputs).to(logits.device)[kept]
    read = logits.new_full((*logits.shape[:-1], len(matching.names)), -torch.inf)
    taken = logits[..., kept]
    return read.scatter_reduce(-1, place.expand_as(taken), taken, "amax")


def _name(record: DatasetRecord, split: str) -> str:
    name = short_name(file_name(record.name)).lstrip(".") or "test"
    return name if split == "test" else f"{name}-{file_name(split)}"


def _finished(place: Path, fit: _Fit, store: Store, split: str) -> list[FittedResult]:
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
    return [one.replaced(open_store=store) for one in found]


def _write(folder: Path, results: Sequence[FittedResult]) -> list[FittedResult]:
    """Write predictions, then results."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PREDICTIONS
    write_predictions(path, {one.label: one.needed_predictions() for one in results})
    files = Files(predictions=PREDICTIONS, digests={PREDICTIONS: Digest.of(path)})
    written = [one.replaced(run=folder, files=files) for one in results]
    write_results(folder, written)
    return written
