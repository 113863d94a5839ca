"""Whether another set fits a run: its targets, names, units and tokens, before anything is made or fitted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec, unknown
from iceprobe.core.text import shown
from iceprobe.datasets.base import Dataset
from iceprobe.datasets.matching import Matching, matched
from iceprobe.probes import parse_probe
from iceprobe.probes.inputs import input_of
from iceprobe.store.examples import example_noun
from iceprobe.store.format import BackboneRecord, DatasetRecord, Manifest
from iceprobe.store.reader import Store
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import GIVEN


@dataclass(frozen=True)
class Predicts:
    """What a run predicts, and from which tokens.

    Attributes:
        task: name of the task of its targets.
        classes: names of the outputs.
        units: of the outputs, where they are known.
        spec: of its backbone.
        backbone: the record of that, where it is known.
        group: name of its column of groups.
        dim: D of its tokens, where it is known.
    """

    task: str
    classes: Sequence[str]
    units: Sequence[str]
    spec: str
    backbone: BackboneRecord | None = None
    group: str | None = None
    dim: int | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """What a run on this store predicts."""
        data, backbone = manifest.dataset, manifest.backbone
        what = data.task, data.classes, data.units, backbone.spec, backbone, data.group
        return cls(*what, manifest.shape.dim)

    def match(self, theirs: Dataset | DatasetRecord, targets: NDArray[Any]) -> Matching:
        """How the outputs are read on a set, some of whose ``targets`` are to be read.

        Raises:
            IceprobeError: for other targets than the run's, a name that the run doesn't predict, or
                numbers in another unit.
        """
        if theirs.task != self.task:
            raise IceprobeError(
                f"{theirs.spec} has targets of {theirs.task}, and the run predicts those of {self.task}: "
                f"give the set of the same targets, or read it with task={self.task}"
            )
        task = get_task(self.task)
        noun = {"classes": "class"}.get(task.outputs, task.outputs.removesuffix("s"))
        occurring = task.occurring(targets)
        what = f"{noun} of {theirs.spec}:"
        matching = matched(self.classes, theirs.classes, occurring, theirs.maps, what)
        for name, ours, unit in self._units(matching, theirs):
            if ours and unit and ours != unit:
                raise IceprobeError(
                    f"{theirs.spec} has {shown(name)} in {unit}, and the run predicts it in {ours}: give its "
                    f"numbers in {ours}, with unit={ours}"
                )
        return matching

    def lines(self, matching: Matching, theirs: DatasetRecord) -> list[str]:
        """What is assumed about units that aren't known."""
        return [
            f"the unit of {shown(name)} isn't known of {'the run' if unit else theirs.name}: it is taken to be "
            + (ours or unit or "that of the run")
            for name, ours, unit in self._units(matching, theirs)
            if not (ours and unit)
        ]

    def _units(
        self, matching: Matching, theirs: Dataset | DatasetRecord
    ) -> Iterator[tuple[str, str, str]]:
        """Of each number in both its name, the run's unit and the set's; ``""`` where that isn't known."""
        if not any(metric.unit_of_target for metric in get_task(self.task).metrics.values()):
            return
        ours, units = ([*one, *[""] * len(self.classes)] for one in (self.units, theirs.units))
        for number, place in enumerate(matching.targets.tolist()):
            if place >= 0:
                yield matching.names[place], ours[place], units[number]

    def given_alike(self, store: Store) -> bool:
        """Whether both have tokens that were given, which only the names of their encoders tell apart."""
        return {parse_spec(self.spec).kind, parse_spec(store.manifest.backbone.spec).kind} == {
            GIVEN
        }

    def check_dataset(self, dataset: Dataset, split: str) -> None:
        """Refuse a data set that the run can't be read on.

        Raises:
            IceprobeError: as :meth:`match`, or if it hasn't that split.
        """
        if split not in dataset.splits:
            raise IceprobeError(unknown(f"split of {dataset.name}", split, dataset.splits))
        self.match(dataset, dataset.splits[split].targets)

    def check_store(self, store: Store, split: str, probes: Sequence[str] = ()) -> None:
        """The same of a feature store, whose tokens ``probes`` have to find there.

        Raises:
            IceprobeError: as :meth:`match`; for tokens of another backbone or other layers, for a probe of
                patches where there are none, or an empty split.
        """
        self.check_tokens(store)
        self.match(store.manifest.dataset, store[split].targets)
        if not len(store[split]):
            raise IceprobeError(
                f"split {split!r} of {store.path} has no {example_noun(store.manifest)} that could be read"
            )
        store.check_targets(split)
        for text in probes:
            if input_of(store.shape, parse_probe(text)).of_tokens and not store.has_patches:
                raise IceprobeError(
                    f"{text} reads patch tokens and store {store.path} has only pooled vectors: "
                    "extract it with patches"
                )

    def check_tokens(self, store: Store) -> None:
        """Refuse tokens of another backbone, or of other layers.

        Raises:
            IceprobeError: naming both.
        """
        theirs, ours = store.manifest.backbone, self.backbone
        if self.dim is not None and store.dim != self.dim:
            raise IceprobeError(
                f"{store.manifest.dataset.spec} has tokens of width {store.dim}, and the run's have "
                f"{self.dim}: give tokens of its own encoder"
            )
        if ours is None or self.given_alike(store):
            same = theirs.spec == self.spec
        else:
            same = (ours.identity, ours.preprocessing) == (theirs.identity, theirs.preprocessing)
        if not same:
            remedy = "give the images' spec in its place"
            if self.given_alike(store):
                remedy = (
                    f"say backbone={parse_spec(self.spec).name} of them if one encoder made both"
                )
            raise IceprobeError(
                f"store {store.path or store.identity[:16]} has tokens of {theirs.spec!r}, which isn't the "
                f"backbone of the run, {self.spec!r}: {remedy}"
            )
