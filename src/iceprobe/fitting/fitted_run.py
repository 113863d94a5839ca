"""A run that was fitted: its results, and its store as far as that is there, to be read on other images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.text import shown
from iceprobe.fitting.other_fit import Predicts
from iceprobe.fitting.run_folder import REQUEST
from iceprobe.results.files import read_results
from iceprobe.results.fitted import FittedResult
from iceprobe.results.other_sets import TESTS
from iceprobe.results.stores import manifest_of, store_of, stored_for
from iceprobe.store.format import BackboneRecord, Manifest
from iceprobe.store.reader import Store
from iceprobe.store.recorded import load_recorded, recorded_backbone, same_backbone
from iceprobe.store.request import as_backbone
from iceprobe.tasks.registry import get_task
from iceprobe.tasks.task import Task

if TYPE_CHECKING:
    from iceprobe.backbones.base import Backbone


@dataclass(frozen=True)
class FittedRun:
    """The results of one frozen backbone on one data set.

    Attributes:
        results: one a probe.
        run: the run folder, if there is one.
        manifest: of its store, if that is there.
        store: its store, likewise, with a training split.
        gone: why the store isn't there.
        trust: whether code that the files name may run, and hosts be asked.
    """

    results: list[FittedResult]
    run: Path | None
    manifest: Manifest | None
    store: Store | None
    gone: str
    trust: bool

    @classmethod
    def of(cls, run: Any, trust: bool) -> "FittedRun":
        """Of a run folder, or of results.

        Raises:
            IceprobeError: if they aren't those of one run on a frozen backbone, or k-NN's training tokens
                are gone.
        """
        results = _results_of(run)
        first, gone = results[0], ""
        manifest: Manifest | None = None
        store: Store | None = None
        try:
            manifest = manifest_of(first, trust=trust)
            store = _whole_store(first, trust)
        except IceprobeError as error:
            gone = str(error)
        if store is not None and "train" not in store.splits:
            gone, store = f"{store.path} has no split 'train'", None
        found = cls(results, first.run, manifest, store, gone, trust)
        if store is not None:
            found = replace(found, store=store.grouped_by(found.group))
        if store is None and (voting := [one.label for one in results if one.method == "knn"]):
            raise IceprobeError(
                f"{voting[0]} votes from the training tokens of the run, which aren't there ({gone}): "
                "extract them again"
            )
        return found

    @property
    def task(self) -> Task:
        return get_task(self.results[0].task)

    @property
    def several_layers(self) -> bool:
        """Whether its probes read several layers side by side."""
        return bool(self.results[0].store.layers)

    @property
    def stored_task(self) -> str:
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

    @property
    def group(self) -> str | None:
        """Name of the column whose equal values are examples that aren't independent."""
        found = self.results[0].group or self._asked("groups")  # which results didn't have at first
        return found if isinstance(found, str) else None

    @property
    def predicts(self) -> Predicts:
        """What another set has to fit."""
        first, stored = self.results[0], self.manifest
        units = first.units or (stored.dataset.units if stored else [])
        backbone = stored.backbone if stored else None
        what = self.stored_task, self.classes, units, first.backbone, backbone
        return Predicts(*what, self.group, stored.shape.dim if stored else None)

    @property
    def run_seed(self) -> int | None:
        """The seed of its draws; None where that isn't known."""
        for one in self.results:
            if isinstance(seed := one.training.get("run_seed"), int):
                return seed
        seed = self._asked("run_seed")
        return seed if isinstance(seed, int) else None

    def _asked(self, name: str) -> Any:
        """A setting that the run was asked for; None where that isn't known."""
        if self.run is None or not (self.run / REQUEST).is_file():
            return None
        return parse_json((self.run / REQUEST).read_bytes()).get(name)

    def backbone(self, given: Any) -> "Backbone":
        """Its backbone: the one ``given``, or else loaded by its spec, and checked to be the same.

        Raises:
            IceprobeError: if it runs code that isn't trusted, can't be loaded, or has changed.
        """
        if given is not None:
            backbone = as_backbone(given)
            if self.manifest is not None:
                if self.several_layers:
                    backbone = backbone.at_layers(self.manifest.backbone.identity["layer"])
                same_backbone(backbone, self.manifest.backbone)
            return backbone
        if self.manifest is not None:
            place = self.store.path if self.store else self.run
            return recorded_backbone(self.manifest.backbone, place, trust=self.trust)
        spec = self.results[0].backbone
        record = BackboneRecord(
            spec=spec, name="", paradigm="", pooled_class=False, identity={}, preprocessing={}
        )
        return load_recorded(spec, record, self.run, self.trust)


def _whole_store(result: FittedResult, trust: bool) -> Store:
    """Its store; what `fit` returns of a low-shot run has only the images of a draw open."""
    if result.shots is None and result.fraction is None:
        return store_of(result, trust=trust)
    return stored_for(result, trust=trust)


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
        place = "" if first.run is None else f", {_run_of_test(first.run)}"
        raise IceprobeError(f"{first.run or 'it'} is a test of a run: name the run itself{place}")
    if any(one.adaptation is not None for one in results):
        raise IceprobeError(
            f"{first.run or first.label} is of an adapted backbone, which is read on another data set only "
            "as its own test split: adapt with that set, or export it and predict"
        )
    if any(one.folds is not None for one in results):
        raise IceprobeError(
            f"{first.run or first.label} is of protocol folds, which keeps no probe fitted on all of train: "
            "fit it with protocol=heldout, then read that run"
        )
    return results


def _run_of_test(folder: Path) -> Path:
    return folder.parents[1] if folder.parent.name == TESTS else folder.parents[2]
